"""From a path to a float32 array: sources, decoding, preprocessing. No torch.

    inputs.py                what is named on the command line -> references to photos, by
                             sources.py and folders.py; archives.py: those inside .zip and .tar;
                             frames.py, video.py: those of files that hold several pictures
    decode.py                bytes or a file -> an upright RGB photo; tiff.py, samples.py: deep ones
    preprocess.py            an RGB photo -> the network's input
    batches.py               many of them, decoded ahead; pool.py: processes that may crash
    gpu.py                   JPEGs decoded on an accelerator; remote.py: photos behind addresses

Here: what all of these share, and light. How large a photo may be, the errors of photos, and notes:
what is worth saying about a photo that could be read. A decoder leaves a note in its thread, and
whoever called it, and knows the photo's name, takes it there. The note of another process comes
back beside its result, see `pool`.
"""

import os
import threading

from resnest_cli.errors import ImageError, UsageError
from resnest_cli.options import MAX_PIXELS

NO_MEMORY = "does not fit into this machine's memory"

_local = threading.local()


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
    """Bytes that decoding a photo of so many pixels may need.

    A pixel of RGB takes 4: as stored, converted and turned upright, three are held at most.
    """
    return 12 * pixels


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuses a photo of too many pixels before memory is spent on it.

    For others Pillow's own limit is raised, which would warn of them, or refuse them. It is that of
    the whole process, and stays as it is for photos of the usual size.

    Raises:
        ImageError: names the option that raises the limit, and the memory that it needs.
    """
    pixels = width * height
    if pixels > max_pixels:
        text = (
            f"has {width} x {height} pixels, more than the limit of {max_pixels} (a decompression "
            f"bomb?); --max-pixels {pixels}, or RESNEST_MAX_PIXELS, reads it, with up to "
            f"{max(memory_for(pixels) / 1e9, 0.1):,.1f} GB of memory"
        )
        raise ImageError(text, kind="too large")
    raise_pillows_limit(pixels)


def raise_pillows_limit(pixels: int) -> None:
    """Lets Pillow read so many pixels, see `check_pixels`."""
    from PIL import Image

    if 0 < (Image.MAX_IMAGE_PIXELS or 0) < pixels:
        Image.MAX_IMAGE_PIXELS = pixels


def damaged(why: str) -> ImageError:
    """The error of a file whose bytes contradict each other."""
    return ImageError(f"is damaged: {why}", kind="damaged")


def unsupported(why: str) -> ImageError:
    """The error of a photo of a kind that nobody here reads."""
    return ImageError(f"is not supported: {why}", kind="not an image")


def leave_note(text: str) -> None:
    """Leaves a note about the photo that this thread is reading; goes on after its name."""
    _local.text = text


def take_note() -> str | None:
    """The note that this thread has left since the last time, if any."""
    text: str | None = getattr(_local, "text", None)
    _local.text = None
    return text
