"""Sources -> preprocessed photos, decoded ahead in the background, in order.

Threads prepare photos, in this process (Pillow gives up Python's lock while it decodes and resizes)
or by waiting for a decoder's, see `pool`: then this one never imports Pillow.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Union

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ErrorKind, ImageError
from resnest_cli.images import NO_MEMORY
from resnest_cli.images.sources import Source
from resnest_cli.model.variants import Preprocessing
from resnest_cli.options import MAX_PIXELS, CropMode

if TYPE_CHECKING:
    from PIL import Image

    from resnest_cli.images.video import Moment

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

    def __call__(self, photo: Photo) -> Float32:
        """A path, the bytes of an image file or an open image -> float32 (3, size, size).

        Raises:
            ImageError: whatever is wrong with the photo.
        """
        return self.timed(photo)[0]

    def timed(
        self, photo: Photo, frame: "int | Moment | None" = None
    ) -> tuple[Float32, float, float]:
        """The array; the seconds for reading the file, which is read whole, and for the rest.

        Of a file with several pictures, `frame` says which; see `frames`.
        """
        from resnest_cli.images.decode import read_file
        from resnest_cli.images.preprocess import preprocess

        start = time.perf_counter()
        data = read_file(photo) if isinstance(photo, str) and frame is None else photo
        read = time.perf_counter()
        rgb = self.decoded(data) if frame is None else self.frame_of(data, frame)
        how = self.preprocessing
        array = preprocess(rgb, how, crop_mode=self.crop_mode, grey=self.grey)
        return array, read - start, time.perf_counter() - read

    def frame_of(self, photo: Photo, frame: "int | Moment") -> "Image.Image":
        """A picture of a file that has several, in RGB, as `decoded` gives others."""
        from resnest_cli.images.frames import frame_of

        assert isinstance(photo, str | bytes)
        return frame_of(photo, frame, exif=self.exif, max_pixels=self.max_pixels)

    def decoded(self, photo: Photo) -> "Image.Image":
        """The photo in RGB, upright where that is wanted; raises as the call does."""
        from resnest_cli.images.decode import decode, upright_rgb
        from resnest_cli.images.preprocess import shorter_side

        if isinstance(photo, str | bytes):
            # Twice what is needed, so that the resize still has something to average.
            at_least = 2 * shorter_side(self.preprocessing) if self.fast else None
            return decode(photo, exif=self.exif, max_pixels=self.max_pixels, at_least=at_least)
        return upright_rgb(photo, exif=self.exif)


class Prepared(NamedTuple):
    """A source with its array, float32 (3, size, size), or with what was wrong, and its kind.

    `note` is worth saying although the photo could be read.
    """

    source: Source
    photo: Float32 | None
    error: str | None
    note: str | None = None
    kind: ErrorKind | None = None


# The array of a source, and a note; raises ImageError for a bad photo, or one that comes with an
# error.
Prepare = Callable[[Source], tuple[Float32, str | None]]


def prepared_batches(
    sources: Iterable[Source], prepare: Prepare, *, size: int, workers: int, ahead: int
) -> Iterator[list[Prepared]]:
    """Prepares sources in threads, in order, at most `ahead` before they are asked for.

    Bad photos have their place in a batch, too; the last batch may be smaller. The first source is
    begun at once, the others when a batch is asked for; without workers nothing is done ahead.
    """
    threads = ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode")
    ahead = ahead if workers else 1
    rest = iter(sources)
    waiting = deque((source, threads.submit(prepare, source)) for source in islice(rest, 1))

    def in_order() -> Iterator[list[Prepared]]:
        batch: list[Prepared] = []
        try:
            while True:
                for source in islice(rest, ahead - len(waiting)):
                    waiting.append((source, threads.submit(prepare, source)))
                if not waiting:
                    break
                source, future = waiting.popleft()
                try:
                    photo, note = future.result()
                    batch.append(Prepared(source, photo, None, note))
                except ImageError as error:
                    batch.append(Prepared(source, None, str(error), kind=error.kind))
                except MemoryError:
                    batch.append(Prepared(source, None, NO_MEMORY, kind="too large"))
                if len(batch) == size:
                    yield batch
                    batch = []
            if batch:
                yield batch
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    return in_order()


Step = Literal["read", "decode", "network"]


class Stopwatch:
    """Adds up seconds by step, over all threads: two that decode for one second make two."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[Step, float] = {}

    def add(self, step: Step, seconds: float) -> None:
        """Counts these, too."""
        with self._lock:
            self._seconds[step] = self._seconds.get(step, 0.0) + seconds

    def take(self) -> dict[Step, float]:
        """The seconds since the last call."""
        with self._lock:
            taken, self._seconds = self._seconds, {}
        return taken
