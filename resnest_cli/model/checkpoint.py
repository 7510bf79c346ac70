"""Reading and writing weights together with their classes and preprocessing.

    read_info(path)          what the file says about itself, without torch
    load(path)               -> Checkpoint: the record, and every tensor checked
    read_arrays(path)        the tensors as numpy arrays, without torch
    instantiate(checkpoint)  -> the network, ready to predict
    save(path, network, CheckpointInfo(variant=..., class_names=...))

`save` writes our own format, described in `checkpoint_header`: safetensors, no pickle, state-dict
keys as timm has them, so that timm loads the file too. `load` also takes bare weights in
safetensors and what `torch.save` wrote; see `pickles` and `state_dict`. Importing this module does
not import torch.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
from safetensors import SafetensorError, safe_open

from resnest_cli import __version__
from resnest_cli.errors import CheckpointError, need
from resnest_cli.files import atomic_file, reading, writing
from resnest_cli.model.checkpoint_header import (
    CheckpointInfo,
    Header,
    bare_info,
    file_kind,
    info_from_header,
    metadata_of,
    read_header,
    write_container,
)
from resnest_cli.model.pickles import read_pickle, read_pickled_arrays, unwrap
from resnest_cli.model.state_dict import (
    AGAIN,
    COUNTER,
    Shape,
    check_shapes,
    clean_names,
    convert,
    expected_tensors,
    fits,
    infer_variant,
    no_single_variant,
)
from resnest_cli.model.variants import Variant, find_variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from resnest_cli.model.resnest import ResNeSt

_NUMPY_FLOATS = {"F16", "F32", "F64"}  # numpy has no bfloat16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded file of weights.

    `info` has variant, preprocessing, num_classes and in_channels settled. `tensors` is the whole
    state dict of the network, in its order: float32 (counters int64), finite, contiguous, on the
    CPU, each with memory of its own.
    """

    info: CheckpointInfo
    tensors: "dict[str, Tensor]"


def load(path: Path | str, *, variant: Variant | None = None) -> Checkpoint:
    """Reads and checks a file of weights: our own checkpoint, bare safetensors or torch.save's.

    A `variant` that is given is expected of the file. Bare weights of a published variant need none
    unless several fit. The moving average of the weights wins where a file has both, see `pickles`.
    A network without a classifier has 0 classes.

    Raises:
        NewerFormatError: written by a later version of this program.
        CheckpointError: unreadable, damaged, possibly malicious, or not what was expected; names
            the first tensor that does not fit.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind == "onnx":
        raise CheckpointError(
            f"{path} is an exported network: ONNX Runtime runs it, but its weights cannot be taken "
            "out again. Give the checkpoint that it was exported from."
        )
    need("torch", f"reading {path}")
    if kind == "pickle":
        info, tensors = read_state_dict(path)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    else:
        header = read_header(path)
        names = clean_names(path, header.shapes).names
        shapes = {clean: header.shapes[raw] for clean, raw in names.items()}
        info, tensors = info_from_header(path, header), {}
    settled = _settled_variant(path, info, shapes, variant)
    info = replace(info, variant=settled)
    expected = _expected(path, info, settled, shapes)
    if not tensors:  # views of the mapped file, copied below
        damage = (SafetensorError, RuntimeError, ValueError, AttributeError)
        with (
            reading(path, CheckpointError, damage=damage, then=AGAIN),
            safe_open(path, framework="pt") as file,
        ):
            tensors = {clean: file.get_tensor(raw) for clean, raw in names.items()}
    return Checkpoint(info, convert(path, tensors, expected, copy=True))


def read_state_dict(path: Path) -> "tuple[CheckpointInfo, dict[str, Tensor]]":
    """What a file of torch.save's holds: the record, and the tensors as they are."""
    tensors, class_names, notes, arch = unwrap(path, read_pickle(path))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    info = bare_info("pickle", shapes)
    named = find_variant(arch.partition(".")[0])
    if info.variant is None and named in infer_variant(shapes):  # several fit: the file says which
        info = replace(info, variant=named)
        notes = (*notes, f"{arch} by its own word")
    return replace(info, class_names=class_names, notes=notes), tensors


def _settled_variant(
    path: Path, info: CheckpointInfo, shapes: Mapping[str, Shape], asked: Variant | None
) -> Variant:
    found = (info.variant,) if info.variant and info.format == "resnest" else infer_variant(shapes)
    if asked is None:
        if info.variant is None:
            raise no_single_variant(path, found)
        return info.variant
    if info.format == "resnest" and found[0].architecture == asked.architecture:
        return found[0]
    if info.format != "resnest" and (not found or fits(asked, shapes)):
        return asked
    raise CheckpointError(
        f"{path} holds weights of {' or '.join(variant.title for variant in found)}; {asked.title} "
        "was expected. Leave the model to the file, or give other weights."
    )


def _expected(
    path: Path | str, info: CheckpointInfo, variant: Variant, shapes: Mapping[str, Shape]
) -> "dict[str, Tensor]":
    """The network's tensors, on the meta device, once the file's are known to have their shapes."""
    classes, channels = info.num_classes, info.in_channels
    if classes is None or not channels:
        name, what = "fc.weight", "classes"
        if classes is not None:
            name, what = "conv1.0.weight", "input channels"
        raise CheckpointError(
            f"{path} lacks a usable {name}, which gives the number of {what}. Give a file of all "
            "the network's weights."
        )
    expected = expected_tensors(path, variant, classes, channels, len(shapes))
    check_shapes(path, shapes, expected)
    return expected


def read_arrays(path: Path) -> "dict[str, NDArray[np.float32]] | None":
    """Cleaned name -> float32 tensor, finite, without batch norm's counters; without torch.

    Safetensors and the plain kind of torch.save's files are read; None for all others and for
    whatever is wrong with a file, which `load` looks at.
    """
    import numpy as np

    try:
        safe = file_kind(path) == "safetensors"
        raw = _numpy_tensors(path) if safe else read_pickled_arrays(path)
        if raw is None:
            return None
        arrays = {}
        shapes = {name: array.shape for name, array in raw.items()}
        for clean, name in clean_names(path, shapes).names.items():
            array = raw.pop(name)
            if clean.endswith(COUNTER):
                continue
            with np.errstate(over="ignore"):  # shows as infinite below
                value = array.astype(np.float32, copy=False)
            if array.dtype.kind != "f" or not np.isfinite(value).all():
                return None
            arrays[clean] = value
    except (CheckpointError, OSError):
        return None
    return arrays


def _numpy_tensors(path: Path) -> "dict[str, NDArray[Any]] | None":
    names = read_header(path).shapes
    try:
        with safe_open(path, framework="numpy") as file:
            kinds = {file.get_slice(name).get_dtype() for name in names if COUNTER not in name}
            if kinds <= _NUMPY_FLOATS:
                return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, ValueError, TypeError):
        pass
    return None


def instantiate(checkpoint: Checkpoint) -> "ResNeSt":
    """The network in evaluation mode, on the CPU; its tensors are the checkpoint's, not copies."""
    from resnest_cli.model.resnest import build

    info = checkpoint.info
    assert info.variant  # load settles these
    assert info.num_classes is not None
    assert info.in_channels
    network = build(
        info.variant, num_classes=info.num_classes, in_channels=info.in_channels, init=False
    )
    network.load_state_dict(checkpoint.tensors, strict=True, assign=True)
    return network.eval()


def save(
    path: Path | str, weights: "nn.Module | Mapping[str, Tensor]", info: CheckpointInfo
) -> CheckpointInfo:
    """Writes a checkpoint of our format and returns what `read_info` will say of it.

    The file appears whole or not at all, replaces one of that name, and has the same bytes for the
    same input. The folder must exist.

    Raises:
        CheckpointError: the weights do not fit the variant, are not finite, or do not match the
            class names in number; or the file cannot be written.
    """
    import torch

    path = Path(path)
    state = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    source = f"the network to be saved as {path}"
    tensors = unwrap(source, dict(state)).tensors
    shapes: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    versions = {
        "python": platform.python_version(),
        "resnest-cli": __version__,
        "safetensors": safetensors.__version__,
        "torch": str(torch.__version__),
    }
    metadata = metadata_of(replace(info, versions=versions))
    found = bare_info("resnest", shapes)
    classes = found.num_classes
    if classes == 0:
        raise CheckpointError(f"{source} has no classifier. Give weights that have one.")
    if info.class_names is not None and classes is not None and len(info.class_names) != classes:
        raise CheckpointError(
            f"{source} has {classes} classes, but {len(info.class_names)} class names are given."
        )
    assert info.variant is not None  # metadata_of has seen it
    expected = _expected(source, found, info.variant, shapes)
    known = info_from_header(
        path, Header(metadata, shapes)
    )  # what could not be read is not written
    tensors = convert(source, tensors, expected, copy=False)
    with writing(path, CheckpointError), atomic_file(path) as file:
        try:
            write_container(file, metadata, tensors)
        except ValueError as error:
            raise CheckpointError(
                f"{path} was not written: class names, metrics and provenance are too long: "
                f"{error} Shorten them."
            ) from error
    return replace(known, tensors=len(tensors))
