"""PNGs of 16 bits a sample. Pillow keeps the high byte of colour; here is what that would lose.

By the specification the bits of an sBIT chunk are the high ones, so that nothing has to be done.
Some programs, though, write 12 bits as the low ones of 16, and nearly black. They are known by
their sBIT, by no sample above these bits, and by low bits that shifted samples could not have.
"""

from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.images.samples import Stated, note_if_dark, to_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray


def eight_bits(image: Image.Image, stream: BinaryIO) -> Image.Image:
    """A loaded PNG of 16 bits as one of 8: L or RGB.

    Raises:
        ImageError: grey with alpha in the low bits, of which Pillow cannot read the low byte.
    """
    bits = _significant_bits(stream)
    if image.mode not in ("RGB", "RGBA", "LA"):
        values = np.asarray(image)
        return Image.fromarray(to_bytes(values, stated=_stated(values, bits)))
    colours = image.convert("L" if image.mode == "LA" else "RGB")
    extrema = colours.getextrema()
    ends = [extrema] if colours.mode == "L" else extrema
    high = max(int(most) for _, most in cast("list[tuple[int, int]]", ends))
    if bits is None or high >= 2 ** max(bits - 8, 0):
        if bits is None:
            note_if_dark(256 * high + 255 if high else 0, 65535)
        return colours
    low = _low_bytes(stream)
    values = np.asarray(colours).astype(np.uint16) * 256 + low
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
        raise ImageError("is not supported: a PNG of grey with alpha, in the low bits of 16")
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
