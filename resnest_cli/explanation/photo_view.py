"""A photo as the network sees it and as people do, and where in it a map is hot.

Numpy and Pillow: decoder processes import this, too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnest_cli.images.batches import Float32, Photo, Preparation
from resnest_cli.images.preprocess import pixels_of, preprocess, seen_window

PREVIEW = 900  # pixels that the longer side of a preview has at most
HOT = 0.5  # of the maximum; where a map is at least that, it is hot

Window = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class PhotoView:
    """The network's `input`, float32 (3, size, size), and where it comes from.

    `pixels` is the input as a picture, uint8 (size, size, 3); `preview` the whole photo, upright,
    uint8 (h, w, 3) of at most `PREVIEW` a side; `width` and `height` are the photo's own. `window`
    is the part of the photo that the input shows: left, top, right, bottom as fractions of the
    photo's sides, below 0 or above 1 where the input is padded.
    """

    input: Float32
    pixels: NDArray[np.uint8]
    preview: NDArray[np.uint8]
    width: int
    height: int
    window: Window


@dataclass(frozen=True, slots=True)
class Look:
    """Reads photos for an explanation: picklable, so that another process can do it too."""

    preparation: Preparation

    def __call__(self, photo: Photo) -> PhotoView:
        """A path, the bytes of an image file or an open image."""
        how = self.preparation
        rgb = how.decoded(photo)
        array = preprocess(rgb, how.preprocessing, crop_mode=how.crop_mode, grey=how.grey)
        width, height = rgb.size
        rgb.thumbnail((PREVIEW, PREVIEW))
        return PhotoView(
            input=array,
            pixels=pixels_of(array, how.preprocessing),
            preview=np.array(rgb),
            width=width,
            height=height,
            window=seen_window(width, height, how.preprocessing, how.crop_mode),
        )


@dataclass(frozen=True, slots=True)
class Region:
    """Where a photo is hot, in fractions of its sides: x from the left, y from the top.

    `box` is left, top, right, bottom around all hot places, `centre` their weighted mean.
    """

    box: tuple[float, float, float, float]
    centre: tuple[float, float]


def hot_region(heat: NDArray[np.float32], window: Window) -> Region | None:
    """Heat (H, W) in [0, 1] over a photo's `window` -> its hot part; None where nothing is hot."""
    hot = heat >= HOT
    if not hot.any():
        return None
    left, top, right, bottom = window
    # Edges and centre on either axis, in fractions of the photo.
    x0, x1, x = (_inside(left + (right - left) * one) for one in _along(hot, heat, 0))
    y0, y1, y = (_inside(top + (bottom - top) * one) for one in _along(hot, heat, 1))
    return Region((x0, y0, x1, y1), (x, y))


def _inside(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _along(
    hot: NDArray[np.bool_], heat: NDArray[np.float32], axis: int
) -> tuple[float, float, float]:
    """First and last edge, and weighted mean, as fractions of the columns (axis 0) or rows."""
    length = hot.shape[1 - axis]
    found = np.flatnonzero(hot.any(axis=axis))
    weights = np.where(hot, heat, 0).sum(axis=axis, dtype=np.float64)
    middle = float((weights * (np.arange(length) + 0.5)).sum() / weights.sum()) / length
    return float(found[0]) / length, float(found[-1] + 1) / length, middle
