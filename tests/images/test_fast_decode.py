"""`--fast-decode`: JPEGs at reduced scale, never below what was asked for, the right way up."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.images.batches import Preparation
from resnest_cli.images.decode import decode
from resnest_cli.images.preprocess import shorter_side
from resnest_cli.model.variants import VARIANTS, Preprocessing

CAT = Path(__file__).parents[1] / "data" / "cat.jpg"


def enlarged(size: tuple[int, int], format_: str = "JPEG", **options: object) -> bytes:
    """The cat in another size, as the bytes of a file."""
    buffer = io.BytesIO()
    with Image.open(CAT) as image:
        image.resize(size, Image.Resampling.BICUBIC).save(buffer, format_, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "at_least", "want"),
    [
        ((1600, 1200), 150, (200, 150)),
        ((1600, 1200), 151, (400, 300)),
        ((1200, 1600), 600, (600, 800)),
        ((1600, 1200), 601, (1600, 1200)),
        ((1600, 1200), 5000, (1600, 1200)),
        ((1603, 1207), 150, (200, 150)),
        ((1600, 1200), None, (1600, 1200)),
    ],
)
def test_no_side_is_shorter_than_asked(
    size: tuple[int, int], at_least: int | None, want: tuple[int, int]
) -> None:
    data = enlarged(size, quality=90)
    found = decode(data, at_least=at_least)
    assert found.mode == "RGB"
    assert found.size == want
    # The same picture: near the whole one, brought to that size.
    scale = size[0] // want[0]
    box = (0, 0, scale * want[0], scale * want[1])
    whole = decode(data).resize(want, Image.Resampling.BOX, box=box)
    assert np.abs(np.asarray(found, float) - np.asarray(whole, float)).mean() < 2


def test_exif_turns_the_small_photo_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = enlarged((1600, 800), exif=exif)
    assert decode(data, at_least=100).size == (100, 200)
    assert decode(data, at_least=100, exif=False).size == (200, 100)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_modes(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (800, 800), 77 if mode == "L" else (10, 20, 30, 40)).save(buffer, "JPEG")
    small, whole = decode(buffer.getvalue(), at_least=100), decode(buffer.getvalue())
    assert small.size == (100, 100)
    assert small.getpixel((9, 9)) == whole.getpixel((9, 9))


def test_other_formats_are_decoded_whole() -> None:
    assert decode(enlarged((800, 600), "PNG"), at_least=50).size == (800, 600)
    assert decode(enlarged((800, 600), "WEBP"), at_least=50).size == (800, 600)


def test_truncated_and_huge_photos_are_still_errors() -> None:
    data = enlarged((800, 600))
    with pytest.raises(ImageError, match="truncated"):
        decode(data[: len(data) // 2], at_least=50)
    with pytest.raises(ImageError, match="800 x 600 pixels, more than the limit"):
        decode(data, at_least=50, max_pixels=800 * 600 - 1)


@pytest.mark.parametrize("mode", ["center", "border", "squash"])
@pytest.mark.parametrize("name", ["resnest14t", "resnest50d"])
def test_the_preparation_keeps_twice_what_it_needs(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = VARIANTS[name].preprocessing
    data = enlarged((4000, 3000))
    seen: list[int] = []
    real = Image.Image.resize

    def resize(image: Image.Image, *arguments: object, **more: object) -> Image.Image:
        seen.append(min(image.size))
        return real(image, *arguments, **more)  # type: ignore[arg-type]

    plain = Preparation(config, mode)(data)  # type: ignore[arg-type]
    monkeypatch.setattr(Image.Image, "resize", resize)
    fast = Preparation(config, mode, fast=True)(data)  # type: ignore[arg-type]
    (side,) = seen
    assert side < 3000
    assert side >= 2 * shorter_side(config)
    levels = np.abs(plain - fast) * np.float32(config.std[0] * 255)
    assert 0 < levels.mean() < 1.5


def test_small_photos_keep_their_bits() -> None:
    config = Preprocessing(224)
    assert shorter_side(config) == math.floor(224 / 0.875)
    for photo in (CAT.read_bytes(), enlarged((1000, 1000), "PNG")):
        assert (Preparation(config)(photo) == Preparation(config, fast=True)(photo)).all()
