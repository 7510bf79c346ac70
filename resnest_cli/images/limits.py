"""How large a photo may be, and what it costs. No imports: options and workers share it."""

from resnest_cli.errors import ImageError

MAX_PIXELS = 178_956_970  # where Pillow, too, refuses: 512 MiB of RGB
BYTES_PER_PIXEL = 12  # RGB takes 4; as stored, converted and turned upright, three are held at most


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
            f"bomb?); --max-pixels {pixels} reads it, with up to "
            f"{max(memory_for(pixels) / 1e9, 0.1):,.1f} GB of memory"
        )
