"""Photos in every format and mode, and hundreds of bad ones, generated from fixed seeds.

`good_files` holds what must be read, `bad_files` what is damaged or no photo at all. The campaign's
fuzzer starts from the same good files.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, features

from tests.images.conftest import make_photo
from tests.images.test_decode import STORED, big_headers, chunk, png

SIZE = (96, 64)
PHOTO = make_photo(*SIZE)
BROKEN_EXIF = (
    b"Exif\0\0",
    b"Exif\0\0garbage that is no TIFF",
    b"Exif\0\0MM\0*\xff\xff\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\x03\0\0\0\1\0\x63\0\0\0\0\0\0",  # orientation 99
    b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\x02\0\0\x10\0\0\0\xff\0\0\0\0\0",  # a long text
)

Expect = Literal["ok", "error", "whole", "any"]


@dataclass(frozen=True)
class Case:
    """One file of the corpus.

    `expect`: it is read, it is refused, it is refused unless it gives all of the photo `like`, or
    either. `like` names a case of which this one must give every pixel.
    """

    kind: str
    name: str
    data: bytes
    expect: Expect
    like: str | None = None


def encoded(format_: str, image: Image.Image = PHOTO, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def formats() -> dict[str, bytes]:
    """One ordinary photo in each format and compression, by extension."""
    files = {
        "jpg": encoded("JPEG", quality=90),
        "progressive.jpg": encoded("JPEG", progressive=True),
        "png": encoded("PNG"),
        "webp": encoded("WEBP"),
        "lossless.webp": encoded("WEBP", lossless=True),
        "gif": encoded("GIF"),
        "bmp": encoded("BMP"),
        "tif": encoded("TIFF"),
        "lzw.tif": encoded("TIFF", compression="tiff_lzw"),
        "deflate.tif": encoded("TIFF", compression="tiff_deflate"),
        "packbits.tif": encoded("TIFF", compression="packbits"),
        "mpo": encoded("MPO"),
        "ppm": encoded("PPM"),
        "png.ico": encoded("ICO", sizes=[SIZE]),
        "bmp.ico": encoded("ICO", sizes=[SIZE], bitmap_format="bmp"),
    }
    if features.check("avif"):
        files["avif"] = encoded("AVIF")
    return files


def modes() -> dict[str, bytes]:
    """The photo in every other mode that a format can hold."""
    deep = Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257)
    real = Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.float32) / 255)
    wide = Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.int32) * 1000)
    cmyk = encoded("JPEG", PHOTO.convert("CMYK"))
    clear = PHOTO.convert("P")
    clear.info["transparency"] = bytes(range(256))
    files = {
        "cmyk.jpg": cmyk,
        "ycck.jpg": cmyk.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2"),
        "cmyk.tif": encoded("TIFF", PHOTO.convert("CMYK")),
        "lab.tif": encoded("TIFF", PHOTO.convert("YCbCr")),
        "16-bit.png": encoded("PNG", deep),
        "16-bit.tif": encoded("TIFF", deep),
        "16-bit.pgm": encoded("PPM", deep),
        "32-bit.tif": encoded("TIFF", wide),
        "float.tif": encoded("TIFF", real),
        "palette.png": encoded("PNG", PHOTO.convert("P")),
        "transparent.png": encoded("PNG", clear),
        "palette.bmp": encoded("BMP", PHOTO.convert("P")),
        "palette.tif": encoded("TIFF", PHOTO.convert("P")),
        "alpha.webp": encoded("WEBP", PHOTO.convert("RGBA")),
    }
    for mode, format_ in (("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG")):
        files[f"{mode}.png"] = encoded(format_, PHOTO.convert(mode))
    for mode, format_ in (("1", "BMP"), ("L", "JPEG"), ("1", "TIFF"), ("L", "TIFF"), ("1", "PPM")):
        files[f"{mode}.{format_.lower()}"] = encoded(format_, PHOTO.convert(mode))
    return files


def animations() -> Iterator[tuple[str, bytes, str]]:
    """Name, data, and the name of the still picture that its first frame is."""
    options = {"save_all": True, "append_images": [Image.new("RGB", SIZE, "red")] * 2}
    yield "gif", encoded("GIF", **options), "good/gif"
    yield "png", encoded("PNG", **options), "good/png"
    yield "webp", encoded("WEBP", lossless=True, **options), "good/lossless.webp"
    yield "tif", encoded("TIFF", **options), "good/tif"


def good_files() -> Iterator[Case]:
    for name, data in formats().items():
        yield Case("good", name, data, "ok")
    for name, data in modes().items():
        yield Case("mode", name, data, "ok")
    for name, data, like in animations():
        yield Case("animation", name, data, "ok", like)
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        stored = PHOTO.transpose(STORED[value]) if value in STORED else PHOTO
        for name, options in (("png", {}), ("webp", {"lossless": True}), ("tiff", {})):
            data = encoded(name.upper(), stored, exif=exif, **options)
            yield Case("orientation", f"{value}.{name}", data, "ok", "good/png")
    for index, block in enumerate(BROKEN_EXIF):
        for name in ("jpg", "png"):
            format_ = {"jpg": "JPEG", "png": "PNG"}[name]
            options = {"quality": 90} if name == "jpg" else {}
            data = encoded(format_, exif=block, **options)
            yield Case("broken EXIF", f"{index}.{name}", data, "ok", f"good/{name}")
    profile = np.random.default_rng(0).bytes(500)
    for name, format_, options in (
        ("jpg", "JPEG", {"quality": 90}),
        ("png", "PNG", {}),
        ("lossless.webp", "WEBP", {"lossless": True}),
        ("tif", "TIFF", {}),
    ):
        data = encoded(format_, icc_profile=profile, **options)
        yield Case("corrupt ICC", name, data, "ok", f"good/{name}")
    swapped = dict(formats())
    names = list(swapped)
    for name, other in zip(names, names[5:] + names[:5], strict=True):
        yield Case("swapped extension", f"{name}.{other}", swapped[name], "ok", f"good/{name}")


def bad_files() -> Iterator[Case]:
    for name, data in formats().items():
        yield from _truncated(name, data)
        yield from _flipped(name, data)
        yield from _wrong_headers(name, data)
    for name, data in not_photos().items():
        yield Case("no photo", name, data, "error")
    for index, (name, data) in enumerate(big_headers()):
        yield Case("bomb", f"{index}.{name.lower()}", data, "error")
    text = zlib.compress(bytes(20_000_000), 9)
    for kind, value in ((b"zTXt", b"k\0\0" + text), (b"iTXt", b"k\0\1\0\0\0" + text)):
        data = png(1, 1, 8, 2, b"\0\1\2\3", chunk(kind, value))
        yield Case("bomb", f"{kind.decode()}.png", data, "any")


def _truncated(name: str, data: bytes) -> Iterator[Case]:
    sizes = [1, 2, 3, 5, 9, 13, 20, 27, 40]
    sizes += [len(data) * share // 100 for share in (5, 15, 30, 45, 60, 75, 90, 97)]
    sizes += [len(data) - 1, len(data) - 2, len(data) - 10]
    for size in sorted(set(sizes)):
        yield Case("truncated", f"{size}.{name}", data[:size], "whole", f"good/{name}")


def _flipped(name: str, data: bytes) -> Iterator[Case]:
    rng = np.random.default_rng(sum(name.encode()))
    for index in range(8):
        end = 64 if index % 2 else len(data)  # headers break in more ways than pixels
        damaged = bytearray(data)
        for at in rng.integers(0, end, 3):
            damaged[at] ^= 1 << rng.integers(0, 8)
        yield Case("bits flipped", f"{index}.{name}", bytes(damaged), "any")


def _wrong_headers(name: str, data: bytes) -> Iterator[Case]:
    yield Case("wrong header", f"zeros.{name}", bytes(16) + data[16:], "error")
    yield Case("wrong header", f"headless.{name}", data[20:], "error")
    for magic, other in ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff\xe0", "jpg")):
        if not name.endswith(("png", "jpg", "mpo")):
            yield Case("wrong header", f"{other}.{name}", magic + data[len(magic) :], "error")
    yield Case("wrong header", f"hole.{name}", data[:60] + bytes(40) + data[100:], "any")


def not_photos() -> dict[str, bytes]:
    """What people take for photos, or what lies among them."""
    brands = struct.pack(">I", 24) + b"ftyp"
    return {
        "empty.jpg": b"",
        "newline.jpg": b"\n",
        "nul.jpg": bytes(5000),
        "ones.jpg": b"\xff" * 5000,
        "random.jpg": np.random.default_rng(1).bytes(5000),
        "text.jpg": b"BMW is a car maker.\n" * 20,
        "unicode.jpg": "Größe 狗".encode(),
        "utf16.jpg": "some text".encode("utf-16"),
        "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
        "drawing.jpg": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
        "data.jpg": b'{"error": "not found"}',
        "paper.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(100),
        "archive.jpg": b"PK\3\4" + bytes(100),
        "packed.jpg": b"\x1f\x8b\x08" + bytes(100),
        "program.jpg": b"\x7fELF\2\1\1" + bytes(100),
        "layers.jpg": b"8BPS\0\1" + bytes(100),
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "film.jpg": brands + b"mp42\0\0\0\0mp42isom" + bytes(100),
        "film.webm": b"\x1aE\xdf\xa3" + bytes(100),
        "xl.jpg": b"\xff\x0a" + bytes(100),
        "2000.jpg": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        "sound.wav": b"RIFF\0\1\0\0WAVEfmt " + bytes(100),
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "raw.dng": b"II*\0\x08\0\0\0\0\0" + bytes(100),
        "nothing.png": png(0, 5, 8, 2, b""),
        "nothing.ppm": b"P6\n0 0\n255\n",
        "minus.ppm": b"P6\n-3 -3\n255\n" + bytes(100),
        "nothing.gif": b"GIF89a" + bytes(30),
        "magic.jpg": b"\xff\xd8\xff",
        "magic.png": b"\x89PNG\r\n\x1a\n",
        "magic.webp": b"RIFF\4\0\0\0WEBP",
        "magic.avif": struct.pack(">I", 28) + b"ftypavif\0\0\0\0avifmif1miaf",
        "magic.tif": b"MM\0*\0\0\0\x08",
        "magic.ico": b"\0\0\1\0\1\0",
        "end.jpg": b"\xff\xd8\xff\xd9",
    }


class GoodFiles(dict[str, bytes]):
    """The good files by name, HEIC too where pillow-heif is at hand; `names` in a fixed order."""

    def __init__(self) -> None:
        super().__init__({f"{case.kind}/{case.name}": case.data for case in good_files()})
        with suppress(ImportError):
            import pillow_heif

            for mode in ("RGB", "RGBA", "L"):
                stream = io.BytesIO()
                pillow_heif.from_pillow(PHOTO.convert(mode)).save(stream)
                self[f"heic/{mode}"] = stream.getvalue()
        self.names = sorted(self)
