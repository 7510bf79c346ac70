import io
import os
import socket
import stat
import struct
import subprocess
import sys
import types
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from resnest_cli.errors import ImageError
from resnest_cli.images import decode as module
from resnest_cli.images.decode import decode
from tests.images.conftest import make_photo

WIDTH, HEIGHT = 61, 43
PHOTO = make_photo(WIDTH, HEIGHT)
LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("PPM", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_deflate"}),
    ("TIFF", {"compression": "packbits"}),
    ("WEBP", {"lossless": True}),
    ("ICO", {"sizes": [(WIDTH, HEIGHT)]}),
    ("ICO", {"sizes": [(WIDTH, HEIGHT)], "bitmap_format": "bmp"}),
]
LOSSY = [("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("GIF", {}), ("MPO", {})]
if features.check("avif"):
    LOSSY.append(("AVIF", {"quality": 95}))


def encoded(image=PHOTO, format_="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def error_of(source, **options):
    with pytest.raises(ImageError) as caught:
        decode(source, **options)
    message = str(caught.value)
    assert message
    assert message.isprintable()  # one line
    return message


def same(image, expected):
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected), strict=True)


def close(image, expected, mean=6.0):
    assert image.mode == "RGB"
    difference = np.abs(np.asarray(image, float) - np.asarray(expected, float))
    assert difference.mean() < mean


# Formats and sources


@pytest.mark.parametrize(("format_", "options"), LOSSLESS, ids=str)
def test_lossless_formats(format_, options):
    same(decode(encoded(format_=format_, **options)), PHOTO)


@pytest.mark.parametrize(("format_", "options"), LOSSY, ids=str)
def test_lossy_formats(format_, options):
    photo = make_photo(WIDTH, HEIGHT).resize((200, 150), Image.Resampling.BICUBIC)
    data = encoded(photo, format_, **options)
    close(decode(data), photo, 12)
    with Image.open(io.BytesIO(data)) as image:
        same(decode(data), image.convert("RGB"))


def test_paths_bytes_and_streams(tmp_path, monkeypatch):
    data = encoded()
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    monkeypatch.chdir(tmp_path)

    class Pipe(io.RawIOBase):
        """Like stdin: it cannot seek."""

        inner = io.BytesIO(data)

        def read(self, size=-1):
            return self.inner.read(size)

    with path.open("rb") as stream:
        for source in (path, str(path), "photo.png", data, io.BytesIO(data), Pipe(), stream):
            same(decode(source), PHOTO)
    assert path.read_bytes() == data


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are Unicode")
def test_odd_names(tmp_path):
    for name in (b"caf\xe9.png", b"line\nbreak.png", b"-.png", "狗.png".encode()):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(encoded())
        same(decode(str(path)), PHOTO)


def test_content_decides_not_the_name(tmp_path):
    for format_, options in LOSSLESS:
        path = tmp_path / "photo.jpg"
        path.write_bytes(encoded(format_=format_, **options))
        same(decode(path), PHOTO)


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_animations(format_):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    same(decode(data), frames[0])


def test_largest_picture_of_an_icon():
    data = encoded(PHOTO.resize((64, 64)), "ICO", sizes=[(16, 16), (64, 64), (32, 32)])
    assert decode(data).size == (64, 64)


def test_one_pixel():
    same(decode(encoded(Image.new("RGB", (1, 1), (1, 2, 3)))), Image.new("RGB", (1, 1), (1, 2, 3)))


@pytest.mark.parametrize(
    "text", [b"P3\n2 1\n255\n255 0 0 0 0 255\n", b"P6\n2 1\n255\n\xff\0\0\0\0\xff"]
)
def test_plain_and_raw_portable_maps(text):
    assert list(np.asarray(decode(text)).ravel()) == [255, 0, 0, 0, 0, 255]


# Modes


def test_grey_and_one_bit():
    same(decode(encoded(PHOTO.convert("L"))), PHOTO.convert("L").convert("RGB"))
    one_bit = PHOTO.convert("1")
    for format_ in ("PNG", "TIFF", "BMP", "PPM"):
        same(decode(encoded(one_bit, format_)), one_bit.convert("RGB"))


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr"])
def test_colour_spaces(mode):
    close(decode(encoded(PHOTO.convert(mode), "TIFF")), PHOTO)


def test_cmyk_jpeg_is_not_inverted():
    data = encoded(PHOTO.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in data
    close(decode(data), PHOTO, 2)


def test_ycck_jpeg():
    """Adobe's YCCK: YCbCr in place of CMY, with the K beside it inverted."""
    data = encoded(_ycck(PHOTO), "JPEG", quality=100, subsampling=0)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    close(decode(data[:at] + b"\2" + data[at + 1 :]), PHOTO, 2)


def _ycck(photo):
    # libjpeg takes YCC -> RGB -> 255 - RGB for the inverted CMY, so that its RGB are the CMY of the
    # photo; Pillow inverts whatever it writes.
    planes = ImageOps.invert(photo).convert("YCbCr").split()
    black = Image.new("L", photo.size, 0)
    return Image.merge("CMYK", [*(ImageOps.invert(plane) for plane in planes), black])


def test_palettes():
    palette = PHOTO.quantize(50)
    same(decode(encoded(palette)), palette.convert("RGB"))
    same(decode(encoded(palette, "GIF")), palette.convert("RGB"))


@pytest.mark.parametrize("transparency", [7, bytes(range(0, 250, 5))])
def test_palettes_with_transparency_keep_their_colours(transparency):
    palette = PHOTO.quantize(50)
    data = encoded(palette, transparency=transparency)
    with Image.open(io.BytesIO(data)) as image:
        assert "transparency" in image.info
    same(decode(data), palette.convert("RGB"))


def test_transparency_is_dropped_as_convert_does():
    rgba = PHOTO.copy()
    alpha = Image.linear_gradient("L").resize(PHOTO.size)
    rgba.putalpha(alpha)
    same(decode(encoded(rgba)), PHOTO)
    same(decode(encoded(rgba, "TIFF")), PHOTO)
    same(decode(encoded(rgba, "WEBP", lossless=True, exact=True)), PHOTO)
    grey = PHOTO.convert("L")
    expected = grey.convert("RGB")
    grey.putalpha(alpha)
    assert grey.mode == "LA"
    same(decode(encoded(grey)), expected)
    same(decode(encoded(PHOTO, transparency=(1, 2, 3))), PHOTO)
    same(decode(encoded(PHOTO.convert("L"), transparency=9)), expected)
    same(decode(encoded(PHOTO.quantize(9).convert("PA"), "TIFF")), PHOTO.quantize(9).convert("RGB"))


RAMP = np.linspace(0, 65535, 12, dtype=np.uint16).reshape(3, 4)


def grey_levels(image):
    pixels = np.asarray(image)
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0].ravel().tolist()


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled(format_):
    levels = grey_levels(decode(encoded(Image.fromarray(RAMP), format_)))
    assert levels == [round(int(value) * 255 / 65535) for value in RAMP.ravel()]
    assert len(set(levels)) == 12  # convert("RGB") would clip all but the first to 255


def test_big_endian_16_bit_grey_is_scaled():
    image = Image.frombytes("I;16B", (4, 3), RAMP.astype(">u2").tobytes())
    levels = grey_levels(decode(encoded(image, "TIFF")))
    assert levels == [round(int(value) * 255 / 65535) for value in RAMP.ravel()]


def test_16_bit_colour_keeps_the_high_byte():
    rows = b"".join(
        b"\0" + RAMP[row : row + 1].repeat(3, axis=1).astype(">u2").tobytes() for row in range(3)
    )
    assert grey_levels(decode(png(4, 3, 16, 2, rows))) == (RAMP >> 8).ravel().tolist()


def test_32_bit_grey_is_scaled():
    within = np.array([[0, 257, 65535]], np.int32)
    assert grey_levels(decode(encoded(Image.fromarray(within), "TIFF"))) == [0, 1, 255]
    beyond = np.array([[-1000, 0, 1000, 2**31 - 1]], np.int32)
    assert grey_levels(decode(encoded(Image.fromarray(beyond), "TIFF"))) == [0, 0, 0, 255]
    small = np.array([[-100, 0, 100]], np.int32)
    assert grey_levels(decode(encoded(Image.fromarray(small), "TIFF"))) == [0, 128, 255]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([0.0, 0.25, 0.5, 1.0], [0, 64, 128, 255]),
        ([0.2, 0.2], [51, 51]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 300.0, 1200.0], [0, 64, 255]),
        ([NAN, 0.5, INF, -INF], [0, 128, 255, 0]),
        ([NAN, -5.0, 5.0, INF, -INF], [0, 0, 255, 255, 0]),
        ([NAN, NAN], [0, 0]),
        ([INF, -INF, NAN], [255, 0, 0]),
        ([700.0, 700.0], [0, 0]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
    ],
)
def test_float_grey_is_scaled(values, levels):
    image = Image.fromarray(np.array([values], np.float32))
    assert grey_levels(decode(encoded(image, "TIFF"))) == levels


# Orientation

# What a camera must have stored for the upright photo to come out.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_all_orientations(format_, value):
    stored = PHOTO.transpose(STORED[value]) if value in STORED else PHOTO
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encoded(stored, format_, exif=orientation(value), **options)
    same(decode(data), PHOTO)
    if format_ != "TIFF":  # Pillow turns TIFF itself
        same(decode(data, exif=False), stored)


@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_of_a_jpeg_is_exif_transpose(value):
    data = encoded(PHOTO, "JPEG", exif=orientation(value))
    with Image.open(io.BytesIO(data)) as image:
        same(decode(data), ImageOps.exif_transpose(image))
        same(decode(data, exif=False), image)
    assert decode(data).size == ((HEIGHT, WIDTH) if value >= 5 else (WIDTH, HEIGHT))


def test_orientation_of_other_modes():
    stored = Image.fromarray(RAMP).transpose(STORED[6])
    levels = grey_levels(decode(encoded(stored, exif=orientation(6))))
    assert levels == [round(int(value) * 255 / 65535) for value in RAMP.ravel()]


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0garbage that is no TIFF",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\x03\0\0\0\1\0\x63\0\0\0\0\0\0",  # orientation 99
        b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\x02\0\0\x10\0\0\0\xff\0\0\0\0\0",  # a long text
        b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\x03\0\0\0\2\0\6\0\6\0\0\0\0",  # two values
    ],
)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_fail_the_photo(block, format_):
    options = {"lossless": True} if format_ == "WEBP" else {}
    plain = decode(encoded(PHOTO, format_, **options))
    for action in ("error", "always"):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter(action)
            result = decode(encoded(PHOTO, format_, exif=block, **options))
        assert not seen
        if not block.endswith(b"\0\6\0\6\0\0\0\0"):
            same(result, plain)


# Bad data


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows, *extra):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        *extra,
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(("format_", "options"), LOSSLESS + LOSSY, ids=str)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_truncated_files_are_errors(format_, options, share, capfd):
    data = encoded(
        make_photo(90, 80),
        format_,
        **(options | {"sizes": [(90, 80)]} if format_ == "ICO" else options),
    )
    if format_ == "MPO" and share > 0.5:
        return
    error_of(data[: int(len(data) * share)])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_without_its_end_counts_as_truncated(progressive):
    data = encoded(format_="JPEG", progressive=progressive)
    assert decode(data + b"trailing bytes").size == PHOTO.size
    for cut in (1, 2, 3, 100):
        assert error_of(data[:-cut]).startswith("is truncated: ")


def test_damaged_compressed_data():
    data = bytearray(encoded())
    data[len(data) // 2] ^= 0xFF
    assert error_of(bytes(data)).startswith("is damaged: ")


def test_tiff_without_all_of_its_strips():
    data = bytearray(encoded(format_="TIFF", tiffinfo={278: 10}))
    with Image.open(io.BytesIO(data)) as image:
        assert len(image.tile) > 1
        strips = image.tag_v2[273][:2]
    short = encoded(format_="TIFF", tiffinfo={278: 10})
    at = short.index(struct.pack("<HHI", 273, 4, 5))
    assert len(strips) == 2
    cut = short[: at + 4] + struct.pack("<I", 2) + short[at + 8 :]
    assert error_of(cut) == "is damaged: parts of the picture are missing"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (b"<!DOCTYPE html><html>", "is not an image: starts with '<!DOCTYPE html><html'"),
        (b"hello", "is not an image: starts with 'hello'"),
        (b"\n\n{'a': 1}\n", "is not an image: starts with"),
        (
            b"\0" * 100,
            "is not an image in a known format: starts with bytes 00 00 00 00 00 00 00 00",
        ),
        (b"\x7fELF\x02\x01\x01\0", "is not an image in a known format"),
        (b"%PDF-1.4", "is a PDF"),
        (b"PK\3\4....", "is a ZIP archive"),
        (b"8BPS\0\1", "is a Photoshop document"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "is a video"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"\xff\xd8\xff", "is "),
        (b"GIF89a", "is "),
        (b"BM", "is "),
        (b"BMW is a car maker, and this is a text", "is "),
        (b"II*\0", "is "),
        (b"MM\0*\0\0\0\x08" + b"\xff" * 99, "is "),
        (b"\0\0\1\0", "is "),
        (b"\0\0\1\0\0\0", "is "),
        (b"P6\n", "is "),
        (b"P6 -1 -1 255\n", "is "),
        (b"RIFF\0\0\0\0WEBPVP8 ", "is "),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "is "),
        (b"\x89PNG\r\n\x1a\n", "is "),
    ],
)
def test_what_is_no_image(data, message):
    assert message in error_of(data)
    assert message in error_of(io.BytesIO(data))


def test_zero_sized_images():
    error_of(png(0, 5, 8, 2, b""))
    error_of(b"P6\n0 0\n255\n")
    error_of(b"GIF89a" + b"\0" * 30)


def test_heic_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"):
        message = error_of(struct.pack(">I", 24) + b"ftyp" + brands + b"data")
        assert message == (
            "is a HEIC photo, which needs pillow-heif (extra heic), which is not installed. "
            "Run: pip install pillow-heif"
        )


def test_heic_with_the_extra(monkeypatch):
    class HeifImageFile(ImageFile.ImageFile):
        """Stands in for pillow-heif, which is not a dependency of the tests."""

        format = "HEIF"

        def _open(self):
            self._size, self._mode = (2, 1), "RGB"
            self.tile = [ImageFile._Tile("raw", (0, 0, 2, 1), 24, "RGB")]

    monkeypatch.setitem(
        sys.modules, "pillow_heif", types.SimpleNamespace(HeifImageFile=HeifImageFile)
    )
    data = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes([1, 2, 3, 4, 5, 6])
    assert np.asarray(decode(data)).ravel().tolist() == [1, 2, 3, 4, 5, 6]


def test_avif_in_a_mif1_container_is_not_taken_for_heic():
    data = struct.pack(">I", 24) + b"ftypmif1\0\0\0\0mif1avif"
    assert module.format_of(data) == "AVIF"


# Bombs

BIG = 25_000


def big_headers():
    yield "PNG", png(BIG, BIG, 8, 2, b"\0" * 1000)
    yield (
        "BMP",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, BIG, BIG, 1, 24, *[0] * 6),
    )
    yield (
        "GIF",
        b"GIF89a"
        + struct.pack("<HHBBB", BIG, BIG, 0, 0, 0)
        + b","
        + struct.pack("<HHHHBB", 0, 0, BIG, BIG, 0, 2)
        + b"\0;",
    )
    yield "PPM", b"P6\n%d %d\n255\n" % (BIG, BIG)
    jpeg = encoded(format_="JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    yield "JPEG", jpeg[:at] + struct.pack(">HH", BIG, BIG) + jpeg[at + 4 :]
    tiff = encoded(format_="TIFF", compression="tiff_lzw")
    for tag, length in ((256, WIDTH), (257, HEIGHT)):
        entry = struct.pack("<HHIHH", tag, 3, 1, length, 0)
        assert entry in tiff
        tiff = tiff.replace(entry, struct.pack("<HHIHH", tag, 3, 1, BIG, 0))
    yield "TIFF", tiff
    for frame in (png(BIG, BIG, 8, 2, b"\0"), struct.pack("<IiiHHI", 40, BIG, 2 * BIG, 1, 32, 0)):
        directory = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(frame), 22)
        yield "ICO", struct.pack("<HHH", 0, 1, 1) + directory + frame.ljust(99, b"\0")


@pytest.mark.parametrize("action", ["error", "ignore", "always"])
def test_bombs_are_refused_by_their_header(action):
    for name, data in big_headers():
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter(action)
            message = error_of(data)
        assert not seen, name
        assert f"has {BIG} x" in message, name
        assert "(a decompression bomb?); --max-pixels" in message, name


BOMB = """
import resource, sys
from resnest_cli.errors import ImageError
from resnest_cli.images.decode import decode
decode(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        decode(path)
    except ImageError:
        continue
    raise SystemExit(f"{path} was decoded")
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
assert grown < 60, f"{grown} MB"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource is POSIX")
def test_bombs_cost_no_memory(tmp_path):
    paths = [tmp_path / "0"]
    paths[0].write_bytes(encoded())
    for number, (_, data) in enumerate(big_headers(), 1):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(data)
    # A compressed text of 200 MB in a small PNG, and a profile likewise.
    text = zlib.compress(bytes(200_000_000), 9)
    for kind, value in ((b"zTXt", b"k\0\0" + text), (b"iTXt", b"k\0\1\0\0\0" + text)):
        paths.append(tmp_path / kind.decode())
        paths[-1].write_bytes(png(1, 1, 8, 2, b"\0\1\2\3", chunk(kind, value)))
    command = [sys.executable, "-c", BOMB, *map(str, paths)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_the_limit_can_be_chosen():
    data = encoded()
    pixels = WIDTH * HEIGHT
    same(decode(data, max_pixels=pixels), PHOTO)
    message = error_of(data, max_pixels=pixels - 1)
    assert message == (
        f"has 61 x 43 pixels, more than the limit of {pixels - 1} (a decompression bomb?); "
        f"--max-pixels {pixels}, or RESNEST_MAX_PIXELS, reads it, with up to 0.1 GB of memory"
    )


@pytest.mark.parametrize("options", [{}, {"format_": "TIFF", "compression": "tiff_deflate"}])
def test_large_photos_below_the_limit_give_no_warning(options, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    data = encoded(Image.new("1", (10_000, 9_500)), **options)  # 95 million: Pillow would warn
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert decode(data).size == (10_000, 9_500)
    assert not seen


def test_pillow_is_left_as_it_was():
    limit = Image.MAX_IMAGE_PIXELS
    decode(encoded())
    assert limit == Image.MAX_IMAGE_PIXELS
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


# Things that are no regular files


def test_missing_files(tmp_path):
    for path in (tmp_path / "none.jpg", str(tmp_path / "no" / "such.jpg"), ""):
        assert error_of(path) == "does not exist"
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "none.jpg")
    assert error_of(tmp_path / "dangling.jpg") == "does not exist"


def test_folder(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    assert error_of(tmp_path / "x.jpg") == "is a folder, not an image"


def test_link_to_itself(tmp_path):
    (tmp_path / "x.jpg").symlink_to(tmp_path / "y.jpg")
    (tmp_path / "y.jpg").symlink_to(tmp_path / "x.jpg")
    assert error_of(tmp_path / "x.jpg") == "is a symbolic link to itself"


def test_link_to_a_photo(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    same(decode(tmp_path / "b.png"), PHOTO)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.timeout(120)
def test_pipes_sockets_and_devices_do_not_hang(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    rest = ", not a regular file; - reads a photo from standard input"
    assert error_of(tmp_path / "pipe.jpg") == "is a named pipe" + rest
    monkeypatch.chdir(tmp_path)  # the names of sockets must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        assert error_of("socket.jpg") == "is a socket" + rest
    assert error_of("/dev/zero") == "is a device" + rest


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded())

    def refuse(self, *args):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # chmod does not stop root
    assert error_of(path) == "cannot be read: permission denied"


def test_file_that_vanishes_after_it_was_seen(tmp_path, monkeypatch):
    regular = os.stat_result((stat.S_IFREG | 0o644, 0, 0, 1, 0, 0, 9, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda self: regular)
    assert error_of(tmp_path / "gone.png") == "does not exist"


def test_odd_paths(tmp_path):
    assert error_of("a\0b.jpg") == "is no name of a file: it holds a NUL byte"
    assert "too long" in error_of("x" * 5000)
    (tmp_path / "file").write_bytes(encoded())
    assert "not a directory" in error_of(str(tmp_path / "file" / "x.jpg"))


def test_disk_error_while_reading():
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    assert error_of(Broken()) == "cannot be read: input/output error"


def test_out_of_memory(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Image.core, "new", fail)
    assert error_of(encoded()) == "does not fit into this machine's memory"


# Threads and start-up


def test_many_threads_at_once():
    good, expected = encoded(PHOTO, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"), PHOTO.size
    bad = good[:-2]

    def work(number):
        if number % 3:
            return decode(good).size == expected
        return error_of(bad).startswith("is truncated")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))


def test_only_one_rule_for_warnings_is_added():
    decode(encoded())
    before = list(warnings.filters)
    for _ in range(3):
        decode(encoded())
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_starts_without_heavy_imports(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(format_="JPEG"))
    code = (
        "import sys; from resnest_cli.images import decode, preprocess, sources, folders\n"
        "assert decode.decode(sys.argv[1]).mode == 'RGB'\n"
        "heavy = {'torch', 'torchvision', 'typer', 'rich', 'requests', 'PIL.WebPImagePlugin',"
        " 'PIL.PngImagePlugin', 'PIL.AvifImagePlugin', 'pillow_heif'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.jpg")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])


def test_shared_photos(shared_photos):
    for path in shared_photos:
        with Image.open(path) as image:
            same(decode(path), ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("most", [1, 15, 31, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_pnm_of_any_maximum(kind, most):
    shares = np.asarray(PHOTO)[..., : 1 if kind in (2, 5) else 3] / 255
    values = np.round(shares * most).astype(int)
    head = f"P{kind}\n{WIDTH} {HEIGHT}\n{most}\n".encode()
    if kind in (2, 3):
        body = "\n".join(map(str, values.ravel())).encode()
    else:
        body = values.astype(">u2" if most > 255 else "u1").tobytes()
    assert np.abs(np.asarray(decode(head + body)) - values / most * 255).max() <= 1


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("format_", ["AVIF", "HEIC"])
def test_more_than_8_bits_of_a_telephone(format_, bits):
    wide = np.repeat(np.asarray(PHOTO.resize((64, 64))), 2, axis=1)
    deep = (wide.astype(np.uint16) * 257) >> (16 - bits)
    if format_ == "AVIF":
        codecs = pytest.importorskip("imagecodecs")
        data = codecs.avif_encode(deep, level=100, bitspersample=bits)
    else:
        heif = pytest.importorskip("pillow_heif")
        image = heif.from_bytes("RGB;16", (128, 64), (wide.astype(np.uint16) * 257).tobytes())
        stream = io.BytesIO()
        image.save(stream, quality=100, chroma=444)
        data = stream.getvalue()
    close(decode(data), wide, 3)


def test_cmyk_jpeg_is_not_inverted_twice():
    cmyk = PHOTO.resize((64, 64)).convert("CMYK")
    close(decode(encoded(cmyk, "JPEG", quality=98)), cmyk.convert("RGB"), 4)


@pytest.mark.parametrize(
    ("masks", "order"), [((0xF800, 0x7E0, 0x1F), (11, 5, 0)), ((0x7C00, 0x3E0, 0x1F), (10, 5, 0))]
)
def test_bmp_of_16_bits(masks, order):
    wide = [mask >> shift for mask, shift in zip(masks, order, strict=True)]
    values = np.round(np.asarray(PHOTO.crop((0, 0, 60, HEIGHT))) / 255 * wide).astype(int)
    pixels = sum(values[..., channel] << order[channel] for channel in range(3))
    body = pixels[::-1].astype("<u2").tobytes()
    info = struct.pack("<IiiHHIIiiII3I", 40, 60, HEIGHT, 1, 16, 3, len(body), 0, 0, 0, 0, *masks)
    data = b"BM" + struct.pack("<IHHI", 66 + len(body), 0, 0, 66) + info + body
    assert np.abs(np.asarray(decode(data)) - values / wide * 255).max() <= 1


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\xff\x4f\xff\x51", "is a JPEG 2000 image, a format that is not supported"),
        (b"\0\0\2\0\1\0", "is a cursor, a format that is not supported"),
        (b"P7\nWIDTH 3\n", "is a PAM image, a format that is not supported"),
        (b"qoif\0", "is a QOI image, a format that is not supported"),
    ],
)
def test_formats_that_are_not_supported(head, message):
    assert error_of(head.ljust(99, b"\0")) == message


def test_a_jpeg_of_12_bits_is_not_supported():
    codecs = pytest.importorskip("imagecodecs")
    data = codecs.jpeg8_encode(np.zeros((16, 16, 3), np.uint16), bitspersample=12)
    assert error_of(data) == "is not supported: cannot handle 12-bit layers"


def test_scientific_images():
    folder = Path(pytest.importorskip("skimage.data").__file__).parent
    names = ["multipage.tif", "no_time_for_that_tiny.gif", "page.png",
             "rocket.jpg", "chessboard_GRAY.png", "logo.png"]  # fmt: skip
    for path in (folder / name for name in names):
        with Image.open(path) as image:
            if not image.mode.startswith("I"):
                same(decode(path), image.convert("RGBA").convert("RGB"))
