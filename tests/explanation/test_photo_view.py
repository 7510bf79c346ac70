"""Where a map is hot, in the photo and not in the crop of it."""

import numpy as np
import pytest
from PIL import Image

from resnest_cli.explanation.photo_view import Look, hot_region
from resnest_cli.images.batches import Preparation
from resnest_cli.model.variants import Preprocessing
from resnest_cli.options import CropMode

WHOLE = (0.0, 0.0, 1.0, 1.0)


def test_the_hot_part() -> None:
    heat = np.zeros((10, 10), np.float32)
    heat[2:4, 5:9] = 0.5
    heat[3, 8] = 1
    heat[9, 0] = 0.49
    found = hot_region(heat, WHOLE)
    assert found is not None
    assert found.box == pytest.approx((0.5, 0.2, 0.9, 0.4))
    x, y = found.centre
    assert (x, y) == pytest.approx((0.7 + 0.5 * 0.15 / 4.5, 0.3 + 0.5 * 0.05 / 4.5))
    assert hot_region(np.zeros((4, 4), np.float32), WHOLE) is None


def test_in_fractions_of_the_photo() -> None:
    heat = np.ones((4, 4), np.float32)
    inner = hot_region(heat, (0.25, 0.1, 0.75, 0.9))
    assert inner is not None
    assert inner.box == (0.25, 0.1, 0.75, 0.9)
    padded = hot_region(heat, (0.0, -0.5, 1.0, 1.5))
    assert padded is not None
    assert padded.box == (0.0, 0.0, 1.0, 1.0)
    assert padded.centre == (0.5, 0.5)


@pytest.mark.parametrize("mode", ["center", "border", "squash"])
@pytest.mark.parametrize("size", [(120, 60), (60, 120), (97, 64)])
def test_the_window_is_where_the_pixels_come_from(mode: CropMode, size: tuple[int, int]) -> None:
    """A gradient along each side: every pixel of the input shows its place in the photo."""
    width, height = size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    photo = np.rint(255 * np.stack([x, y, np.ones_like(x)], axis=2)).astype(np.uint8)
    config = Preprocessing(48, 0.8, "bilinear")
    looked = Look(Preparation(config, mode))(Image.fromarray(photo))
    assert (looked.width, looked.height) == size
    left, top, right, bottom = looked.window
    filled = looked.pixels[..., 2] == 255  # the padding is grey
    places = (np.arange(48) + 0.5) / 48
    seen = looked.pixels / 255
    inside = np.zeros_like(filled)
    inside[2:-2, 2:-2] = filled[2:-2, 2:-2] & filled[:-4, 2:-2] & filled[4:, 2:-2]
    inside &= np.roll(filled, 2, axis=1) & np.roll(filled, -2, axis=1)
    assert inside.sum() > 400
    across = np.broadcast_to(left + (right - left) * places, (48, 48))
    down = np.broadcast_to((top + (bottom - top) * places)[:, None], (48, 48))
    np.testing.assert_allclose(seen[..., 0][inside], across[inside], atol=0.012)
    np.testing.assert_allclose(seen[..., 1][inside], down[inside], atol=0.012)


def test_pixels_are_those_that_went_in() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    looked = Look(Preparation(Preprocessing(48, 1.0, "bicubic")))(Image.fromarray(photo))
    np.testing.assert_array_equal(looked.pixels, photo)
    np.testing.assert_array_equal(looked.preview, photo)
    assert looked.window == WHOLE


def test_large_photos_have_a_small_preview() -> None:
    looked = Look(Preparation(Preprocessing(48, 1.0, "bicubic")))(Image.new("RGB", (3000, 1000)))
    assert looked.preview.shape == (300, 900, 3)
    assert (looked.width, looked.height) == (3000, 1000)
