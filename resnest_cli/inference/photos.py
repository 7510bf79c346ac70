"""What the library takes for a photo: a path or URL, encoded bytes, a Pillow image, an array."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeGuard, Union, cast

import numpy as np
from numpy.typing import NDArray

from resnest_cli.images.sources import Source, from_name

if TYPE_CHECKING:
    from PIL import Image

Photo = Union[str, "os.PathLike[str]", bytes, "Image.Image", NDArray[np.uint8]]


def several(photos: Photo | Iterable[Photo]) -> Iterable[Photo]:
    """One photo as a list of one."""
    return [photos] if is_one(photos) else cast("Iterable[Photo]", photos)


def is_one(photos: Photo | Iterable[Photo]) -> TypeGuard[Photo]:
    """Whether it is a photo, not several."""
    return isinstance(photos, str | os.PathLike | bytes | np.ndarray) or _is_image(photos)


def _is_image(photo: object) -> "TypeGuard[Image.Image]":
    """Whether it is one of Pillow's, which then has been imported."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(photo, pillow.Image)


_NO_PHOTO = "a photo is a path, bytes, a PIL image or an array, not {}"


def as_sources(photos: Photo | Iterable[Photo]) -> Iterator[Source]:
    """One photo or several as sources; TypeError for what is none."""
    if not isinstance(photos := several(photos), Iterable):
        raise TypeError(_NO_PHOTO.format(type(photos)))
    return (as_source(photo, index) for index, photo in enumerate(photos))


def as_source(photo: Photo, index: int = 0) -> Source:
    """A photo of any kind as a source; what has no name is called `photo <index>`."""
    if isinstance(photo, str | os.PathLike):
        return from_name(os.fspath(photo))
    if isinstance(photo, bytes):
        return Source(f"photo {index}", data=photo)
    if _is_image(photo):
        return Source(getattr(photo, "filename", "") or f"photo {index}", image=photo)
    if isinstance(photo, np.ndarray):
        grey, colour = photo.ndim == 2, photo.ndim == 3 and photo.shape[2] == 3
        if photo.dtype != np.uint8 or not (grey or colour) or photo.size == 0:
            error = f"is an array {photo.dtype} {photo.shape}, not uint8 (H, W, 3) or (H, W)"
            return Source(f"photo {index}", error=error, kind="not an image")
        from PIL import Image

        return Source(f"photo {index}", image=Image.fromarray(photo))
    raise TypeError(_NO_PHOTO.format(type(photo)))
