"""What the library takes as a photo, and how it becomes a source."""

import os
from collections.abc import Iterable, Iterator
from typing import Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnest_cli.images.sources import Source, from_name

Photo = Union[str, "os.PathLike[str]", bytes, Image.Image, NDArray[np.uint8]]

SINGLE = (str, os.PathLike, bytes, Image.Image, np.ndarray)

_NO_PHOTO = "a photo is a path, bytes, a PIL image or an array, not {}"


def as_sources(photos: Iterable[Photo]) -> Iterator[Source]:
    """Photos of any kind as sources, lazily."""
    if not isinstance(photos, Iterable):
        raise TypeError(_NO_PHOTO.format(type(photos)))
    return (as_source(photo, index) for index, photo in enumerate(photos))


def as_source(photo: Photo, index: int = 0) -> Source:
    """A photo of any kind as a source; what has no name is called `photo <index>`."""
    if isinstance(photo, str | os.PathLike):
        return from_name(os.fspath(photo))
    if isinstance(photo, bytes):
        return Source(f"photo {index}", data=photo)
    if isinstance(photo, Image.Image):
        return Source(getattr(photo, "filename", "") or f"photo {index}", image=photo)
    if isinstance(photo, np.ndarray):
        grey, colour = photo.ndim == 2, photo.ndim == 3 and photo.shape[2] == 3
        if photo.dtype != np.uint8 or not (grey or colour) or photo.size == 0:
            error = f"is an array {photo.dtype} {photo.shape}, not uint8 (H, W, 3) or (H, W)"
            return Source(f"photo {index}", error=error)
        return Source(f"photo {index}", image=Image.fromarray(photo))
    raise TypeError(_NO_PHOTO.format(type(photo)))
