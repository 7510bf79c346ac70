"""Which kind of file holds the weights, and the header of the safetensors kind. No torch here.

Source: the format's description, https://github.com/huggingface/safetensors, whose library checks
types, names, shapes and offsets of every file here as well. Deviations: headers over 8 MiB and keys
that stand twice are refused, and every error says what to do.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from safetensors import SafetensorError, safe_open

from resnest_cli.errors import CheckpointError
from resnest_cli.model.state_dict import Shape, shortened

if TYPE_CHECKING:
    from torch import Tensor

# Bytes; resnest269e has 0.3 MB, names of 21,000 classes 1 MB, two million training photos 6 MB.
MAX_HEADER = 8 << 20

_AGAIN = "Download or copy it again."


class Header(NamedTuple):
    """Metadata of a safetensors file, and the shape of every tensor by its name in the file."""

    metadata: dict[str, str]
    shapes: dict[str, Shape]


def file_kind(path: Path) -> Literal["safetensors", "pickle", "onnx"]:
    """How the file is to be read; its content decides, its extension only when that is damaged.

    Raises:
        CheckpointError: missing, unreadable, or none of them.
    """
    start, size = _start(path)
    if size == 0:
        raise CheckpointError(f"{path} is empty. {_AGAIN}")
    brace = start[8:9] == b"{"
    if brace and int.from_bytes(start[:8], "little") <= size - 8:
        return "safetensors"
    if start.startswith(b"PK\x03\x04") and path.suffix.lower() == ".pt2":
        raise CheckpointError(
            f"{path} is a network for torch.export.load. Give the checkpoint that it was exported "
            "from, or export it as .onnx."
        )
    if start.startswith(b"PK\x03\x04") or re.match(rb"\x80[\x02-\x05]", start):
        return "pickle"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise CheckpointError(
            f"{path} is a web page, not a file of weights. Download the file that it links to."
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the weights themselves. Run: git lfs pull"
        )
    if brace or path.suffix.lower() == ".safetensors":
        return "safetensors"
    if path.suffix.lower() == ".onnx":  # protobuf begins with nothing of its own
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
            return file.read(64), path.stat().st_size
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


def read_header(path: Path) -> Header:
    """Metadata and shapes of a safetensors file whose whole layout has been checked.

    Raises:
        CheckpointError: the header is damaged or does not fit the file.
    """
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > path.stat().st_size - 8:
                raise CheckpointError(f"{path} is cut short or no safetensors file. {_AGAIN}")
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
        reason = shortened(str(error), 200)[1:-1] or "nested too deep"
        raise CheckpointError(f"{path} has a damaged header ({reason}). {_AGAIN}") from error
    return Header(metadata, shapes)


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(object_pairs_hook=...)`: ValueError when a key stands twice."""
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in record if names.count(name) > 1)
        raise ValueError(f"the key {shortened(twice)} stands twice")
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
    """Changes the metadata of a safetensors file; the bytes of its tensors are copied.

    The file is replaced whole or not at all.

    Raises:
        CheckpointError: it cannot be read or written.
    """
    import shutil

    from resnest_cli.files import atomic_file, writing

    try:
        with (
            writing(path, CheckpointError),
            path.open("rb") as source,
            atomic_file(path) as target,
        ):
            length = int.from_bytes(source.read(8), "little")
            header = json.loads(source.read(length).decode("utf-8"))
            header["__metadata__"] = {**(header.get("__metadata__") or {}), **changes}
            target.write(_encoded(header))
            shutil.copyfileobj(source, target)
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}.") from error
