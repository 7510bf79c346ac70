"""How large a photo may be, and what it costs. Light: options and workers share it."""

import os

from resnest_cli.errors import ImageError, UsageError

MAX_PIXELS = 178_956_970  # where Pillow, too, refuses: 512 MiB of RGB
BYTES_PER_PIXEL = 12  # RGB takes 4; as stored, converted and turned upright, three are held at most


def usual_limit() -> int:
    """The most pixels of a photo where nothing else is said.

    Raises:
        UsageError: RESNEST_MAX_PIXELS is no number above 0.
    """
    text = os.environ.get("RESNEST_MAX_PIXELS", "") or str(MAX_PIXELS)
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise UsageError(f"RESNEST_MAX_PIXELS={text} is no number of pixels.")
    return int(text)


def memory_for(pixels: int) -> int:
    """Bytes that decoding a photo of so many pixels may need."""
    return BYTES_PER_PIXEL * pixels


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Whether a photo may be decoded; asked before memory is spent on it.

    Raises:
        ImageError: it has too many pixels; names the option, and the memory that it needs.
    """
    pixels = width * height
    if pixels > max_pixels:
        raise ImageError(
            f"has {width} x {height} pixels, more than the limit of {max_pixels} (a decompression "
            f"bomb?); --max-pixels {pixels}, or RESNEST_MAX_PIXELS, reads it, with up to "
            f"{max(memory_for(pixels) / 1e9, 0.1):,.1f} GB of memory"
        )
