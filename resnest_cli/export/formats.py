"""The network as a file: .onnx or .pt2, self-contained, and what it says about itself.

.onnx: float32, from the same graph builder as the CPU engine. One input `photos`, float32 (batch,
channels, height, width), all but the channels free; outputs `features`, float32 (batch,
num_features), pooled before the classifier, and `logits`, float32 (batch, num_classes), as the
network gives them: probabilities are softmax(logits / temperature), with the metadata's temperature
(1 where there is none); sigmoid(logits / temperature) where the metadata's `activation` says so,
whose `thresholds` select labels. So a new temperature needs no new graph, and probabilities come
out as `predict` rounds them.

.xml and .bin, for OpenVINO: made of the .onnx, see `openvino`.

.pt2, for torch.export.load: ATen operators, the same input, and logits. Batch, height and width are
free. What the file says about itself is the text `resnest.json` in it: one JSON object of texts,
the keys and values of an .onnx file's metadata.

    files = {"resnest.json": ""}
    program = torch.export.load("model.pt2", extra_files=files).module()
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resnest_cli import __version__
from resnest_cli.errors import CheckpointError, EngineError, UsageError
from resnest_cli.images.batches import Float32
from resnest_cli.model import hashes
from resnest_cli.model.checkpoint_header import CheckpointInfo, metadata_of, read_info
from resnest_cli.model.loading import Model
from resnest_cli.model.variants import VARIANTS

if TYPE_CHECKING:
    from onnx import ModelProto

    from resnest_cli.model.resnest import ResNeSt

DEFAULT_OPSET = 17  # read by ONNX Runtime since 1.12 (2022)
NOTE = "resnest.json"  # in a .pt2 file
_LONGEST = 1 << 20  # characters of a text in an .onnx file


def is_published(model: Model) -> bool:
    """Whether the weights are the published ones, or the bundled ones, known by their hash."""
    table = VARIANTS.get(model.name)
    if table is None or table.weights is None:
        return False
    return hashes.known_sha256(model.path).startswith(table.weights.hash_prefix)


def described(model: Model, versions: Mapping[str, str], **facts: Any) -> CheckpointInfo:
    """All that is known of a model, with the names and ids of its classes written out.

    `versions` are those of the libraries that write the file, `facts` are about the export, under
    `provenance.export`. What the model's own file says of its metrics, its training photos and its
    origin is kept; published weights get their published accuracy.
    """
    known = read_info(model.path)
    metrics, provenance = dict(known.metrics), dict(known.provenance)
    if is_published(model) and not metrics:
        table = model.variant
        metrics = {"top1": (table.top1 or 0) / 100}
        metrics |= {"top5": table.top5 / 100} if table.top5 else {}
        provenance |= {"data": table.dataset, "published": True}
    provenance.pop("class_ids", None)  # a config.json may name other classes
    if model.class_ids:
        provenance["class_ids"] = list(model.class_ids)
    provenance["weights_sha256"] = hashes.known_sha256(model.path)
    if facts:
        provenance["export"] = provenance.get("export", {}) | facts
    return CheckpointInfo(
        variant=replace(model.variant, preprocessing=model.preprocessing),
        class_names=model.class_names,
        metrics=metrics,
        provenance=provenance,
        versions={"resnest-cli": __version__, **versions},
        temperature=model.temperature,
        thresholds=model.thresholds,
        trained_on=known.trained_on,
        unknown=known.unknown,
        num_classes=model.num_classes,
        in_channels=model.in_channels,
    )


def texts_of(info: CheckpointInfo) -> dict[str, str]:
    """The texts that a file carries, all filled in; `read_info` reads those of an .onnx."""
    metadata = metadata_of(info)
    del metadata["format"]  # of a checkpoint's tensors
    return metadata | {"num_classes": str(info.num_classes), "in_channels": str(info.in_channels)}


def check_opset(opset: int) -> None:
    """Raises a UsageError for an opset older than the graph's operators, or newer than the package
    onnx, and an EngineError where that cannot be loaded.
    """
    try:
        from onnx.defs import onnx_opset_version

        from resnest_cli.inference.onnx_graph import OLDEST_OPSET
    except Exception as error:  # missing, or a library that it needs
        raise EngineError(
            f"the package onnx cannot be loaded: {error}. Run: pip install onnx"
        ) from error
    if not OLDEST_OPSET <= opset <= onnx_opset_version():
        raise UsageError(
            f"--opset {opset}: use {OLDEST_OPSET} to {onnx_opset_version()}, the newest that the "
            "package onnx knows here."
        )


def onnx_model(model: Model, opset: int) -> "ModelProto":
    """The network with its weights inside, checked by the package onnx; without metadata."""
    from onnx import checker

    from resnest_cli.inference.onnx_engine import EXPORTED
    from resnest_cli.inference.onnx_graph import build_graph

    tensors = model.arrays(checked=True)
    proto = build_graph(model.variant, tensors, EXPORTED, opset=opset).standalone()
    for node in proto.graph.node:
        node.name = node.output[0]  # tools name what they do not like by it
    checker.check_model(proto, full_check=True)
    return proto


def onnx_bytes(proto: "ModelProto", info: CheckpointInfo) -> bytes:
    """The file's bytes, with what it says about itself."""
    assert info.variant
    proto.producer_name, proto.producer_version = "resnest-cli", __version__
    proto.doc_string = (
        f"{info.variant.id}: photos -> features, logits of {info.num_classes} classes. Classes, "
        "preprocessing and temperature are in metadata_props, as JSON."
        + " Probabilities are sigmoids, with `thresholds` there."
        * bool(info.thresholds)
    )
    del proto.metadata_props[:]
    for key, value in texts_of(info).items():
        if len(value) > _LONGEST:
            raise CheckpointError(f"{key} has {len(value):,} characters. Shorten it.")
        proto.metadata_props.add(key=key, value=value)
    data: bytes = proto.SerializeToString()
    return data


def pt2_bytes(network: "ResNeSt", info: CheckpointInfo) -> bytes:
    """The file's bytes, from a network in evaluation mode on the CPU."""
    import torch
    from torch.export import Dim

    assert info.preprocessing
    size = info.preprocessing.size
    example = torch.zeros(2, network.in_channels, size, size)  # 1 would count as fixed
    shapes = {0: Dim("batch", min=1), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=(shapes,))
    file = io.BytesIO()
    texts = json.dumps(texts_of(info), ensure_ascii=False, sort_keys=True)
    torch.export.save(program, file, extra_files={NOTE: texts})
    return file.getvalue()


def pt2_runner(data: bytes) -> Callable[[Float32], Float32]:
    """What runs the file: photos (N, channels, H, W) -> logits (N, classes)."""
    import torch

    program = torch.export.load(io.BytesIO(data)).module()

    def run(photos: Float32) -> Float32:
        with torch.inference_mode():
            logits: Float32 = program(torch.from_numpy(photos)).numpy()
        return logits

    return run
