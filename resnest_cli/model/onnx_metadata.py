"""The metadata of an .onnx file, in milliseconds: without the package onnx, without the weights.

Source: onnx.proto, the messages ModelProto (`metadata_props`, field 14) and StringStringEntryProto
(`key` 1, `value` 2), in protobuf's encoding (https://protobuf.dev/programming-guides/encoding):
fields one after the other, each with its number and kind, so that all others are skipped unread.
The package onnx would read the whole file and takes longer to import than the network to run.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from resnest_cli.errors import CheckpointError

_METADATA_PROPS = 14
_KEY, _VALUE = 1, 2
_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5
_LONGEST = 8 << 20  # bytes of one entry, as of a checkpoint's header


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in `metadata_props`; empty where another program wrote none.

    Raises:
        CheckpointError: unreadable, cut short, or no protobuf.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return dict(
                _entry(_read(file, length))
                for number, length in _fields(file, size)
                if number == _METADATA_PROPS
            )
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is cut short or no ONNX file ({error}). Export or copy it again."
        ) from error


def _entry(data: bytes) -> tuple[str, str]:
    file, texts = io.BytesIO(data), {_KEY: "", _VALUE: ""}
    for number, length in _fields(file, len(data)):
        if number in texts:
            texts[number] = _read(file, length).decode("utf-8")
    return texts[_KEY], texts[_VALUE]


def _fields(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Number and length of each field with a length; whoever wants its bytes reads them."""
    at = 0
    while at < size:
        file.seek(at)
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        length = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind, 0)
        if kind == _VARINT:
            _varint(file)
        elif kind == _COUNTED:
            length = _varint(file)
        elif not length:
            raise ValueError(f"unknown kind of field {kind}")
        at = file.tell() + length
        if at > size:
            raise ValueError("a field goes beyond the end")
        if kind == _COUNTED:
            yield number, length


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number has no end")


def _read(file: BinaryIO, length: int) -> bytes:
    if length > _LONGEST:
        raise ValueError(f"an entry of the metadata has {length:,} bytes")
    return file.read(length)
