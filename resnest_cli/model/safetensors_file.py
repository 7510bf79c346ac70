"""Safetensors files: the checked header, and writing the same bytes for the same input. No torch.

Source: the format's description, https://github.com/huggingface/safetensors, whose library checks
types, names, shapes and offsets of every file here as well. Deviations: headers over 8 MiB and keys
that stand twice are refused, every error says what to do, and files are written here, since the
library's order of metadata changes from run to run.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from safetensors import SafetensorError, safe_open

from resnest_cli.errors import CheckpointError
from resnest_cli.files import atomic_file, writing
from resnest_cli.model.state_dict import AGAIN, Shape
from resnest_cli.text import quoted

if TYPE_CHECKING:
    from torch import Tensor

# Bytes; resnest269e has 0.3 MB, names of 21,000 classes 1 MB, two million training photos 6 MB.
MAX_HEADER = 8 << 20


class Header(NamedTuple):
    """Metadata of a safetensors file, and the shape of every tensor by its name in the file."""

    metadata: dict[str, str]
    shapes: dict[str, Shape]


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

    Raises:
        ValueError: the header would be longer than `MAX_HEADER`.
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


def rewrite_metadata(path: Path, changes: Mapping[str, str]) -> None:
    """Changes the metadata of a file, whole or not at all; the tensors' bytes are copied."""
    try:
        with writing(path, CheckpointError), path.open("rb") as source, atomic_file(path) as target:
            length = int.from_bytes(source.read(8), "little")
            header = json.loads(source.read(length).decode("utf-8"))
            header["__metadata__"] = {**(header.get("__metadata__") or {}), **changes}
            target.write(_encoded(header))
            shutil.copyfileobj(source, target)
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}.") from error
