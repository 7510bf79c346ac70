"""Damages valid files in the ways that find bugs in decoders; every result follows from a seed."""

import random
import struct
import zlib
from collections.abc import Callable

from tests.images.corpus import GoodFiles

Mutation = Callable[[random.Random, bytearray], None]

_NUMBERS = [0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536]
_NUMBERS += [2**31 - 1, 2**31, 2**32 - 1, 25_000, 1_000_000]
_WORDS = (
    b"IHDR IDAT IEND PLTE tRNS iCCP acTL fcTL fdAT eXIf zTXt iTXt gAMA sRGB RIFF WEBP VP8X "
    b"VP8L ALPH ANIM ANMF EXIF ICCP XMP ftyp meta iloc iinf iprp ispe ipma irot imir mdat "
    b"II*\0 MM\0* II+\0 GIF87a GIF89a P1\n P3\n P5\n P6\n Pf\n Exif\0\0 Adobe MPF\0 ICC_PROFILE\0"
).split(b" ")
_MARKERS = [bytes((0xFF, low)) for low in (*range(0xC0, 0xF0), 0xFE, 0x01)]


class Mutator:
    """Makes input number `index` of a campaign from its seed: the same, whenever it is asked."""

    def __init__(self, seed: int, only: str = "") -> None:
        self.seed, self.only = seed, only
        self.files = GoodFiles()
        self.names = [name for name in self.files.names if name.startswith(only)]

    def make(self, index: int) -> tuple[str, bytes]:
        """The name of the file that was damaged, and the damaged bytes."""
        rng = random.Random(f"{self.seed} {index}")
        name = rng.choice(self.names)
        data = bytearray(self.files[name])
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            mutation = rng.choice((*_MUTATIONS, self._splice))
            if data:
                mutation(rng, data)
        if data.startswith(b"\x89PNG") and rng.random() < 0.6:
            data = _with_checksums(data)
        return name, bytes(data)

    def _splice(self, rng: random.Random, data: bytearray) -> None:
        """A piece of this file or of another one, in place of a piece of this."""
        other = self.files[rng.choice(self.files.names)] if rng.random() < 0.5 else bytes(data)
        start = rng.randrange(len(other))
        piece = other[start : start + rng.choice((4, 16, 64, 500, 5000))]
        at = _position(rng, data)
        data[at : at + rng.choice((0, 0, len(piece), 4, 64))] = piece


def _position(rng: random.Random, data: bytearray) -> int:
    """Headers break in more ways than pixels."""
    return rng.randrange(len(data) if rng.random() < 0.4 else min(len(data), 200))


def _bits(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        data[_position(rng, data)] ^= 1 << rng.randrange(8)


def _bytes(rng: random.Random, data: bytearray) -> None:
    at = _position(rng, data)
    count = min(rng.choice((1, 2, 4, 16)), len(data) - at)
    data[at : at + count] = rng.randbytes(count)


def _truncate(rng: random.Random, data: bytearray) -> None:
    del data[_position(rng, data) + 1 :]


def _remove(rng: random.Random, data: bytearray) -> None:
    at = _position(rng, data)
    del data[at : at + rng.choice((1, 2, 4, 12, 100))]


def _number(rng: random.Random, data: bytearray) -> None:
    """A number that programs stumble over."""
    _store(rng, data, _position(rng, data), rng.choice(_NUMBERS))


def _length(rng: random.Random, data: bytearray) -> None:
    """What may be a length or a size, made a little or much wrong."""
    at = _position(rng, data)
    width, order = rng.choice((2, 4)), rng.choice(("big", "little"))
    value = int.from_bytes(data[at : at + width], order)
    value = rng.choice((value + 1, value - 1, value * 2, value // 2, value + 1000, -value, ~value))
    data[at : at + width] = (value % 256**width).to_bytes(width, order)


def _word(rng: random.Random, data: bytearray) -> None:
    at = _position(rng, data)
    word = rng.choice(_MARKERS if rng.random() < 0.3 else _WORDS)
    data[at : at + (len(word) if rng.random() < 0.7 else 0)] = word


def _store(rng: random.Random, data: bytearray, at: int, value: int) -> None:
    width = rng.choice((1, 2, 4))
    data[at : at + width] = (value % 256**width).to_bytes(width, rng.choice(("big", "little")))


_MUTATIONS: tuple[Mutation, ...] = (
    _bits,
    _bits,
    _bytes,
    _truncate,
    _remove,
    _number,
    _length,
    _word,
)


def _with_checksums(data: bytearray) -> bytearray:
    """A PNG whose checksums are right, so that damage gets past them."""
    result, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        chunk = data[at + 4 : end]
        result += data[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at = end + 4
    return result + data[at:]
