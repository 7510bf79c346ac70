"""Generated photos, and the real ones where they are at hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED_PHOTOS = Path(__file__).parents[3] / "shared" / "photos"


def make_photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with noise and hard edges: every resampling weight shows."""
    rng = np.random.default_rng([seed, width, height])
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / a) + np.cos(y / b) for a, b in ((7, 11), (23, 5), (3, 40))]
    pixels = np.stack(waves, axis=2) * 60 + 128 + rng.normal(0, 30, (height, width, 3))
    pixels[(x // 9 + y // 13) % 5 == 0] = 255
    pixels[(x // 17 + y // 4) % 7 == 0] = 0
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def shared_photos() -> list[Path]:
    """Photos of ImageNet classes that lie beside the repository on the developers' machines."""
    if not SHARED_PHOTOS.is_dir():
        pytest.skip("no ../shared/photos")
    return sorted(SHARED_PHOTOS.iterdir())
