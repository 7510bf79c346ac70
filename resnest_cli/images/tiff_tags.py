"""The tags of a TIFF's first page, as numbers; classic or BigTIFF, in either byte order."""

import struct
from typing import Any, BinaryIO

from resnest_cli.errors import ImageError

Tags = dict[int, tuple[float, ...]]

# Types of values: BYTE, SHORT, LONG, RATIONAL, SBYTE, SSHORT, SLONG, SRATIONAL, FLOAT, DOUBLE,
# LONG8, SLONG8, as `struct` knows them; a rational is two numbers.
_TYPES = {
    1: "B", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d",
    16: "Q", 17: "q",
}  # fmt: skip
_MOST_TAGS = 4096
_MOST_VALUES = 3 * 2**16  # a palette of 16 bits


def read_tags(stream: BinaryIO, wanted: frozenset[int]) -> Tags:
    """The numbers of the wanted tags, as far as the first page has them.

    Raises:
        ImageError: the tags are damaged, or not all there.
    """
    order = "<" if little_endian(stream) else ">"
    big = _read(stream, order, "H") == (43,)
    if big:
        stream.seek(8)
    word, entry = ("Q", "HHQ8s") if big else ("I", "HHI4s")
    (first,) = _read(stream, order, word)
    _seek(stream, first)
    (count,) = _read(stream, order, "Q" if big else "H")
    if count > _MOST_TAGS:
        raise ImageError(f"is damaged: {count} tags in a TIFF")
    tags: Tags = {}
    for tag, kind, number, inline in [_read(stream, order, entry) for _ in range(count)]:
        if tag not in wanted or tag in tags:
            continue
        code = _TYPES.get(kind)
        if code is None or not 0 < number <= _MOST_VALUES:
            raise ImageError(f"is damaged: tag {tag} of the TIFF makes no sense")
        form = f"{number * len(code)}{code[0]}"
        if struct.calcsize(order + form) > len(inline):
            _seek(stream, *struct.unpack(order + word, inline))
            values = _read(stream, order, form)
        else:
            values = struct.unpack_from(order + form, inline)
        if len(code) == 2:
            values = tuple(a / (b or 1) for a, b in zip(values[::2], values[1::2], strict=True))
        tags[tag] = values
    return tags


def little_endian(stream: BinaryIO) -> bool:
    """The byte order of a TIFF; the stream then stands behind it."""
    stream.seek(0)
    return stream.read(2) == b"II"


def _seek(stream: BinaryIO, place: int) -> None:
    if place >= 2**63:
        raise ImageError("is damaged: an offset in the TIFF is beyond any file")
    stream.seek(place)


def _read(stream: BinaryIO, order: str, form: str) -> tuple[Any, ...]:
    size = struct.calcsize(order + form)
    data = stream.read(size)
    if len(data) < size:
        raise ImageError("is truncated: the directory of the TIFF is not all there")
    return struct.unpack(order + form, data)
