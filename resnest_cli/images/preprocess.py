"""RGB photo -> the network's input, float32 (3, size, size). No torch, no torchvision.

Bit-equal to timm's evaluation transform (`timm.data.create_transform` without augmentation; that
is torchvision's Resize, CenterCrop, ToTensor and Normalize on PIL images): the sizes follow
torchvision's `_compute_resized_output_size` and `center_crop`, the pixels come from PIL's own
resize, and dividing by 255 and normalising is one float32 table of 256 values per channel.

Deviation in means, not in result: a strip such as 1 x 5000 pixels would become 256 x 1,280,000
before the crop. There only the cropped window is resampled, in numpy, with the arithmetic of
Pillow's `libImaging/Resample.c`: filter weights in double, rounded to 22 fractional bits, one
horizontal and one vertical pass with 8 bits in between.

Deviations in result, where the reference fails: `border` keeps at least one pixel of a strip that
it would shrink to nothing, and a strip too long for `squash` or `border` is an `ImageError`.
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.options import CropMode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.model.variants import Preprocessing
    from resnest_cli.options import Interpolation

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_SUPPORT = {"bilinear": 1, "bicubic": 2}  # reach of the filter, in pixels of the coarser grid
_PRECISION_BITS = 32 - 8 - 2  # fraction of a weight: 8 bits of pixel, 2 against overflow
_Tap = tuple[int, "NDArray[np.int32]"]  # an output pixel's first source pixel, and its weights

# What PIL may allocate for a resize before the window is computed alone: ordinary photos need a
# tenth of the first; a long photo may use as much again as it has already.
_PLAIN_BYTES = 64 * 2**20
_MOST_BYTES = 2 * 2**30  # the same for `squash` and `border`, which have no window


def preprocess(
    image: Image.Image,
    config: "Preprocessing",
    *,
    crop_mode: CropMode = "center",
    grey: bool = False,
) -> "NDArray[np.float32]":
    """Resize, crop and normalise one photo; timm's evaluation transform, bit for bit.

    Args:
        image: any size from 1 x 1, mode RGB.
        config: the size, crop, interpolation, mean and standard deviation of the network.
        crop_mode: "center" resizes the shorter side to floor(size / crop_pct) and crops the
            centre; "squash" resizes both sides to that and crops; "border" resizes the longer side
            to that, crops, and fills what is missing with the mean colour.
        grey: as timm does it, grey as Pillow makes it, then as any other; for one channel.

    Returns:
        float32 (3, size, size), channels R, G, B, or (1, size, size) in grey; values
        (pixel / 255 - mean) / std.

    Raises:
        ValueError: an image that is not RGB, or an unknown `crop_mode`.
        ImageError: a strip so long that "squash" or "border" would need gigabytes.
    """
    if image.mode != "RGB":
        raise ValueError(f"preprocess needs an RGB image, not {image.mode}")
    if grey:
        image = image.convert("L").convert("RGB")
    size = config.size
    new_width, new_height = resized_size(image.width, image.height, config, crop_mode)
    left, width, pad_left = crop_range(new_width, size)
    top, height, pad_top = crop_range(new_height, size)
    cost = _cost(image, new_width, new_height, config.interpolation)
    cheap = cost <= max(_PLAIN_BYTES, 4 * image.width * image.height)
    if not cheap and crop_mode == "center":
        columns = _weights(image.width, new_width, left, width, config.interpolation)
        rows = _weights(image.height, new_height, top, height, config.interpolation)
        window = _resample_window(image, columns, rows)
    elif cheap or cost <= _MOST_BYTES:
        if image.size != (new_width, new_height):
            image = image.resize((new_width, new_height), _FILTERS[config.interpolation])
        if image.size != (width, height):
            image = image.crop((left, top, left + width, top + height))
        window = np.asarray(image)
    else:
        text = f"is a strip too long to {crop_mode}: {image.width} x {image.height}"
        raise ImageError(text, kind="too large")
    if window.shape != (size, size, 3):
        canvas = np.empty((size, size, 3), np.uint8)
        # timm pads `border` with the mean colour; torchvision a crop that is too small with 0.
        canvas[:] = [round(255 * value) for value in config.mean] if crop_mode == "border" else 0
        canvas[pad_top : pad_top + height, pad_left : pad_left + width] = window
        window = canvas
    out = np.empty((3, size, size), np.float32)
    normalise(window, config, out)
    return out[:1] if grey else out


def seen_window(
    width: int, height: int, config: "Preprocessing", crop_mode: CropMode = "center"
) -> tuple[float, float, float, float]:
    """The part of a photo of so many pixels that the network sees: left, top, right, bottom.

    As fractions of the photo's sides; below 0 or above 1 where the input is padded.
    """
    window = []
    for new in resized_size(width, height, config, crop_mode):
        first, _, padding = crop_range(new, config.size)
        window.append(((first - padding) / new, (first - padding + config.size) / new))
    (left, right), (top, bottom) = window
    return left, top, right, bottom


def pixels_of(array: "NDArray[np.float32]", config: "Preprocessing") -> "NDArray[np.uint8]":
    """The network's input, float32 (3, H, W), as the picture that it was: uint8 (H, W, 3)."""
    mean, std = (np.asarray(c, np.float32)[:, None, None] for c in (config.mean, config.std))
    pixels = np.rint(np.clip(array * std + mean, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def shorter_side(config: "Preprocessing") -> int:
    """Pixels of the resized photo's shorter side, before the crop."""
    return math.floor(config.size / config.crop_pct)


def normalise(
    pixels: "NDArray[np.uint8]", config: "Preprocessing", out: "NDArray[np.float32]"
) -> None:
    """uint8 (H, W, 3) -> `out`, float32 (3, H, W): (pixel / 255 - mean) / std."""
    for channel, table in enumerate(_tables(config.mean, config.std)):
        # mode="clip" spares a checking copy; no uint8 is out of the table's range.
        np.take(table, pixels[:, :, channel], out=out[channel], mode="clip")


def resized_size(
    width: int, height: int, config: "Preprocessing", crop_mode: CropMode
) -> tuple[int, int]:
    """(width, height) before the crop, rounded as the references round."""
    scale_size = shorter_side(config)
    if crop_mode == "squash":
        return scale_size, scale_size
    if crop_mode == "border":  # timm's ResizeKeepRatio(longest=1.0)
        ratio = max(height / scale_size, width / scale_size)
        return max(1, round(width / ratio)), max(1, round(height / ratio))
    if crop_mode != "center":
        raise ValueError(f"crop_mode must be center, border or squash, not {crop_mode!r}")
    short, long = min(width, height), max(width, height)
    new_long = int(scale_size * long / short)
    return (scale_size, new_long) if width <= height else (new_long, scale_size)


def crop_range(length: int, crop: int) -> tuple[int, int, int]:
    """First kept index, number kept, and padding before them (torchvision's `center_crop`)."""
    if crop > length:
        return 0, length, (crop - length) // 2
    return int(round((length - crop) / 2.0)), crop, 0  # noqa: RUF046 - as the reference writes it


def _cost(
    image: Image.Image, new_width: int, new_height: int, interpolation: "Interpolation"
) -> int:
    """Bytes that PIL's resize allocates: both passes' results, and one weight per tap."""
    taps = sum(
        new * (2 * math.ceil(_SUPPORT[interpolation] * max(1.0, old / new)) + 1)
        for old, new in ((image.width, new_width), (image.height, new_height))
    )
    return 4 * new_width * (image.height + new_height) + 8 * taps


@lru_cache(maxsize=32)
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> "NDArray[np.float32]":
    """What each of the 256 pixel values becomes, float32 (3, 256)."""
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    centred = values[None, :] - np.asarray(mean, np.float32)[:, None]
    tables: NDArray[np.float32] = centred / np.asarray(std, np.float32)[:, None]
    tables.setflags(write=False)
    return tables


def _weights(
    old: int, new: int, first: int, count: int, interpolation: "Interpolation"
) -> list[_Tap]:
    """Taps of the output pixels first .. first + count - 1 of a side resized from old to new.

    `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow. The order of operations is theirs,
    so that every weight rounds alike.
    """
    one = np.int32(1 << _PRECISION_BITS)
    if old == new:  # Pillow leaves out the pass
        return [(index, np.array([one])) for index in range(first, first + count)]
    scale = float(np.float32(old)) / new  # the box is float in C
    filter_scale = max(scale, 1.0)
    support = _SUPPORT[interpolation] * filter_scale
    taps = []
    for index in range(first, first + count):
        center = (index + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), old)
        distance = (np.arange(low, high) - center + 0.5) * (1.0 / filter_scale)
        weights = _filter(np.abs(distance), interpolation)
        weights /= np.cumsum(weights)[-1]  # sums in order, where np.sum does so pairwise
        rounding = np.where(weights < 0, -0.5, 0.5)
        taps.append((low, (rounding + weights * float(one)).astype(np.int32)))
    return taps


def _filter(x: "NDArray[np.float64]", interpolation: "Interpolation") -> "NDArray[np.float64]":
    """Weight at distance x >= 0: the triangle, or Keys' cubic with a = -0.5."""
    if interpolation == "bilinear":
        return np.where(x < 1.0, 1.0 - x, 0.0)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _resample_window(
    image: Image.Image, columns: list[_Tap], rows: list[_Tap]
) -> "NDArray[np.uint8]":
    """The pixels of the given output columns and rows, (len(rows), len(columns), 3).

    Reads only the source pixels under the taps, a column at a time.
    """
    top = min(low for low, _ in rows)
    bottom = max(low + len(weights) for low, weights in rows)
    narrow = np.empty((bottom - top, len(columns), 3), np.uint8)
    for index, (low, weights) in enumerate(columns):
        source = image.crop((low, top, low + len(weights), bottom))
        narrow[:, index] = _weighted(np.asarray(source).transpose(1, 0, 2), weights)
    window = np.empty((len(rows), len(columns), 3), np.uint8)
    for index, (low, weights) in enumerate(rows):
        window[index] = _weighted(narrow[low - top : low - top + len(weights)], weights)
    return window


def _weighted(lines: "NDArray[np.uint8]", weights: "NDArray[np.int32]") -> "NDArray[np.uint8]":
    """Sum of weights[k] * lines[k], rounded and clipped to 8 bits as Pillow's `clip8`."""
    total = np.full(lines.shape[1:], 1 << (_PRECISION_BITS - 1), np.int32)
    for line, weight in zip(lines, weights, strict=True):
        total += np.multiply(line, weight, dtype=np.int32)
    total >>= _PRECISION_BITS
    return np.clip(total, 0, 255).astype(np.uint8)
