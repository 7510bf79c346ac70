"""JPEGs decoded, resized and normalised on an accelerator: `--gpu-decode`.

Each photo goes there as its bytes and comes back as the network's input, 600 kB at 224 pixels: two
copies more than needed, a tenth of a millisecond, keep everything else about a photo (its errors,
its order, its place in a batch) as it is without. nvJPEG's pixels are not libjpeg's, and torch's
resize rounds once where Pillow's rounds twice: answers change a bit.

torchvision's decoder is one for all threads, and waits for the device at the end of each call: one
photo a call took 0.6 ms, a hundred in one 0.13 ms each (torchvision's pull request 8496, an A100).
So what several threads want decoded at the same time goes there together, see `Batcher`.

Only whole JPEGs in RGB or grey are decoded so. All others, and those that the decoder refuses, go
the ordinary way, which also says what is wrong with them. Run on a CPU in the tests, where torch
has the same functions; not run on a GPU so far.
"""

import re
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from resnest_cli.errors import EngineError
from resnest_cli.images.batches import Float32, Photo, Preparation
from resnest_cli.images.decode import jpeg_orientation, read_file
from resnest_cli.images.preprocess import crop_range, resized_size

if TYPE_CHECKING:
    from torch import Tensor

    from resnest_cli.images.video import Moment

_LONGEST = 2**14  # pixels of a resized side; beyond, `preprocess` has a way of its own
_AT_ONCE = 64  # photos, which take 3 bytes a pixel on the device, and 12 while one is resized
_DEPRECATION = ".*TorchCodec"
_QUIET_RULE = ("ignore", re.compile(_DEPRECATION, re.IGNORECASE), Warning, None, 0)


@dataclass(frozen=True, slots=True)
class DevicePreparation(Preparation):
    """`Preparation`, by `device` where the photo allows it."""

    on_gpu: ClassVar[bool] = True
    device: str = "cuda"

    @property
    def portable(self) -> Preparation:
        """The ordinary one: another process has no business on the device."""
        same = self.preprocessing, self.crop_mode, self.exif, self.fast, self.grey, self.max_pixels
        return Preparation(*same)

    def timed(
        self, photo: Photo, frame: "int | Moment | None" = None
    ) -> tuple[Float32, float, float]:
        """As `Preparation` does it, but for the last bits where the device decodes the photo."""
        if frame is not None:
            return self.portable.timed(photo, frame)
        start = time.perf_counter()
        data = read_file(photo) if isinstance(photo, str) else photo
        read = time.perf_counter()
        found = self._by_device(data) if isinstance(data, bytes) else None
        array = self.portable(data) if found is None else found
        return array, read - start, time.perf_counter() - read

    def check(self) -> None:
        """Raises EngineError where the device decodes nothing: a CPU would decode every photo."""
        import torch
        from torchvision.io import encode_jpeg

        _quiet()
        try:
            _decoded([encode_jpeg(torch.zeros(3, 16, 16, dtype=torch.uint8)).numpy()], self.device)
        except RuntimeError as error:
            why = (str(error).splitlines() or [""])[0]
            raise EngineError(
                f"torchvision cannot decode on {self.device}: {why}. Leave out --gpu-decode."
            ) from error

    def _by_device(self, data: bytes) -> Float32 | None:
        orientation = jpeg_orientation(data, exif=self.exif, max_pixels=self.max_pixels)
        return None if orientation is None else _batcher(self)((data, orientation))

    def batch(self, photos: list[tuple[bytes, int]]) -> list[Float32 | None]:
        """JPEGs with their orientations, prepared on the device; None for what it refuses."""
        import torch

        with suppress(RuntimeError), torch.inference_mode():
            pixels = _decoded([data for data, _ in photos], self.device)
            turns = [orientation for _, orientation in photos]
            found = [self._window(upright) for upright in map(turned, pixels, turns)]
            windows = [window for window in found if window is not None]
            if not windows:
                return [None] * len(photos)
            mean, std = (
                torch.tensor(values, device=self.device)[:, None, None]
                for values in (self.preprocessing.mean, self.preprocessing.std)
            )
            rows = iter(((torch.stack(windows) / 255 - mean) / std).cpu().numpy())
            return [None if window is None else next(rows) for window in found]
        if len(photos) == 1:
            return [None]
        return [self.batch([photo])[0] for photo in photos]  # to see which of them it was

    def _window(self, pixels: "Tensor") -> "Tensor | None":
        """The resized and cropped photo, float32 (3, size, size), whole numbers from 0 to 255.

        Of an upright one, uint8 (3, H, W); None where the ordinary way has a way of its own.
        """
        import torch
        import torch.nn.functional as F

        config = self.preprocessing
        height, width = pixels.shape[1:]
        new_width, new_height = resized_size(width, height, config, self.crop_mode)
        if max(new_width, new_height) > _LONGEST:
            return None
        resized = pixels[None].float()
        if pixels.shape[1:] != (new_height, new_width):
            resized = F.interpolate(
                resized, (new_height, new_width), mode=config.interpolation, antialias=True
            )
            resized = resized.round().clamp(0, 255)
        left, width, pad_left = crop_range(new_width, config.size)
        top, height, pad_top = crop_range(new_height, config.size)
        window = resized[0, :, top : top + height, left : left + width]
        if window.shape[1:] == (config.size, config.size):
            return window
        canvas = torch.zeros(3, config.size, config.size, device=window.device)
        if self.crop_mode == "border":
            filling = [float(round(255 * value)) for value in config.mean]
            canvas[:] = torch.tensor(filling, device=window.device)[:, None, None]
        canvas[:, pad_top : pad_top + height, pad_left : pad_left + width] = window
        return canvas


Wanted = TypeVar("Wanted")
Result = TypeVar("Result")


class Batcher(Generic[Wanted, Result]):
    """Collects what threads ask for at the same time; one of them does it at once, others wait.

    `work` gets up to `most` requests, and returns their results in the same order.
    """

    def __init__(self, work: Callable[[list[Wanted]], list[Result]], most: int = _AT_ONCE) -> None:
        self._work, self._most = work, most
        self._waiting: deque[tuple[Wanted, Future[Result]]] = deque()
        self._at_work = threading.Lock()

    def __call__(self, wanted: Wanted) -> Result:
        """The result of `work` for it; raises what `work` raises."""
        mine = Future[Result]()
        self._waiting.append((wanted, mine))
        with self._at_work:
            while not mine.done():
                count = min(self._most, len(self._waiting))
                taken = [self._waiting.popleft() for _ in range(count)]
                try:
                    results = self._work([one for one, _ in taken])
                    for (_, future), result in zip(taken, results, strict=True):
                        future.set_result(result)
                except BaseException as error:
                    for _, future in taken:
                        future.set_exception(error)
        return mine.result()


@cache
def _batcher(preparation: DevicePreparation) -> Batcher[tuple[bytes, int], Float32 | None]:
    """The one batcher for all threads of a preparation.

    It has a stream of its own: on the usual one a photo would wait for the network's whole batch.
    """
    import torch

    if not preparation.device.startswith("cuda"):
        return Batcher(preparation.batch)
    stream: Any = torch.cuda.Stream(preparation.device)  # type: ignore[no-untyped-call]

    def work(photos: list[tuple[bytes, int]]) -> list[Float32 | None]:
        with torch.cuda.stream(stream):
            return preparation.batch(photos)

    return Batcher(work)


def _quiet() -> None:
    """Silences torchvision's advice to use another library."""
    if _QUIET_RULE not in warnings.filters:  # not catch_warnings: all threads share its list
        warnings.filterwarnings("ignore", message=_DEPRECATION)


def _decoded(photos: list[Any], device: str) -> "list[Tensor]":
    """JPEGs, buffers of bytes -> uint8 (3, H, W) each, on the device."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    _quiet()
    files = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in photos]
    found: list[Tensor] = decode_jpeg(files, ImageReadMode.RGB, device)
    return found


def turned(pixels: "Tensor", orientation: int) -> "Tensor":
    """A photo (3, H, W) turned upright, by its EXIF orientation."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 2)
    flipped = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation)
    return pixels.flip(flipped) if flipped else pixels
