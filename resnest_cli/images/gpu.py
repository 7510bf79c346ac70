"""JPEGs decoded, resized and normalised on an accelerator: `--gpu-decode`.

Each photo goes there as its bytes and comes back as the network's input, 600 kB at 224 pixels: two
copies more than needed, a tenth of a millisecond, keep everything else about a photo (its errors,
its order, its place in a batch) as it is without. nvJPEG's pixels are not libjpeg's, and torch's
resize rounds once where Pillow's rounds twice: answers change a bit.

Only whole JPEGs in RGB or grey are decoded so. All others, and those that the decoder refuses, go
the ordinary way, which also says what is wrong with them. Run on a CPU in the tests, where torch
has the same functions; not run on a GPU so far.
"""

import re
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from resnest_cli.images.batches import Float32, Photo, Preparation
from resnest_cli.images.decode import jpeg_orientation, read_file
from resnest_cli.images.preprocess import crop_range, resized_size

if TYPE_CHECKING:
    from torch import Tensor

    from resnest_cli.images.video import Moment

_LONGEST = 2**14  # pixels of a resized side; beyond, `preprocess` has a way of its own
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

    def _by_device(self, data: bytes) -> Float32 | None:
        import torch

        orientation = jpeg_orientation(data, exif=self.exif, max_pixels=self.max_pixels)
        if orientation is None:
            return None
        with torch.inference_mode():
            try:
                pixels = turned(_decoded(data, self.device), orientation)  # uint8 (3, H, W)
            except RuntimeError:
                return None
            height, width = pixels.shape[1:]
            new_width, new_height = resized_size(width, height, self.preprocessing, self.crop_mode)
            if max(new_width, new_height) > _LONGEST:
                return None
            window = self._window(pixels, new_width, new_height)
            mean, std = (
                torch.tensor(values, device=window.device)[:, None, None]
                for values in (self.preprocessing.mean, self.preprocessing.std)
            )
            return np.asarray(((window / 255 - mean) / std).cpu().numpy(), np.float32)

    def _window(self, pixels: "Tensor", new_width: int, new_height: int) -> "Tensor":
        """The resized and cropped photo, float32 (3, size, size), whole numbers from 0 to 255."""
        import torch
        import torch.nn.functional as F

        config = self.preprocessing
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


def _decoded(data: bytes, device: str) -> "Tensor":
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    if _QUIET_RULE not in warnings.filters:  # not catch_warnings: all threads share its list
        warnings.filterwarnings("ignore", message=_DEPRECATION)
    found: Tensor = decode_jpeg(
        torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB, device
    )
    return found


def turned(pixels: "Tensor", orientation: int) -> "Tensor":
    """A photo (3, H, W) turned upright, by its EXIF orientation."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 2)
    flipped = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation)
    return pixels.flip(flipped) if flipped else pixels
