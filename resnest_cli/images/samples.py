"""Samples of more than 8 bits -> 8 bits. One rule for every format, in this order:

1. What the file states (`Stated`, such as SMaxSampleValue in a TIFF or sBIT in a PNG) becomes
   0 .. 255.
2. Unsigned integers: the full range of their bits; 8 bits stay as they are, whatever is stated.
   32 and 64 bits, signed or not, that stay within 0 .. 65535 are 16 bits in a larger container, as
   Pillow writes them.
3. Other signed integers: the smallest to the largest sample, since zero is black nowhere.
4. Floats within [0, 1] are multiplied by 255; any others: the smallest to the largest finite value.
   NaN and -infinity are black, infinity is white.

Only a statement clips. Where nothing is stated and the largest sample needs 4 bits fewer than there
are (12 bits in a container of 16), the photo stays nearly black, and a note says so.

PNGs of 16 bits: Pillow keeps the high byte of colour; `eight_bits` has what that would lose. By the
specification the bits of an sBIT chunk are the high ones, so that nothing has to be done. Some
programs, though, write 12 bits as the low ones of 16, and nearly black. They are known by their
sBIT, by no sample above these bits, and by low bits that shifted samples could not have.
"""

from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeGuard, cast

import numpy as np
from PIL import Image

from resnest_cli.images import leave_note, unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Stated(NamedTuple):
    """The samples that are black and white, by what a file says of itself.

    Where that is not `certain`, a sample outside of it disproves it; else such samples are clipped.
    """

    low: float
    high: float
    certain: bool = True


def to_bytes(
    values: "NDArray[Any]", *, bits: int | None = None, stated: Stated | None = None
) -> "NDArray[np.uint8]":
    """Samples of a photo -> uint8 of the same shape.

    Args:
        values: integers of any width, or floats; all channels of a photo at once.
        bits: how many of each integer are samples (10, 12, ...); all, unless said.
        stated: the samples that are black and white, where the file says so.
    """
    if values.dtype.str == "|u1" and bits in (None, 8):
        return values.astype(np.uint8, copy=False)
    if values.dtype.kind == "f":
        return _from_floats(values, stated)
    bits = bits or values.dtype.itemsize * 8
    low, high = int(values.min()), int(values.max())
    if not _believed(stated, low, high):
        stated = _range(values.dtype.kind == "i", bits, low, high)
    if high <= 65535 and stated[:2] == (0, 65535):  # in whole numbers: they round alike everywhere
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    floats = values.astype(np.float32 if bits <= 24 else np.float64)
    return _scaled(floats, stated.low, stated.high)


def note_if_dark(high: int, full: int) -> None:
    """Leaves a note where the largest sample is far below the full range; none if all is black."""
    if 0 < 16 * high <= full:
        leave_note(
            f"no sample is above {high} of {full}, and it is read as it stands, nearly black. If "
            "these are fewer bits in a larger container, the file should say so (SMaxSampleValue "
            "in a TIFF, sBIT in a PNG, the maximum of a PGM). This is said once"
        )


def _believed(stated: Stated | None, low: float, high: float) -> TypeGuard[Stated]:
    if stated is None or stated.certain:
        return stated is not None
    return stated.low <= low and high <= stated.high


def _range(signed: bool, bits: int, low: int, high: int) -> Stated:
    if bits >= 32 and low >= 0 and high <= 65535:
        signed, bits = False, 16
    if signed:
        return Stated(low, high)
    note_if_dark(high, 2**bits - 1)
    return Stated(0, 2**bits - 1)


def _from_floats(values: "NDArray[Any]", stated: Stated | None) -> "NDArray[np.uint8]":
    scaled = values.astype(np.float64 if values.dtype.itemsize > 4 else np.float32)
    finite = np.isfinite(scaled)
    low = float(scaled.min(where=finite, initial=np.inf))
    high = float(scaled.max(where=finite, initial=-np.inf))
    if not _believed(stated, low, high):
        whole = not finite.any() or (low >= 0.0 and high <= 1.0)
        stated = Stated(0.0, 1.0) if whole else Stated(low, high)
    # First: arithmetic on a signalling NaN is a warning.
    scaled[np.isnan(scaled)] = stated.low
    return _scaled(scaled, stated.low, stated.high)


def _scaled(scaled: "NDArray[Any]", low: float, high: float) -> "NDArray[np.uint8]":
    """`low` .. `high` -> 0 .. 255, in place of the floats given; a flat photo is black."""
    np.clip(scaled, low, high, out=scaled)  # infinity goes to either end
    # Halves keep the span finite. Flat, too, is a span so small that it would be rounded to 0.
    scaled /= 2
    scaled -= low / 2
    span = high / 2 - low / 2
    scaled /= span if span >= np.finfo(scaled.dtype).tiny else 1.0
    scaled *= 255
    pixels: NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return pixels


def eight_bits(image: Image.Image, stream: BinaryIO) -> Image.Image:
    """A loaded PNG of 16 bits as one of 8: L or RGB.

    Grey with alpha in the low bits is refused: Pillow cannot read its low byte.
    """
    bits = _significant_bits(stream)
    if image.mode not in ("RGB", "RGBA", "LA"):
        values = np.asarray(image)
        return Image.fromarray(to_bytes(values, stated=_stated(values, bits)))
    colours = image.convert("L" if image.mode == "LA" else "RGB")
    extrema = colours.getextrema()
    ends = [extrema] if colours.mode == "L" else extrema
    high = max(int(most) for _, most in cast("list[tuple[int, int]]", ends))
    if bits is None:
        note_if_dark(256 * high + 255 if high else 0, 65535)
        return colours
    if high >= 2 ** max(bits - 8, 0):
        return colours
    values = np.asarray(colours).astype(np.uint16) * 256 + _low_bytes(stream)
    return Image.fromarray(to_bytes(values, stated=_stated(values, bits)))


def _stated(values: "NDArray[np.integer]", bits: int | None) -> Stated | None:
    if bits is None or values.max() >= 2**bits or not (values & (2 ** (16 - bits) - 1)).any():
        return None
    return Stated(0, 2**bits - 1)


def _low_bytes(stream: BinaryIO) -> "NDArray[np.uint8]":
    """The low bytes of the colours: those that are high in the other byte order."""
    from PIL.PngImagePlugin import PngImageFile

    stream.seek(0)
    image = PngImageFile(stream)
    raw = str(image.tile[0].args)
    if raw not in ("RGB;16B", "RGBA;16B"):
        raise unsupported("a PNG of grey with alpha, in the low bits of 16")
    image.tile = [tile._replace(args=raw.replace("16B", "16L")) for tile in image.tile]
    image.load()
    return np.asarray(image.convert("RGB"))


def _significant_bits(stream: BinaryIO) -> int | None:
    """The most bits that the sBIT chunk names for a channel, where that is fewer than 16."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"sBIT":
            bits = max(stream.read(min(size, 4)), default=0)
            return bits if 1 <= bits < 16 else None
        if kind in (b"PLTE", b"IDAT", b"IEND"):
            break
        stream.seek(size + 4, 1)
    return None
