"""Real HEIC photos, where pillow-heif is installed."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.images.decode import decode
from tests.images.corpus import PHOTO, STORED

pillow_heif = pytest.importorskip("pillow_heif")

BEST = {"quality": -1, "chroma": 444}  # lossless but for the colour space


def heic(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, **options)
    return stream.getvalue()


def pixels(data: bytes, **options: bool) -> np.ndarray:
    image = decode(data, **options)
    assert image.mode == "RGB"
    return np.asarray(image, float)


def test_a_photo() -> None:
    assert np.abs(pixels(heic(PHOTO, **BEST)) - np.asarray(PHOTO, float)).mean() < 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_other_modes(mode) -> None:
    grey = PHOTO.convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        image = PHOTO.convert(mode)
    expected = np.asarray((grey if mode == "I;16" else image).convert("RGB"), float)
    assert np.abs(pixels(heic(image, **BEST)) - expected).mean() < 4


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("tag", ["same", "upright"])
def test_all_orientations(value, tag) -> None:
    """The container turns a photo, whatever `exif` and the tag in its EXIF block say."""
    stored = PHOTO.transpose(STORED[value]) if value in STORED else PHOTO
    data = tagged(stored, value, value if tag == "same" else 1)
    upright = pixels(heic(PHOTO, **BEST))
    np.testing.assert_array_equal(pixels(data), upright)
    np.testing.assert_array_equal(pixels(data, exif=False), upright)


def test_an_orientation_that_stands_in_the_exif_block_alone_is_ignored() -> None:
    """As HEIF has it: only the transformations of the container count."""
    np.testing.assert_array_equal(pixels(tagged(PHOTO, 1, 6)), pixels(heic(PHOTO, **BEST)))


def tagged(stored: Image.Image, turn: int, tag: int) -> bytes:
    """A photo whose container turns it by one orientation while its EXIF block tells another."""
    exif = Image.Exif()
    exif[0x0112] = turn
    data = heic(stored, exif=exif.tobytes(), **BEST)  # writes it to both places
    entry = struct.pack(">HHI", 0x0112, 3, 1)
    assert data.count(entry + struct.pack(">H", turn)) == 1
    return data.replace(entry + struct.pack(">H", turn), entry + struct.pack(">H", tag))


def test_the_primary_picture_of_several() -> None:
    several = pillow_heif.HeifFile()
    for image in (Image.new("RGB", PHOTO.size, "red"), PHOTO):
        several.add_from_pillow(image)
    stream = io.BytesIO()
    several.save(stream, primary_index=1, **BEST)
    np.testing.assert_array_equal(pixels(stream.getvalue()), pixels(heic(PHOTO, **BEST)))


@pytest.mark.parametrize("share", [0.01, 0.02, 0.1, 0.5, 0.9, 0.99])
def test_truncated(share) -> None:
    data = heic(PHOTO)
    with pytest.raises(ImageError, match=r"^is (damaged|truncated|not an image)"):
        decode(data[: int(len(data) * share)])


def test_too_many_pixels() -> None:
    with pytest.raises(ImageError, match="has 96 x 64 pixels, more than the limit of 6143 "):
        decode(heic(PHOTO), max_pixels=96 * 64 - 1)


def test_a_bomb_is_refused_by_its_header() -> None:
    data = heic(PHOTO)
    size = b"ispe\0\0\0\0" + struct.pack(">II", *PHOTO.size)
    assert size in data
    with pytest.raises(ImageError, match="25000"):
        decode(data.replace(size, b"ispe\0\0\0\0" + struct.pack(">II", 25_000, 25_000)))


def test_bits_flipped_anywhere() -> None:
    data = heic(PHOTO.resize((48, 32)))
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.integers(0, 400 if rng.random() < 0.7 else len(data))] ^= 1 << rng.integers(8)
        try:
            mode = decode(bytes(damaged), max_pixels=2**20).mode
        except ImageError as error:
            mode = "" if str(error).isprintable() else "odd message"
        assert mode in ("", "RGB")


def test_messages_are_printable() -> None:
    """Found by the fuzzer: libheif quotes a property's name as it stands."""
    data = heic(PHOTO.convert("RGBA"))
    assert b"auxC" in data
    with pytest.raises(ImageError) as caught:
        decode(data.replace(b"auxC", b"aux\x03"))
    assert str(caught.value).isprintable()
