"""A TIFF -> a page of it, the first unless said, as an upright RGB photo.

Pillow reads the plain kinds: up to 8 bits of any colour, 16-bit RGB, and grey of 16 or 32 bits.
It takes some others for these and garbles them, so the tags decide first, by a list of what Pillow
is known to read. All else goes to tifffile, an optional library, or is "not supported", with the
reason. `tests/images/test_tiff.py` compares all combinations with tifffile's arrays.

- More than 8 bits are scaled as `images.samples` says. What the file states: SMinSampleValue and
  SMaxSampleValue; MaxSampleValue where it is 2^n - 1, such as 4095 (any other is a statistic, which
  the specification bids readers ignore).
- WhiteIsZero is inverted after that. Colour that was multiplied by its alpha is divided by it,
  then alpha is dropped, and so is what stands beside it.
- Grey with two or more further samples is refused: what they show is not said.
- The orientation is always applied, as Pillow does.
"""

import logging
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from PIL import ExifTags, Image, ImageOps

from resnest_cli.errors import ImageError, missing
from resnest_cli.images import check_pixels, damaged, unsupported
from resnest_cli.images.samples import Stated, note_if_dark, to_bytes
from resnest_cli.text import count, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_GREYS, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = (0, 1), 2, 3, 5, 6, 8
_COLOURS = {0: 1, 1: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}
_OTHERS = {
    4: "a transparency mask", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32844: "LogL", 32845: "LogLuv",
    32803: "a colour filter array (a raw photo: develop it first)",
    34892: "linear raw (a raw photo: develop it first)",
}  # fmt: skip
_UNSIGNED, _SIGNED, _FLOAT, _VOID = 1, 2, 3, 4
_NO_COMPRESSION, _OLD_JPEG, _JPEG = 1, 6, 7
_LZW, _DEFLATE, _PACKBITS, _LZMA, _ZSTD = 5, (8, 32946), 32773, 34925, 50000
_SHARED = {_NO_COMPRESSION, _LZW, *_DEFLATE, _PACKBITS}
_BY_PILLOW = _SHARED | {2, 3, 4, _OLD_JPEG, _JPEG}  # 2, 3 and 4 are fax machines'
# Those that detect damage, and write no more bytes than they are allowed. What has a size of its
# own inside, such as JPEG 2000, could take any amount of memory.
_BY_TIFFFILE = _SHARED | {_LZMA, _ZSTD}
_COMPRESSIONS = {
    2: "fax", 3: "fax", 4: "fax", _OLD_JPEG: "old JPEG", _JPEG: "JPEG", 50001: "WebP",
    33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 34933: "PNG",
    22610: "JPEG XR", 34934: "JPEG XR", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_DEEP_GREYS = {(_UNSIGNED, 16), (_UNSIGNED, 32), (_SIGNED, 32), (_FLOAT, 32)}
_FULL_RANGE = (0, 255, 128, 255, 128, 255)
_REC_601 = (0.299, 0.587, 0.114)
# See `_layout` and `_unsupported` for what they are.
_WANTED = frozenset((
    256, 257, 258, 259, 262, 266, 274, 277, 281, 284, 320, 322, 323, 332, 338, 339, 340, 341, 529,
    530, 532, 32997,
))  # fmt: skip
_MOST_OF_A_TILE = 2**20  # pixels, of a picture that is smaller
_MOST_BYTES = 16  # of the samples of a pixel, on average
_MISSING = "parts of the picture are missing"
_MOST_TAGS = 4096
_MOST_VALUES = 3 * 2**16  # a palette of 16 bits
_Tags = dict[int, tuple[float, ...]]
# Types of values: BYTE, SHORT, LONG, RATIONAL, SBYTE, SSHORT, SLONG, SRATIONAL, FLOAT, DOUBLE,
# LONG8, SLONG8, as `struct` knows them; a rational is two numbers.
_TYPES = {
    1: "B", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d",
    16: "Q", 17: "q",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the tags of a page say; `bits` of each sample."""

    size: tuple[int, int]
    tile: tuple[int, int]  # (0, 0) where there are strips
    bits: int
    samples: int
    kind: int  # SampleFormat
    photometric: int
    planar: bool
    compression: int
    fill_order: int
    premultiplied: bool  # the colours, by the alpha that follows them
    stated: Stated | None  # the samples that are black and white, where that is said
    narrow_palette: bool  # of 8 bits in place of 16, as some write it
    orientation: int
    little_endian: bool

    @property
    def colours(self) -> int:
        """How many samples are colour; the rest is dropped."""
        return _COLOURS[self.photometric]

    @property
    def plain(self) -> bool:
        """Whether Pillow, if it opens this, reads it as it is meant."""
        if self.compression not in _BY_PILLOW or (self.planar and self.samples > self.colours):
            return False
        if self.premultiplied and self.photometric != _RGB and self.samples > self.colours:
            return False
        if (self.fill_order != 1 and self.bits != 1) or self.narrow_palette:
            return False
        if self.bits <= 8:
            plain = self.kind in (_UNSIGNED, _VOID) and (self.bits == 8 or self.samples == 1)
            return plain and (self.photometric != _LAB or not self.planar)
        if self.photometric == _RGB:
            deep = self.kind == _UNSIGNED and self.bits == 16 and not self.planar
            return deep and self.stated is None and not self.premultiplied
        grey = self.samples == 1 and self.photometric == 1 and (self.kind, self.bits) in _DEEP_GREYS
        return grey and (self.bits == 16 or self.little_endian)

    def __str__(self) -> str:
        kind = {_SIGNED: "signed ", _FLOAT: "floating-point "}.get(self.kind, "")
        planes = ", in planes" if self.planar else ""
        by = _COMPRESSIONS.get(self.compression, f"compression {self.compression}")
        compressed = "" if self.compression in _SHARED else f", compressed by {by}"
        return f"{self.samples} x {self.bits} {kind}bits{planes}{compressed}"


def read_tiff(stream: BinaryIO, max_pixels: int, page: int = 0) -> Image.Image:
    """A page, upright, in RGB; Pillow raises anything about a damaged file."""
    layout = _layout(stream, page)
    check_pixels(*layout.size, max_pixels)
    if math.prod(layout.tile) > max(_MOST_OF_A_TILE, 16 * math.prod(layout.size)):
        raise damaged("its tiles are much larger than the picture")
    _check_data(stream, layout.compression, page)
    if not layout.plain:
        return _by_tifffile(stream, layout, max_pixels, page)
    from PIL.TiffImagePlugin import TiffImageFile

    stream.seek(0)
    try:
        image = TiffImageFile(stream)
        image.seek(page)
    except SyntaxError:  # a kind that it does not know
        return _by_tifffile(stream, layout, max_pixels, page)
    check_pixels(*image.size, max_pixels)
    extents = (tile.extents or (0, 0, *image.size) for tile in image.tile)
    if sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in extents) < image.width * image.height:
        raise damaged(_MISSING)  # strips, which Pillow would leave black
    image.load()
    if layout.bits > 8:
        return _deep(image, layout)
    image.info.pop("transparency", None)
    return image.convert("RGB")


def page_count(stream: BinaryIO) -> int:
    """How many pages there are; where the list of them is damaged, the last one is an error."""
    found = 0
    try:
        for found, _ in enumerate(_directories(stream), start=1):  # noqa: B007
            pass
    except ImageError:
        return found + 1
    return found


def _layout(stream: BinaryIO, page: int) -> _Layout:
    """What the tags of a page say, if it is supported."""
    tags = _read_tags(stream, _WANTED, page)

    def whole(tag: int, default: int | None = None) -> int:
        if tag not in tags and default is None:
            raise damaged(f"a TIFF without a number in tag {tag}")
        return int(tags[tag][0]) if tag in tags else default or 0

    compression = whole(259, 1)
    old = compression == _OLD_JPEG  # its other tags say little
    if 262 not in tags and not old:
        raise unsupported("a TIFF that does not say what its colours are")
    samples = whole(277, 3 if old else 1)
    bits = _same(tags.get(258, (8.0 if old else 1.0,)), samples, "bits")
    layout = _Layout(
        size=(whole(256), whole(257)),
        tile=(whole(322, 0), whole(323, 0)),
        bits=bits,
        samples=samples,
        kind=_same(tags.get(339, (_UNSIGNED,)), samples, "kinds of samples"),
        photometric=_YCBCR if old else whole(262),
        planar=samples > 1 and whole(284, 1) == 2,
        compression=compression,
        fill_order=whole(266, 1),
        premultiplied=tags.get(338, (0,))[0] == 1,
        stated=_stated(tags, bits),
        narrow_palette=max(tags.get(320, (256,))) < 256,
        orientation=whole(274, 1),
        little_endian=_little_endian(stream),
    )
    if reason := _unsupported(layout, tags):
        raise unsupported(f"a TIFF {reason}")
    return layout


def _same(values: tuple[float, ...], samples: int, what: str) -> int:
    """What is the same for every sample; a single value may stand for all."""
    found = {int(value) for value in values[:samples]}
    if len(found) != 1:
        raise unsupported(f"a TIFF whose samples differ in their {what}")
    return found.pop()


def _stated(tags: _Tags, bits: int) -> Stated | None:
    """The samples that are black and white, where the file says so."""
    if 341 in tags:
        low, high = min(tags.get(340, (0.0,))), max(tags[341])
        return Stated(low, high) if low < high else None
    most = {int(value) for value in tags.get(281, ())}
    all_bits = most.pop() if len(most) == 1 else 0
    if 255 <= all_bits < 2 ** (bits - 1) and all_bits & (all_bits + 1) == 0:
        return Stated(0, all_bits, certain=False)
    return None


def _unsupported(layout: _Layout, tags: _Tags) -> str | None:
    """Why there is no photo to be had of such a TIFF, if so."""
    photometric, samples, kind = layout.photometric, layout.samples, layout.kind
    if photometric not in _COLOURS:
        return f"in {_OTHERS.get(photometric, f'a colour space with the number {photometric}')}"
    if photometric == _YCBCR and layout.compression not in (_OLD_JPEG, _JPEG):
        bad = layout.bits != 8 or layout.planar or layout.compression not in _BY_PILLOW
        bare = layout.compression == _NO_COMPRESSION  # else libtiff does what follows
        odd = tags.get(532, _FULL_RANGE) != _FULL_RANGE or tags.get(529, _REC_601) != _REC_601
        subsampled = tags.get(530, (2, 2)) != (1, 1)
        reasons = {
            f"in YCbCr with {layout}": bad,
            "in YCbCr whose colours are subsampled and not compressed": bare and subsampled,
            "in YCbCr of a reduced range or with coefficients of its own": bare and odd,
        }
    else:
        bands = f"with {samples} bands whose colours it does not name: write three of them as RGB"
        no_palette = photometric == _PALETTE and (kind != _UNSIGNED or 320 not in tags)
        reasons = {
            "of complex numbers": kind in (5, 6),
            f"of samples of kind {kind}": not 1 <= kind <= 6,
            f"with {count(samples, 'sample')} for each pixel, too few": samples < layout.colours,
            bands: photometric in _GREYS and samples > 2,
            f"of {layout.bits}-bit integers": layout.bits in (24, 40, 48, 56) and kind != _FLOAT,
            "of a volume": tags.get(32997, (1,)) != (1,),
            "with no palette, or indices that are no whole numbers": no_palette,
            f"in L*a*b* with {layout}": photometric == _LAB and (samples, layout.bits) != (3, 8),
            "in other inks than CMYK": photometric == _CMYK and tags.get(332, (1,)) != (1,),
        }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _check_data(stream: BinaryIO, compression: int, page: int) -> None:
    """Refuse what libtiff and tifffile would fill up: strips and tiles that are nowhere, or cut."""
    if compression == _OLD_JPEG:  # lies elsewhere
        return
    tags = _read_tags(stream, frozenset((273, 279, 324, 325)), page)
    places = tags.get(324, tags.get(273, ()))
    sizes = tags.get(325, tags.get(279, ()))
    if not all(places) or (compression != _NO_COMPRESSION and not all(sizes)):
        raise damaged(_MISSING)
    if compression != _JPEG:
        return
    for place, size in zip(places, sizes, strict=False):
        stream.seek(int(place + max(size - 16, 0)))
        if not stream.read(int(min(size, 16))).rstrip(b"\0\r\n").endswith(b"\xff\xd9"):
            raise _truncated("a JPEG in the TIFF has no end")


def _deep(image: Image.Image, layout: _Layout) -> Image.Image:
    """More than 8 bits that Pillow has read: grey, or RGB of which it keeps the high bytes."""
    import numpy as np

    if layout.photometric == _RGB:
        rgb = image.convert("RGB")
        most = max(int(high) for _, high in rgb.getextrema())  # type: ignore[misc]
        note_if_dark(256 * most + 255 if most else 0, 65535)
        return rgb
    values: NDArray[Any] = np.asarray(image)
    if (layout.kind, layout.bits) == (_UNSIGNED, 32):
        values = values.view(np.uint32)  # Pillow has no such mode and takes them for signed
    return _grey(to_bytes(values, stated=layout.stated), layout)


def _grey(pixels: "NDArray[np.uint8]", layout: _Layout) -> Image.Image:
    return Image.fromarray(255 - pixels if layout.photometric == 0 else pixels).convert("RGB")


def _by_tifffile(stream: BinaryIO, layout: _Layout, max_pixels: int, number: int) -> Image.Image:
    if layout.compression not in _BY_TIFFFILE or layout.photometric in (_YCBCR, _LAB):
        raise unsupported(f"a TIFF of {layout}")
    width, height = layout.size
    if width * height * layout.samples * max(layout.bits // 8, 1) > _MOST_BYTES * max_pixels:
        text = (
            f"has {width} x {height} pixels of {layout.samples} x {layout.bits} bits, more than "
            f"{_MOST_BYTES} bytes for each of the {max_pixels} pixels that are the limit "
            "(--max-pixels)"
        )
        raise ImageError(text, kind="too large")
    try:
        import tifffile
    except ImportError as error:
        text = missing("tifffile", f"is a TIFF of {layout}, which")
        raise ImageError(text, kind="not an image") from error
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else it writes to stderr
    stream.seek(0)
    try:
        with tifffile.TiffFile(stream) as file:
            page: Any = file.pages[number]
            _check_page(page, layout)
            values = page.asarray(squeeze=False, maxworkers=1)  # (S, 1, H, W, C)
            palette = page.colormap
    except (NotImplementedError, ImportError, KeyError) as error:
        raise unsupported(one_line(str(error))) from error
    except ValueError as error:
        text = one_line(str(error))
        if "not supported" in text or "requires" in text:
            raise unsupported(text) from error
        raise
    planes = values[:, 0, :, :, 0].transpose(1, 2, 0) if layout.planar else values[0, 0]
    photo = _coloured(planes, palette, layout)
    photo.getexif()[ExifTags.Base.Orientation] = layout.orientation
    ImageOps.exif_transpose(photo, in_place=True)
    return photo


def _check_page(page: Any, layout: _Layout) -> None:
    """Whether tifffile sees what we do, and all of the data are there.

    It would fill strips and tiles that are missing with zeros.
    """
    width, height = layout.size
    seen = page.imagewidth, page.imagelength, page.bitspersample, page.samplesperpixel
    if seen != (width, height, layout.bits, layout.samples) or page.imagedepth != 1:
        raise unsupported(f"a TIFF of {layout} that can be read in two ways")
    count = math.prod(page.chunked)
    sizes = page.databytecounts[:count]
    if not page.is_contiguous and (min(len(page.dataoffsets), len(sizes)) < count or 0 in sizes):
        raise damaged(_MISSING)


def _coloured(values: "NDArray[Any]", palette: "NDArray[Any]", layout: _Layout) -> Image.Image:
    """Samples (H, W, S), or indices into a palette (3, colours), as an RGB image."""
    import numpy as np

    colours = values[..., : layout.colours]
    if layout.photometric == _PALETTE:
        indices = colours[..., 0].astype(np.intp)  # of a single bit: else they would choose rows
        if indices.max() >= palette.shape[1]:
            raise damaged("a colour is not in its palette")
        table = (palette if layout.narrow_palette else palette >> 8).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(table.T[indices]))
    if layout.premultiplied and layout.samples > layout.colours and layout.kind != _SIGNED:
        alpha = values[..., layout.colours, None]
        with np.errstate(all="ignore"):  # black where nothing is to be seen
            colours = np.where(alpha > 0, colours / alpha.astype(np.float32), 0)
        np.clip(colours, 0, 1, out=colours)
    pixels = to_bytes(colours, bits=layout.bits, stated=layout.stated)
    if layout.colours == 1:
        return _grey(pixels[..., 0], layout)
    mode = "CMYK" if layout.photometric == _CMYK else "RGB"
    return Image.frombytes(mode, layout.size, pixels.tobytes()).convert("RGB")


class _Directory(NamedTuple):
    """Where the tags of a page stand, how many they are, and how they and numbers are written."""

    place: int
    tags: int
    order: str
    word: str
    entry: str


def _directories(stream: BinaryIO) -> Iterator[_Directory]:
    """The pages' directories, each of which says where the next one is; never one twice."""
    order = "<" if _little_endian(stream) else ">"
    big = _read(stream, order, "H") == (43,)
    word, entry = ("Q", "HHQ8s") if big else ("I", "HHI4s")
    (place,) = _read(stream, order, word, 8 if big else 4)
    seen = set[int]()
    while not seen or (place and place not in seen):
        seen.add(place)
        (count,) = _read(stream, order, "Q" if big else "H", place)
        if count > _MOST_TAGS:
            raise damaged(f"{count} tags in a TIFF")
        start = stream.tell()
        yield _Directory(start, count, order, word, entry)
        (place,) = _read(stream, order, word, start + count * struct.calcsize(order + entry))


def _read_tags(stream: BinaryIO, wanted: frozenset[int], page: int) -> _Tags:
    """The numbers of the wanted tags, as far as a page has them."""
    found = next(islice(_directories(stream), page, None), None)
    if found is None:
        raise _truncated(f"there is no page {page + 1}")
    place, count, order, word, entry = found
    stream.seek(place)
    tags: _Tags = {}
    for tag, kind, number, inline in [_read(stream, order, entry) for _ in range(count)]:
        if tag not in wanted or tag in tags:
            continue
        code = _TYPES.get(kind)
        if code is None or not 0 < number <= _MOST_VALUES:
            raise damaged(f"tag {tag} of the TIFF makes no sense")
        form = f"{number * len(code)}{code[0]}"
        if struct.calcsize(order + form) > len(inline):
            values = _read(stream, order, form, *struct.unpack(order + word, inline))
        else:
            values = struct.unpack_from(order + form, inline)
        if len(code) == 2:
            values = tuple(a / (b or 1) for a, b in zip(values[::2], values[1::2], strict=True))
        tags[tag] = values
    return tags


def _little_endian(stream: BinaryIO) -> bool:
    """The byte order of a TIFF; the stream then stands behind it."""
    stream.seek(0)
    return stream.read(2) == b"II"


def _read(stream: BinaryIO, order: str, form: str, place: int | None = None) -> tuple[Any, ...]:
    if place is not None and place >= 2**63:
        raise damaged("an offset in the TIFF is beyond any file")
    if place is not None:
        stream.seek(place)
    size = struct.calcsize(order + form)
    data = stream.read(size)
    if len(data) < size:
        raise _truncated("the directory of the TIFF is not all there")
    return struct.unpack(order + form, data)


def _truncated(why: str) -> ImageError:
    return ImageError(f"is truncated: {why}", kind="truncated")
