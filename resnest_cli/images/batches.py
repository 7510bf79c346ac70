"""Sources -> preprocessed photos, decoded ahead in the background, in order.

Pillow gives up Python's lock while it decodes and resizes, so threads are enough.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Union

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ErrorKind, ImageError
from resnest_cli.images import NO_MEMORY, take_note
from resnest_cli.images.decode import decode, upright_rgb
from resnest_cli.images.preprocess import preprocess, shorter_side
from resnest_cli.images.sources import Source
from resnest_cli.model.variants import Preprocessing
from resnest_cli.options import MAX_PIXELS, CropMode

if TYPE_CHECKING:
    from PIL import Image

Float32 = NDArray[np.float32]
Photo = Union[str, bytes, "Image.Image"]  # a path, the bytes of an image file, or an open image


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a photo becomes an array: picklable, so that another process can do it too."""

    on_gpu: ClassVar[bool] = False  # where a GPU decodes, pixels differ

    preprocessing: Preprocessing
    crop_mode: CropMode = "center"
    exif: bool = True
    fast: bool = False  # a large JPEG is decoded at reduced scale, see `decode`
    grey: bool = False  # for a network of one channel: float32 (1, size, size)
    max_pixels: int = MAX_PIXELS

    @property
    def portable(self) -> "Preparation":
        """What another process does in its place."""
        return self

    def __call__(self, photo: Photo) -> Float32:
        """A path, the bytes of an image file or an open image -> float32 (3, size, size).

        Raises:
            ImageError: whatever is wrong with the photo.
        """
        return self.preprocessed(self.decoded(photo))

    def decoded(self, photo: Photo) -> "Image.Image":
        """The photo in RGB, upright where that is wanted; raises as the call does."""
        if isinstance(photo, str | bytes):
            # Twice what is needed, so that the resize still has something to average.
            at_least = 2 * shorter_side(self.preprocessing) if self.fast else None
            return decode(photo, exif=self.exif, max_pixels=self.max_pixels, at_least=at_least)
        return upright_rgb(photo, exif=self.exif)

    def preprocessed(self, rgb: "Image.Image") -> Float32:
        """An image in RGB -> float32 (3, size, size)."""
        if not self.grey:
            return preprocess(rgb, self.preprocessing, crop_mode=self.crop_mode)
        rgb = rgb.convert("L").convert("RGB")  # timm's way: grey as PIL makes it, then as any other
        return preprocess(rgb, self.preprocessing, crop_mode=self.crop_mode)[:1]


class Prepared(NamedTuple):
    """A source with its array, float32 (3, size, size), or with what was wrong, and its kind.

    `note` is worth saying although the photo could be read.
    """

    source: Source
    photo: Float32 | None
    error: str | None
    note: str | None = None
    kind: ErrorKind | None = None


Prepare = Callable[[int, Source], Float32]


def prepared(
    sources: Iterable[Source], prepare: Prepare, *, workers: int, ahead: int, first: int = 0
) -> Iterator[Prepared]:
    """Prepares sources, at most `ahead` of them before they are asked for, and keeps their order.

    `prepare` gets a source's index, counted from `first`, and raises ImageError for a bad photo.
    The first source is prepared in the calling thread, so that a single one needs no other.
    """
    indexed = enumerate(sources, start=first)
    for index, source in islice(indexed, 1 if workers else None):
        yield _prepare_one(prepare, index, source)
    waiting: deque[Future[Prepared]] = deque()
    pool: ThreadPoolExecutor | None = None
    try:
        for index, source in indexed:
            pool = pool or ThreadPoolExecutor(workers, thread_name_prefix="decode")
            waiting.append(pool.submit(_prepare_one, prepare, index, source))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _prepare_one(prepare: Prepare, index: int, source: Source) -> Prepared:
    if source.error is not None:
        return Prepared(source, None, source.error, kind=source.kind)
    try:
        return Prepared(source, prepare(index, source), None, take_note())
    except ImageError as error:
        return Prepared(source, None, str(error), kind=error.kind)
    except MemoryError:
        return Prepared(source, None, NO_MEMORY, kind="too large")


def groups(items: Iterable[Prepared], size: int) -> Iterator[list[Prepared]]:
    """Consecutive groups of `size` items, the last one smaller; bad photos count too."""
    waiting = iter(items)
    while group := list(islice(waiting, size)):
        yield group
