"""What is noted of a photo while it is decoded: size, light, sharpness, a thumbnail, its pixels.

This runs in decoders, which may crash (see `images.pool`): Pillow and numpy, nothing else. Light
and sharpness are measured on the photo in grey, its longer side brought down to `_SIDE`, so that
cameras of more pixels are not sharper; smaller photos stay as they are.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnest_cli.images.batches import Preparation
from resnest_cli.images.preprocess import preprocess

VERSION = 1  # of what is noted; another one computes all photos anew
THUMBNAIL = 32  # pixels of a side
_SIDE = 256
_BILINEAR = Image.Resampling.BILINEAR  # which averages where it reduces
_NEAR = 2  # levels of 256 that still count as the same grey

# All that is kept of a photo beside its features. `pixels` hashes its upright RGB pixels; `low` and
# `high` are the greys below which 5 % and 95 % of it lie; `flat` is the share of the commonest one.
FACTS = np.dtype([
    ("width", "<i4"), ("height", "<i4"), ("bytes", "<i8"), ("pixels", "V16"),
    ("brightness", "<f4"), ("contrast", "<f4"), ("low", "<f4"), ("high", "<f4"),
    ("flat", "<f4"), ("sharpness", "<f4"), ("thumbnail", "u1", (THUMBNAIL, THUMBNAIL)),
])  # fmt: skip

Facts = NDArray[np.void]


class Looked(NamedTuple):
    """A photo as the network takes it, float32 (3, size, size), and its facts, FACTS ()."""

    array: NDArray[np.float32]
    facts: Facts


def look(preparation: Preparation, path: str) -> Looked:
    """Decodes a photo once, for everything.

    Raises:
        ImageError: whatever is wrong with it.
    """
    rgb = preparation.decoded(path)
    array = preprocess(
        rgb, preparation.preprocessing, crop_mode=preparation.crop_mode, grey=preparation.grey
    )
    return Looked(array, facts_of(rgb))


def facts_of(rgb: Image.Image) -> Facts:
    """The facts of an upright RGB photo, FACTS (); the bytes of its file are for others to say."""
    digest = hashlib.blake2b(f"{rgb.width}x{rgb.height} ".encode(), digest_size=16)
    digest.update(rgb.tobytes())
    grey = np.asarray(_reduced(rgb).convert("L"), np.float32)  # (h, w)
    counts = np.bincount(grey.astype(np.uint8).ravel(), minlength=256)
    near = np.convolve(counts, np.ones(2 * _NEAR + 1, np.int64))
    low, high = np.percentile(grey, (5, 95))
    thumbnail = rgb.resize((THUMBNAIL, THUMBNAIL), _BILINEAR, reducing_gap=4.0).convert("L")
    facts = np.zeros((), FACTS)
    facts["width"], facts["height"] = rgb.size
    facts["pixels"] = np.void(digest.digest())
    facts["brightness"], facts["contrast"] = grey.mean(), grey.std()
    facts["low"], facts["high"] = low, high
    facts["flat"] = near.max() / grey.size
    facts["sharpness"] = _sharpness(grey)
    facts["thumbnail"] = np.asarray(thumbnail)
    return facts


def _reduced(rgb: Image.Image) -> Image.Image:
    """The photo with a longer side of at most `_SIDE` pixels."""
    scale = _SIDE / max(rgb.size)
    if scale >= 1:
        return rgb
    width, height = (max(1, round(scale * side)) for side in rgb.size)
    return rgb.resize((width, height), _BILINEAR, reducing_gap=2.0)


def _sharpness(grey: NDArray[np.float32]) -> float:
    """The variance of the Laplacian of a grey photo (h, w), in squared levels (Pech-Pacheco 2000).

    0 of one too small to have any.
    """
    if min(grey.shape) < 3:
        return 0.0
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * middle).var())
