"""Bytes, file or path -> upright RGB photo, or an `ImageError` that says what is wrong.

Pillow decodes. What is decided here, and why:

- The content decides, never the name. A short list of formats is accepted; each one's plugin is
  called directly, not through `Image.open`, which tries parsers in turn, imports many of them, and
  warns about large photos before they can be measured.
- Transparency is dropped, as `convert("RGB")` does: the colour stored under a transparent pixel
  stays. Compositing on white would look better to people, but timm's and torchvision's loaders
  drop it, and an answer should not depend on which of the programs gave it.
- Grey of more than 8 bits is scaled by its range, see `samples`: `convert("RGB")` would clip it at
  255. 16-bit colour is read by Pillow, which keeps the high byte.
- The first frame of an animation, the largest picture of an icon; see `frames` for the others.
- EXIF orientation is applied; if the EXIF block is broken, the photo is taken as it is. Pillow
  itself turns TIFF and the `irot` of HEIC upright, whatever `exif` says.
- A truncated photo is an error. A JPEG without its end marker counts as truncated, because
  Pillow cannot tell whether anything else is missing. Not noticed: a JPEG whose data are damaged,
  or cut with an end marker after the cut, since libjpeg carries on in silence.
- With `at_least` a JPEG is decoded at half, a quarter or an eighth of its size where that leaves
  both sides that long: libjpeg then computes fewer coefficients of each block of 8 x 8.

Pillow warns about odd metadata through Python's `warnings`. `warnings.catch_warnings` swaps a
list that all threads share, so it must not be used here; instead one rule that silences only those
plugins is added to the filters and stays. What libtiff itself writes to stderr about a damaged
compressed TIFF, beside the error, is out of reach.
"""

import errno
import importlib
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from resnest_cli.errors import ErrorKind, ImageError, missing
from resnest_cli.images import (
    NO_MEMORY,
    check_pixels,
    damaged,
    raise_pillows_limit,
    unsupported,
    usual_limit,
)
from resnest_cli.options import MAX_PIXELS
from resnest_cli.text import one_line

if TYPE_CHECKING:
    from PIL import ImageFile

_MAX_BYTES = 2**30  # of a file that has to be read whole
_MAX_HELD = 2**25  # of a file that is read before it is known whether it is a photo
_MAX_ICON_PIXELS = 2**24  # Pillow decodes an icon while it opens it

_PLUGINS = {  # as Pillow spells them in the names of its modules and classes
    "JPEG": "Jpeg",  # MPO too: its first picture is a JPEG
    "PNG": "Png", "WebP": "WebP", "AVIF": "Avif", "GIF": "Gif", "BMP": "Bmp", "PPM": "Ppm",
    "ICO": "Ico", "HEIC": "Heif",
}  # fmt: skip
_MAGIC = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF",
    b"BM": "BMP", b"\0\0\1\0": "ICO",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF",  # +: BigTIFF
}  # fmt: skip
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = set(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_READ_WHOLE = {"WebP", "AVIF", "HEIC"}

_EVERY = "--every 1s reads frames of videos"
# What people mistake for a photo most often, named in the message.
_OTHERS = {
    b"%PDF": "a PDF", b"8BPS": "a Photoshop document", b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive", b"\x1aE\xdf\xa3": f"a video (Matroska or WebM); {_EVERY}",
    b"version https://git-lfs": "a Git LFS pointer; `git lfs pull` fetches the image itself",
}  # fmt: skip
_UNREAD = {
    b"\xff\x0a": "JPEG XL image", b"\0\0\0\x0cJXL ": "JPEG XL image",
    b"\0\0\0\x0cjP  ": "JPEG 2000 image", b"\xff\x4f\xff\x51": "JPEG 2000 image",
    b"II\xbc": "JPEG XR image", b"P7": "PAM image", b"qoif": "QOI image",
    b"PF": "PFM image in colour", b"\0\0\2\0": "cursor",
}  # fmt: skip
_OTHERS |= {magic: f"a {kind}, a format that is not supported" for magic, kind in _UNREAD.items()}
_UNSUPPORTED = re.compile("unsupported|not (yet )?supported|cannot handle", re.IGNORECASE)

_ORIENTATION_TAG = 0x0112
_TURN = Image.Transpose
UPRIGHT = {
    2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE,
    6: _TURN.ROTATE_270, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90,
}  # fmt: skip
_QUIET_MODULES = r"PIL\.(Gif|Ico|Jpeg|Png|Tiff)ImagePlugin$"
_QUIET_RULE = ("ignore", None, Warning, re.compile(_QUIET_MODULES), 0)


def decode(
    source: "str | os.PathLike[str] | bytes | BinaryIO",
    *,
    exif: bool = True,
    max_pixels: int | None = None,
    at_least: int | None = None,
) -> Image.Image:
    """Decode one photo. Safe to call from several threads; never writes to its input.

    Args:
        source: a path of a regular file, or the bytes of an image file, or a binary stream of them.
        exif: turn the photo upright as its EXIF orientation says.
        max_pixels: refuse a photo of more pixels before memory is spent on them. Pillow's own
            limit, of this process, is raised where it needs to be. None: as RESNEST_MAX_PIXELS
            says.
        at_least: decode a JPEG smaller, but no side shorter than this many pixels (or than it is).

    Returns:
        An RGB image, 8 bits per channel, of at least 1 x 1 pixels.

    Raises:
        ImageError: whatever is wrong with the input. The message is one line that goes on after
            the input's name: "is empty (0 bytes)", "is truncated: ...".
    """
    max_pixels = usual_limit() if max_pixels is None else max_pixels
    with explained(), opened(source, max_pixels) as stream:
        head = stream.read(64)
        name = format_of(head)
        if name in _READ_WHOLE:
            _check_bytes(stream.seek(0, os.SEEK_END))
        if name == "ICO":
            _check_icon(stream, max_pixels)
        stream.seek(0)
        if name == "TIFF":
            from resnest_cli.images.tiff import read_tiff

            return read_tiff(stream, max_pixels)
        image = plugin_of(name)(stream)
        check_pixels(*image.size, max_pixels)
        loaded: Image.Image = image
        if name == "JPEG" and at_least is not None:
            loaded = _reduced(image, at_least)
        image.load()
        orientation = _orientation(image) if exif else 1
        if name == "PNG" and head[24:25] == b"\x10":
            from resnest_cli.images.samples import eight_bits

            loaded = eight_bits(image, stream)
        return _upright_rgb(loaded, orientation)


def opened(
    source: "str | os.PathLike[str] | bytes | BinaryIO", max_pixels: int = MAX_PIXELS
) -> BinaryIO:
    """A photo as a stream to be closed, and Pillow ready for it."""
    if max_pixels > MAX_PIXELS:  # GIF and WebP are measured by Pillow while it opens them
        raise_pillows_limit(max_pixels)
    if list(warnings.filters[:1]) != [_QUIET_RULE]:  # later rules come first
        warnings.filterwarnings("ignore", module=_QUIET_MODULES)
    if isinstance(source, str | os.PathLike):
        _checked_file(os.fspath(source))
        return Path(source).open("rb")
    data = source if isinstance(source, bytes) else source.read(_MAX_BYTES + 1)
    if not isinstance(source, bytes):
        _check_bytes(len(data))
    return io.BytesIO(data)


def read_file(path: str) -> bytes | str:
    """The bytes of a file, for `decode`; the path itself where it is too large to be held whole."""
    with explained():
        return path if _checked_file(path) > _MAX_HELD else Path(path).read_bytes()


def jpeg_orientation(data: bytes, *, exif: bool = True, max_pixels: int = MAX_PIXELS) -> int | None:
    """The EXIF orientation of a whole JPEG in RGB or grey that something else is to decode.

    1, upright, without `exif`. None for all that is not such a JPEG, or has more pixels: `decode`
    takes it, or says what is wrong with it.
    """
    if data.startswith(b"\xff\xd8\xff") and data.rstrip(b"\0\r\n").endswith(b"\xff\xd9"):
        with suppress(Exception):  # Pillow raises about anything on bad data
            image = plugin_of("JPEG")(io.BytesIO(data))
            check_pixels(*image.size, max_pixels)
            if image.mode in ("RGB", "L"):
                return _orientation(image) if exif else 1
    return None


def upright_rgb(image: Image.Image, *, exif: bool = True) -> Image.Image:
    """An opened image as `decode` would give it; the image itself is not changed."""
    with explained():
        return _upright_rgb(image.copy(), _orientation(image) if exif else 1)


def _checked_file(path: str) -> int:
    """The file's size in bytes; opening a pipe or a device could block for ever."""
    if "\0" in path:
        raise ImageError("is no name of a file: it holds a NUL byte", kind="missing")
    status = Path(path).stat() if path else os.stat(path)  # noqa: PTH116 - Path("") is the folder
    if stat.S_ISDIR(status.st_mode):
        raise _no_image("is a folder, not an image")
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise _no_image(f"is {kind}, not a regular file; - reads a photo from standard input")
    return status.st_size


def _reduced(image: "ImageFile.ImageFile", at_least: int) -> Image.Image:
    """The JPEG at the smallest scale of 1/2, 1/4 and 1/8 that leaves both sides `at_least` long.

    libjpeg rounds the sides up: a last column or row that only a part of a block of pixels fills
    would stretch the picture, and is cut off.
    """
    width, height = image.size
    image.draft(None, (at_least, at_least))
    scale = round(width / image.width)
    whole = width // scale, height // scale
    return image if image.size == whole else image.crop((0, 0, *whole))


def format_of(head: bytes) -> str:
    """The format of a file that starts so."""
    if not head:
        raise ImageError("is empty (0 bytes)", kind="empty")
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:1] == b"P" and head[1:2] in b"123456fy" and head[2:3].isspace():
        return "PPM"
    if head[4:8] == b"ftyp":
        # The major brand, then (after a version) the compatible ones; `mif1` alone says nothing.
        length = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, length, 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
        raise _no_image(f"is a video or another MP4-like file, not an image; {_EVERY}")
    for magic, kind in _OTHERS.items():
        if head.startswith(magic):
            raise _no_image(f"is {kind}")
    text = head[:20].decode("ascii", "replace").strip()
    if text.isprintable() and "\ufffd" not in text:
        raise _no_image(f"is not an image: starts with {text!r}")
    raise _no_image(f"is not an image in a known format: starts with bytes {head[:8].hex(' ')}")


def plugin_of(name: str) -> "type[ImageFile.ImageFile]":
    """What reads a format of this name, other than TIFF."""
    heic, stem = name == "HEIC", _PLUGINS[name]
    try:
        module = importlib.import_module("pillow_heif" if heic else f"PIL.{stem}ImagePlugin")
    except ImportError as error:
        if not heic:
            raise
        raise _no_image(missing("pillow_heif", "is a HEIC photo, which")) from error
    plugin: type[ImageFile.ImageFile] = getattr(module, f"{stem}ImageFile")
    return plugin


def _check_bytes(size: int) -> None:
    if size > _MAX_BYTES:
        raise ImageError(f"is larger than the limit of {_MAX_BYTES} bytes", kind="too large")


def _check_icon(stream: BinaryIO, max_pixels: int) -> None:
    """Refuse an icon whose pictures are larger than the at most 256 x 256 of its directory."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(4)
    (count,) = struct.unpack("<H", stream.read(2))
    directory = stream.read(16 * count)
    for at in range(0, len(directory) - 15, 16):
        (offset,) = struct.unpack_from("<I", directory, at + 12)
        stream.seek(min(offset, size))
        head = stream.read(24).ljust(24, b"\0")
        png = head.startswith(b"\x89PNG")
        width, height = struct.unpack_from(">II" if png else "<ii", head, 16 if png else 4)
        check_pixels(abs(width), abs(height), max_pixels)
        if abs(width * height) > _MAX_ICON_PIXELS:
            size_text = f"has {width} x {height} pixels, more than an icon has"
            raise ImageError(size_text, kind="too large")


def _orientation(image: Image.Image) -> int:
    """The orientation by EXIF, 1 for upright; broken EXIF says nothing."""
    with suppress(Exception):
        found = image.getexif().get(_ORIENTATION_TAG, 1)
        return int(found) if found in UPRIGHT else 1
    return 1


def _upright_rgb(image: Image.Image, orientation: int) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        import numpy as np

        from resnest_cli.images.samples import to_bytes

        image = Image.fromarray(to_bytes(np.asarray(image)))
    if image.mode != "RGB":
        image.info.pop("transparency", None)  # of no use, and several such colours are a warning
        image = image.convert("RGB")
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _no_image(text: str) -> ImageError:
    return ImageError(text, kind="not an image")


@contextmanager
def explained() -> Iterator[None]:
    """Turns whatever goes wrong inside into an `ImageError`; Pillow raises about anything."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise _explanation(error) from error


def _explanation(error: Exception) -> ImageError:
    text = one_line(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        missing = {errno.ENOENT: "does not exist", errno.ELOOP: "is a symbolic link to itself"}
        why = f"cannot be read: {(error.strerror or text).lower()}"
        kind: ErrorKind = "missing" if error.errno in missing else "unreadable"
        found = ImageError(missing.get(error.errno, why), kind=kind)
    elif isinstance(error, MemoryError):
        found = ImageError(NO_MEMORY, kind="too large")
    elif isinstance(error, Image.DecompressionBombError):
        found = ImageError(f"is refused: {text}; --max-pixels raises the limit", kind="too large")
    elif isinstance(error, EOFError) or "truncated" in text.lower():  # Pillow says it in words only
        found = ImageError(f"is truncated: {text or 'the data end too early'}", kind="truncated")
    elif _UNSUPPORTED.search(text):
        found = unsupported(text)
    elif isinstance(error, OSError | SyntaxError | ValueError):
        found = damaged(text)
    else:  # the text alone says too little
        found = damaged(f"{type(error).__name__} {text}")
    return found
