"""What `resnest export` does: a model -> a file, compared with the model.

Everything is made in memory and checked there; only then `Exported.write` gives it a name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.export import ExportJob, formats, parity
from resnest_cli.files import atomic_file, writing
from resnest_cli.images.batches import Float32
from resnest_cli.model.checkpoint_header import SIGMOID
from resnest_cli.model.loading import Model
from resnest_cli.progress import Progress, silent

if TYPE_CHECKING:
    from onnx import ModelProto

    from resnest_cli.model.checkpoint_header import CheckpointInfo

CHECK_AT_MOST = 1000  # photos of a folder
NOISE = "random inputs"


@dataclass(slots=True)
class Exported:
    """A file that has not been written yet: its bytes, and what was found out about it."""

    data: bytes
    summary: dict[str, Any]
    broken: bool = False  # it says something else than the model
    unreadable: dict[str, str] = field(default_factory=dict)  # photo -> why
    notes: list[str] = field(default_factory=list)
    weights: bytes | None = None  # of an .xml, which stand in a .bin beside it

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        if self.weights is not None:
            beside = path.with_suffix(".bin")
            with writing(path):
                path.unlink(missing_ok=True)  # an older one does not fit the new weights
            with writing(beside), atomic_file(beside) as file:
                file.write(self.weights)
        with writing(path), atomic_file(path) as file:
            file.write(self.data)

    def refusal(self, path: Path) -> ResnestError:
        """The error of a broken one."""
        return ResnestError(
            f"{path} was not written: its probabilities differ from the model's by more than "
            f"{parity.TOLERANCE:g}. Report it, with the versions of onnx, onnxruntime and torch."
        )


def check_source(model: Model, job: ExportJob | None = None) -> None:
    """Whether this model can be exported; before anything slow begins."""
    if model.exported:
        raise UsageError(
            f"{model.name} is an exported network. Give the checkpoint that it was exported from."
        )
    model.need_classifier()
    if model.crop_mode != "center":
        raise UsageError(
            f"{model.config} asks for the crop mode {model.crop_mode}, which no file of ours can "
            "hold. Copy the model, and write center there; then give --crop-mode to `predict`."
        )
    if job and (job.check or job.calibrate):
        _ = model.grey  # raises where photos do not fit


def export(model: Model, job: ExportJob, progress: Progress = silent) -> Exported:
    """Makes the .onnx or .pt2 file, and compares it with the model.

    Raises:
        UsageError: an opset or a folder that does not serve.
        ResnestError: the weights cannot be used, the file cannot be run, no photo can be read.
    """
    check_source(model, job)
    for folder in filter(None, (job.check, job.calibrate)):
        parity.photos_of(folder, several=model.thresholds is not None)  # raises before the work
    if job.output.suffix.lower() == ".pt2":
        return _pt2(model, job, progress)
    return _onnx(model, job, progress)


def _pt2(model: Model, job: ExportJob, progress: Progress) -> Exported:
    import torch

    info = formats.described(model, {"torch": str(torch.__version__)}, precision="float32")
    data = formats.pt2_bytes(model.network(), info)
    found = Exported(data, _summary(model, job, data, outputs=["logits"]))
    _compare(model, job, found, formats.pt2_runner(data), progress)
    return found


def _onnx(model: Model, job: ExportJob, progress: Progress) -> Exported:
    opset = formats.DEFAULT_OPSET if job.opset is None else job.opset
    formats.check_opset(opset)
    import onnx

    from resnest_cli.inference import onnx_engine

    proto = formats.onnx_model(model, opset)
    versions = {"onnx": onnx.__version__}
    info = formats.described(model, versions, precision="float32", opset=opset)
    data = formats.onnx_bytes(proto, info)
    outputs = list(onnx_engine.EXPORTED)
    found = Exported(data, _summary(model, job, data, opset=opset, outputs=outputs))
    if job.calibrate is not None:
        _to_int8(model, job, found, proto, info, progress)
    if job.output.suffix.lower() == ".xml":
        run = _to_openvino(job, found, info)
    else:
        if job.fp16:
            _to_float16(found, proto, info)
        run = onnx_engine.open_exported(found.data, found.summary["precision"]).logits
    _compare(model, job, found, run, progress)
    if found.data is not data and job.calibrate is None and not found.broken:
        _beside_float32(model, found, data, run)
    return found


def _to_float16(found: Exported, proto: "ModelProto", info: "CheckpointInfo") -> None:
    """Puts the network in 16 bits in the place of the other."""
    from resnest_cli.export.float16 import halved

    found.data = formats.onnx_bytes(halved(proto), _in_16_bits(found, info))
    found.summary |= {"precision": "float16", "bytes": len(found.data)}


def _to_openvino(job: ExportJob, found: Exported, info: "CheckpointInfo") -> parity.Run:
    """Puts OpenVINO's files in the place of the .onnx; what runs them."""
    from resnest_cli.export import openvino

    if job.fp16:
        info = _in_16_bits(found, info)
    texts = formats.texts_of(info)
    made = openvino.representation(found.data, texts, fp16=job.fp16)
    found.data, found.weights = made.xml, made.weights
    del found.summary["opset"]
    found.summary |= {
        "precision": "float16" if job.fp16 else "float32",
        "openvino": made.version,
        "bytes": len(made.xml) + len(made.weights),
    }
    return openvino.runner(made)


def _in_16_bits(found: Exported, info: "CheckpointInfo") -> "CheckpointInfo":
    """What a file in 16 bits says about itself."""
    if info.unknown is not None:
        found.notes.append(
            "The 16-bit file does not keep what --unknown needs: its thresholds are of float32."
        )
    how = info.provenance["export"] | {"precision": "float16"}
    return replace(info, provenance={**info.provenance, "export": how}, unknown=None)


def _beside_float32(model: Model, found: Exported, before: bytes, run: parity.Run) -> None:
    """Measures the file beside the .onnx in float32, which ONNX Runtime runs."""
    from resnest_cli.cpu import usable_cores
    from resnest_cli.export import int8
    from resnest_cli.inference.onnx_engine import open_exported

    runs = {"float32": open_exported(before).logits, "this": run}
    found.summary["beside_float32"] = {
        "bytes_before": len(before),
        "bytes_after": found.summary["bytes"],
        "cores": usable_cores(),
        "speed": int8.speeds(runs, parity.noise(model)),
    }


def _summary(model: Model, job: ExportJob, data: bytes, **more: Any) -> dict[str, Any]:
    return {
        "file": str(job.output),
        "model": model.name,
        "variant": model.variant.id,
        "classes": model.num_classes,
        "activation": "softmax" if model.thresholds is None else SIGMOID,
        "precision": "float32",
        "bytes": len(data),
        **more,
        "parity": [],
    }


def _compare(
    model: Model, job: ExportJob, found: Exported, exported: parity.Run, progress: Progress
) -> None:
    """Fills in the parity with the model, and whether it is broken."""
    runs = _plain(model), exported
    results: list[dict[str, Any]] = []

    def add(on: str, result: parity.Agreement, unreadable: int = 0) -> None:
        # Noise and photos of other kinds lie beyond the ranges of a calibration; 16 bits round.
        exact = found.summary["precision"] == "float32"
        found.broken |= exact and result.difference > parity.TOLERANCE
        results.append({"on": on, **asdict(result), "unreadable": unreadable})
        del results[-1]["score"]

    if job.calibrate is None:
        add(NOISE, parity.compared([([], parity.noise(model))], *runs, model))
    if job.check is not None:
        every = parity.photos_of(job.check, several=model.thresholds is not None)
        chosen = parity.evenly(every, CHECK_AT_MOST)
        if len(chosen) < len(every):
            found.notes.append(
                f"{len(chosen):,} of the {len(every):,} photos of {job.check}, evenly chosen, were "
                "checked."
            )
        photos = _photos(model, chosen, found, progress)
        result = parity.compared(photos, *runs, model)
        if not result.photos:
            raise ResnestError(f"{job.check}: no photo in it can be read.")
        add(job.check, result, len(chosen) - result.photos)
    found.summary["parity"] = results


def _photos(
    model: Model, paths: Sequence[str], found: Exported, progress: Progress
) -> Iterator[tuple[list[str], Float32]]:
    """Batches of photos, as the model is fed; those that cannot be read are noted."""
    fed = model.preprocessing
    return parity.batches(paths, fed, found.unreadable, progress, grey=model.grey)


def _plain(model: Model) -> parity.Run:
    """The torch network as it was trained: nothing folded, nothing laid out in another way."""
    import numpy as np
    import torch

    network = model.network()

    def run(batch: Float32) -> Float32:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(batch)).numpy(), np.float32)

    return run


def _to_int8(
    model: Model, job: ExportJob, found: Exported, proto: "ModelProto", info: "CheckpointInfo",
    progress: Progress,
) -> None:  # fmt: skip
    """Puts the network in 8 bits in the place of the other, and measures what that changes."""
    import onnxruntime

    from resnest_cli.cpu import usable_cores
    from resnest_cli.export import int8
    from resnest_cli.inference.onnx_engine import open_exported

    assert job.calibrate is not None
    plan = int8.planned(job.calibrate, model, job.calibrate_photos)
    found.notes += plan.notes
    photos = _photos(model, plan.calibration, found, progress)
    small = int8.quantized(proto, (batch for _, batch in photos))
    used = len(plan.calibration) - len(found.unreadable)
    how = info.provenance["export"] | {"precision": "int8", "calibration_photos": used}
    versions = {**info.versions, "onnxruntime": onnxruntime.__version__}
    if info.unknown is not None:
        found.notes.append(
            "The 8-bit file does not keep what --unknown needs: its thresholds are of float32."
        )
    origin = {**info.provenance, "export": how}
    info = replace(info, provenance=origin, versions=versions, unknown=None)
    before, found.data = found.data, formats.onnx_bytes(small, info)
    made = {"float32": before, "int8": found.data}
    runs = {name: open_exported(data, name).logits for name, data in made.items()}
    photos = _photos(model, plan.held_out, found, progress)
    result = parity.compared(photos, runs["float32"], runs["int8"], model, plan.truth)
    if not result.photos:
        raise ResnestError("none of the photos kept apart from the calibration can be read.")
    score = "top1" if model.thresholds is None else "map"
    found.summary |= {
        "precision": "int8",
        "bytes": len(found.data),
        "int8": {
            "calibrated_on": used,
            "bytes_before": len(before),
            "bytes_after": len(found.data),
            "cores": usable_cores(),
            "speed": int8.speeds(runs, parity.noise(model)),
            "photos": result.photos,
            "agreement": result.agreement,
            "difference": result.difference,
            f"{score}_before": result.score and result.score[0],
            f"{score}_after": result.score and result.score[1],
        },
    }
