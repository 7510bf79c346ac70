"""What a file of weights says about itself, read without torch and without touching a tensor.

Our checkpoint is a safetensors file (https://github.com/huggingface/safetensors) whose
`__metadata__`, text to text, holds beside `format` ("pt", as other tools expect):

    format_version        "1", or "2" with `activation`: grows only when older programs would
                          misread the file
    minimum_resnest_cli   first version of this program that reads that format
    variant               id in the table of variants
    overrides             JSON object: architecture fields that differ from the table
    preprocessing         JSON object, see `variants.Preprocessing`
    class_names           JSON list of as many names as fc.weight has rows; absent when unknown
    temperature           number; probabilities are softmax(logits / temperature), or the
                          sigmoid's; absent: 1
    activation            "sigmoid": each class is a question of its own, since a photo may have
                          several labels; absent: the probabilities are the softmax's
    thresholds            with it: JSON list of a number in [0, 1] for each class; a photo has the
                          labels whose probability is at least that
    trained_on            JSON object {"photos", "hashes"}: which photos the network has learned
                          from, see `training_photos`; those of the weights that a fine-tuning began
                          with count, too, where they are known. Absent when unknown: of published
                          weights, of runs on tar shards, and of more than 2 million photos
    unknown               JSON object: how far photos are from those that it was trained on, see
                          `inference.unknown`; absent where nothing is kept
    metrics, provenance   JSON objects, free, nested up to 32 levels
    versions              JSON object: library -> version that wrote the file

Unknown keys are tolerated, so that later minor versions can add some.

The library checks types, names, shapes and offsets of every file; besides, headers over 8 MiB and
keys that stand twice are refused, and files are written here, since the library's order of metadata
changes from run to run.

An .onnx file of ours has the same keys but `format` in its `metadata_props`, and two more, which a
checkpoint has no need of:

    num_classes, in_channels    integers
"""

import contextlib
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from safetensors import SafetensorError, safe_open

from resnest_cli import __version__
from resnest_cli.errors import CheckpointError, NewerFormatError
from resnest_cli.files import atomic_file, writing
from resnest_cli.model.labels import KEYS, find_class_names
from resnest_cli.model.onnx_file import read_metadata
from resnest_cli.model.state_dict import AGAIN, Shape, clean_names, infer_variant
from resnest_cli.model.training_photos import TrainingPhotos
from resnest_cli.model.variants import (
    VARIANTS,
    Preprocessing,
    Variant,
    find_variant,
    preprocessing_from_dict,
    preprocessing_to_dict,
)
from resnest_cli.net import HEAD, misfit
from resnest_cli.text import quoted

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2  # the newest that is read; files of one label are 1
MINIMUM_RESNEST_CLI = "0.1.0"  # first version that reads FORMAT_VERSION
SIGMOID = "sigmoid"

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0

# Bytes; resnest269e has 0.3 MB, names of 21,000 classes 1 MB, two million training photos 6 MB.
MAX_HEADER = 8 << 20

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_DEEPEST = 32  # levels of JSON; what goes on with it is recursive


class Header(NamedTuple):
    """Metadata of a safetensors file, and the shape of every tensor by its name in the file."""

    metadata: dict[str, str]
    shapes: dict[str, Shape]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A file of weights without the weights.

    `format` is "resnest" for our own checkpoints, "safetensors" and "pickle" for bare weights,
    "onnx" for a network that `export` wrote. Of a pickle nothing is known before it is loaded.
    `variant` has the overrides applied and the file's preprocessing; the accuracies in it are those
    of the published weights, not of this file. It is None where a bare file fits no published
    variant, or several.

    `thresholds` are those of the classes where a photo may have several labels, whose probabilities
    are then sigmoids; None is softmax.

    To `save`, give `variant` and whatever is known of `class_names`, `temperature`, `thresholds`,
    `trained_on`, `unknown` (its text), `metrics` and `provenance` (JSON-ready); the rest is found
    out.

    `num_classes` is 0 for a network without a classifier, None where that is not known. `notes` say
    in words what was taken of a file that holds more, or other names, than a network's.
    """

    variant: Variant | None = None
    class_names: tuple[str, ...] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None
    trained_on: TrainingPhotos | None = None
    unknown: str | None = field(default=None, repr=False)
    num_classes: int | None = None
    in_channels: int | None = None
    format: Literal["resnest", "safetensors", "pickle", "onnx"] = "resnest"
    format_version: int | None = None
    tensors: int | None = None
    parameters: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def preprocessing(self) -> Preprocessing | None:
        """That of the variant."""
        return self.variant.preprocessing if self.variant else None


def file_kind(path: Path) -> Literal["safetensors", "pickle", "onnx"]:
    """How the file is to be read; its content decides, its extension only when that is damaged."""
    start, size = _start(path)
    suffix, zipped, brace = path.suffix.lower(), start.startswith(b"PK\x03\x04"), start[8:9] == b"{"
    if brace and int.from_bytes(start[:8], "little") <= size - 8:
        return "safetensors"
    if zipped and suffix == ".pt2":
        raise CheckpointError(
            f"{path} is a network for torch.export.load. Give the checkpoint that it was exported "
            "from, or export it as .onnx."
        )
    if zipped or re.match(rb"\x80[\x02-\x05]", start):
        return "pickle"
    if path.suffix in {".xml", ".bin"} and path.with_suffix(".xml").is_file():
        raise CheckpointError(
            f"{path} is a network for OpenVINO. Give the checkpoint that it was exported from, or "
            "export it as .onnx."
        )
    if wrong := misfit(start):
        raise CheckpointError(f"{path} cannot be used: {wrong}. {AGAIN}")
    if brace or suffix == ".safetensors":
        return "safetensors"
    if suffix == ".onnx":  # protobuf begins with nothing of its own
        return "onnx"
    raise CheckpointError(
        f"{path} is not a file of weights: neither safetensors nor written by torch.save."
    )


def _start(path: Path) -> tuple[bytes, int]:
    """The first bytes and the size of an existing regular file."""
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder. {_in_folder(path)}")
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is not a regular file. Give a file of weights.")
        with path.open("rb") as file:
            return file.read(HEAD), path.stat().st_size
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no system allows
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read: {reason}.") from error


def _in_folder(path: Path) -> str:
    """What to do with a folder, by what lies in it."""
    names = {entry.name for entry in path.iterdir()}
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        return (
            "It holds a distributed checkpoint of PyTorch (FSDP). Join it first: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pth"
        )
    if names & {"zero_to_fp32.py", "mp_rank_00_model_states.pt"}:
        return (
            "It holds a checkpoint of DeepSpeed. Join it first with the zero_to_fp32.py that lies "
            "beside it."
        )
    if "data.pkl" in names:
        return "It is an unpacked file of torch.save's: give the file itself, not its content."
    return "Give a file of weights in it."


def read_info(path: Path | str) -> CheckpointInfo:
    """What the file says about itself; reads its header only, in milliseconds, without torch.

    Raises:
        NewerFormatError: written by a later version of this program.
        CheckpointError: no such file, not a file of weights, or a damaged header.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind == "pickle":
        return CheckpointInfo(format="pickle")
    if kind == "onnx":
        return _info_of_onnx(path, read_metadata(path))
    return info_from_header(path, read_header(path))


def info_from_header(path: Path, header: Header) -> CheckpointInfo:
    """The record of a safetensors file, ours or bare."""
    names, notes = clean_names(path, header.shapes)
    shapes = {clean: header.shapes[raw] for clean, raw in names.items()}
    if "format_version" not in header.metadata:
        info = bare_info("safetensors", shapes)
        around = {}
        for key, text in header.metadata.items():
            with contextlib.suppress(ValueError, RecursionError):  # often it is JSON
                if key in KEYS:
                    around[key] = json.loads(text)
        class_names, more = find_class_names([around], info.num_classes or 0)
        return replace(info, class_names=class_names, notes=(*notes, *more))
    info = bare_info("resnest", shapes)
    if not info.num_classes or not info.in_channels:
        raise CheckpointError(f"{path} lacks fc.weight or conv1.0.weight. {AGAIN}")
    return _with_metadata(path, info, header.metadata, info.num_classes)


def _info_of_onnx(path: Path, metadata: Mapping[str, str]) -> CheckpointInfo:
    """The record of an .onnx file of ours."""
    sizes = {key: metadata.get(key, "") for key in ("num_classes", "in_channels")}
    lacking = [key for key in ("format_version", "variant", "preprocessing") if key not in metadata]
    lacking += [key for key, text in sizes.items() if not re.fullmatch(r"[1-9][0-9]{0,6}", text)]
    if lacking:
        raise CheckpointError(
            f"{path} does not say what is needed to predict: its metadata have no usable "
            f"{', '.join(lacking)}. Only .onnx files that `resnest export` wrote can be used."
        )
    classes, channels = map(int, sizes.values())
    info = CheckpointInfo(format="onnx", num_classes=classes, in_channels=channels)
    return _with_metadata(path, info, metadata, classes)


def _with_metadata(
    path: Path, info: CheckpointInfo, metadata: Mapping[str, str], num_classes: int
) -> CheckpointInfo:
    """The record with what our metadata say."""
    version = _format_version(path, metadata)
    try:
        return replace(info, format_version=version, **_described(metadata, num_classes))
    except (ValueError, RecursionError) as error:
        reason = str(error) or "nested too deep"
        reason = reason if len(reason) <= 200 else reason[:200] + "..."
        raise CheckpointError(
            f"{path} has a damaged header: {reason}.\nGet the file again, or write it again with "
            "this version of resnest-cli."
        ) from error


def bare_info(
    format_: Literal["resnest", "safetensors", "pickle"], shapes: Mapping[str, Shape]
) -> CheckpointInfo:
    """The record of bare weights, from cleaned names and shapes."""
    fitting = infer_variant(shapes)
    variant = fitting[0] if len(fitting) == 1 else None
    stem, classifier = (shapes.get(f"{name}.weight", ()) for name in ("conv1.0", "fc"))
    classes = (classifier[0] or None) if len(classifier) == 2 else None
    if "conv1.0.weight" in shapes and not any(name.startswith("fc.") for name in shapes):
        classes = 0  # a network without a classifier
    return CheckpointInfo(
        format=format_,
        variant=variant,
        num_classes=classes,
        in_channels=stem[1] if len(stem) == 4 else None,
        tensors=len(shapes),
        parameters=sum(prod(side) for name, side in shapes.items() if not name.endswith(_BUFFERS)),
    )


def _format_version(path: Path, metadata: Mapping[str, str]) -> int:
    text = metadata["format_version"]
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise CheckpointError(f"{path} has the bad format_version {quoted(text)}. {AGAIN}")
    if int(text) > FORMAT_VERSION:
        needed = metadata.get("minimum_resnest_cli", "")
        known = re.fullmatch(r"[0-9][0-9a-z.+]{0,30}", needed)
        wanted = f"resnest-cli>={needed}" if known else "resnest-cli"
        raise NewerFormatError(
            f"{path} needs {f'resnest-cli {needed}' if known else 'a later resnest-cli'} (its "
            f"format is {text}); this is {__version__}. Run: pip install --upgrade '{wanted}'"
        )
    return int(text)


def _described(metadata: Mapping[str, str], num_classes: int) -> dict[str, Any]:
    """The fields of CheckpointInfo that our metadata gives; ValueError says what is wrong."""
    id_ = metadata.get("variant", "")
    table = find_variant(id_)
    if table is None:
        raise ValueError(f"unknown variant {quoted(id_)}")
    variant = table.overridden(_json(metadata, "overrides", dict) or {})
    if (given := _json(metadata, "preprocessing", dict)) is not None:
        variant = replace(variant, preprocessing=preprocessing_from_dict(given))
    names = _json(metadata, "class_names", list)
    if names is not None and not set(map(type, names)) <= {str}:
        raise ValueError("class_names must be a list of texts")
    if names is not None and len(names) != num_classes:
        raise ValueError(f"class_names has {len(names)} names for {num_classes} classes")
    text, temperature = metadata.get("temperature", "1"), 0.0
    with contextlib.suppress(ValueError):
        temperature = float(text)
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        allowed = f"a number from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
        raise ValueError(f"temperature must be {allowed}, not {quoted(text)}")
    photos = _json(metadata, "trained_on", dict)
    return {
        "thresholds": _thresholds(metadata, num_classes),
        "variant": variant,
        "class_names": None if names is None else tuple(names),
        "temperature": temperature,
        "trained_on": None if photos is None else TrainingPhotos.from_record(photos),
        "unknown": metadata.get("unknown"),  # read where it is wanted
        **{key: _json(metadata, key, dict) or {} for key in ("metrics", "provenance", "versions")},
    }


def _thresholds(metadata: Mapping[str, str], num_classes: int) -> tuple[float, ...] | None:
    """Those of several labels; None of a softmax. ValueError says what is wrong."""
    activation, found = metadata.get("activation"), _json(metadata, "thresholds", list)
    if activation is None and found is None:
        return None
    if activation != SIGMOID:
        raise ValueError(f"activation must be {SIGMOID}, not {quoted(activation or '')}")
    numbers = [n for n in found or () if type(n) in {int, float} and 0 <= n <= 1]
    if found is None or len(numbers) != len(found) or len(found) != num_classes:
        raise ValueError(f"thresholds must be {num_classes} numbers from 0 to 1")
    return tuple(map(float, numbers))


def _json(metadata: Mapping[str, str], key: str, kind: type) -> Any:
    if key not in metadata:
        return None
    try:
        value = json.loads(metadata[key], object_pairs_hook=without_duplicates)
        # Refuses NaN, infinities and half surrogates, which no output could write.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key} is not valid JSON") from error
    if _depth(value) > _DEEPEST:
        raise ValueError(f"{key} is nested too deep")
    if not isinstance(value, kind):
        raise ValueError(f"{key} must be a JSON {'object' if kind is dict else 'list'}")  # noqa: TRY004
    return value


def _depth(value: Any) -> int:
    """Levels of objects and lists, counted no further than needed."""
    depth, level = 0, [value]
    while depth <= _DEEPEST and level:
        inner = [item for item in level if isinstance(item, dict | list)]
        depth += bool(inner)
        level = [v for one in inner for v in (one.values() if isinstance(one, dict) else one)]
    return depth


def metadata_of(info: CheckpointInfo) -> dict[str, str]:
    """The metadata of our format; equal records give equal text."""
    variant = info.variant
    if variant is None or variant.id not in VARIANTS:
        raise CheckpointError(
            "a checkpoint needs a variant of the table, with or without overrides"
        )
    table = VARIANTS[variant.id].architecture
    records = {
        "overrides": {k: v for k, v in variant.architecture.items() if v != table[k]},
        "preprocessing": preprocessing_to_dict(variant.preprocessing),
        "class_names": None if info.class_names is None else list(info.class_names),
        "metrics": dict(info.metrics),
        "provenance": dict(info.provenance),
        "versions": dict(info.versions),
        "trained_on": None if info.trained_on is None else info.trained_on.record,
        "thresholds": None if info.thresholds is None else list(info.thresholds),
    }
    metadata = {
        "format": "pt",
        "format_version": "1" if info.thresholds is None else str(FORMAT_VERSION),
        "minimum_resnest_cli": MINIMUM_RESNEST_CLI,
        "variant": variant.id,
    }
    if info.temperature != 1:
        metadata["temperature"] = repr(float(info.temperature))
    if info.thresholds is not None:
        metadata["activation"] = SIGMOID
    if info.unknown is not None:
        metadata["unknown"] = info.unknown
    for key, value in records.items():
        if value is not None:
            try:
                text = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False)
                text.encode("utf-8")
            except (TypeError, ValueError, RecursionError) as error:
                raise CheckpointError(f"{key} cannot be written as JSON: {error}") from error
            metadata[key] = text
    return metadata


# The safetensors file itself


def read_header(path: Path) -> Header:
    """Metadata and shapes, the whole layout checked; CheckpointError where it is damaged."""
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > path.stat().st_size - 8:
                raise CheckpointError(f"{path} is cut short or no safetensors file. {AGAIN}")
            if length > MAX_HEADER:
                raise CheckpointError(
                    f"{path} has a header of {length:,} bytes; {MAX_HEADER:,} are the most that "
                    "is read. It was not made by this program."
                )
            raw = file.read(length)
        with safe_open(path, framework="numpy"):
            pass  # the library checks types, names, shapes and offsets
        record = json.loads(raw.decode("utf-8"), object_pairs_hook=without_duplicates)
        metadata = record.pop("__metadata__", None) or {}
        shapes = {name: tuple(tensor["shape"]) for name, tensor in record.items()}
    # RecursionError: nested too deep. KeyError and the like: the file changed between two reads.
    except (SafetensorError, OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        reason = quoted(str(error), 200)[1:-1] or "nested too deep"
        raise CheckpointError(f"{path} has a damaged header ({reason}). {AGAIN}") from error
    return Header(metadata, shapes)


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(object_pairs_hook=...)`: ValueError when a key stands twice."""
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in record if names.count(name) > 1)
        raise ValueError(f"the key {quoted(twice)} stands twice")
    return record


def write_container(
    file: BinaryIO, metadata: Mapping[str, str], tensors: "Mapping[str, Tensor]"
) -> None:
    """The safetensors layout: length of the header, header, bytes of all tensors without gaps.

    Tensors are float or int, contiguous and on the CPU. Equal input gives equal bytes.
    """
    # The widest dtype first, so that every tensor is aligned; then names, as the library does.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        dtype = f"{'F' if tensor.is_floating_point() else 'I'}{tensor.element_size() * 8}"
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    file.write(_encoded(header))
    for name in names:
        array = tensors[name].numpy()
        file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).data)


def _encoded(header: Mapping[str, Any]) -> bytes:
    """Length and text of a header; ValueError where it is too long."""
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(f"the header fills {len(text):,} bytes; {MAX_HEADER:,} are the most.")
    return len(text).to_bytes(8, "little") + text


def set_temperature(
    path: Path, temperature: float, thresholds: Sequence[float] | None = None
) -> None:
    """Writes a temperature into the header of a checkpoint of ours, whole or not at all.

    The bytes of the tensors stay. `thresholds` of a model that has such, unless they are given,
    move with the temperature, so that the same labels are selected.
    """
    info = read_info(path)
    if info.format != "resnest":
        raise CheckpointError(
            f"{path} is not a checkpoint of ours, which could hold a temperature."
        )
    texts = {"temperature": repr(float(temperature))}
    if info.thresholds is not None:
        texts["thresholds"] = json.dumps(list(thresholds or thresholds_at(temperature, info)))
    set_metadata(path, **texts)


def thresholds_at(temperature: float, info: CheckpointInfo) -> tuple[float, ...]:
    """The thresholds that select the same labels at another temperature; none of one label."""
    by = info.temperature / temperature
    return tuple(_sigmoid_times(by, threshold) for threshold in info.thresholds or ())


def _sigmoid_times(by: float, probability: float) -> float:
    """The sigmoid of `by` times the logit of a probability; 0 and 1 stay, and by 1 all do."""
    if probability in {0, 1} or by == 1:
        return probability
    scaled = by * math.log(probability / (1 - probability))
    small = math.exp(-abs(scaled))
    return (1 if scaled >= 0 else small) / (1 + small)


def set_metadata(path: Path, **texts: str) -> None:
    """Writes entries into the header of a checkpoint of ours; as `set_temperature` does."""
    try:
        with writing(path, CheckpointError), path.open("rb") as source, atomic_file(path) as target:
            header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
            header["__metadata__"] |= texts
            target.write(_encoded(header))
            shutil.copyfileobj(source, target)
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}.") from error
