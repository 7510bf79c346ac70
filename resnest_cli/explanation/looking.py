"""A photo as the network sees it and as people do, of one decoding. Numpy and Pillow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnest_cli.images.batches import Float32, Photo, Preparation
from resnest_cli.images.preprocess import pixels_of, seen_window

PREVIEW = 900  # pixels that the longer side of a preview has at most

Window = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Looked:
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

    def __call__(self, photo: Photo) -> Looked:
        """A path, the bytes of an image file or an open image.

        Raises:
            ImageError: whatever is wrong with the photo.
        """
        how = self.preparation
        rgb = how.decoded(photo)
        array = how.preprocessed(rgb)
        width, height = rgb.size
        rgb.thumbnail((PREVIEW, PREVIEW))
        return Looked(
            input=array,
            pixels=pixels_of(array, how.preprocessing),
            preview=np.array(rgb),
            width=width,
            height=height,
            window=seen_window(width, height, how.preprocessing, how.crop_mode),
        )
