"""Reading a sample's photo, and keeping all of them in memory (`--cache`).

Small photos are decoded faster than they are found on a slow disk; kept, a pass over them costs no
reading at all. They are kept as Pillow holds them, four bytes a pixel, decoded before the processes
that load photos are forked, which share them.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.images.decode import decode
from resnest_cli.inference.cores import usable_cores
from resnest_cli.machine_limits import limit_reached

if TYPE_CHECKING:
    from resnest_cli.training.dataset import Sample

Progress = Callable[[int, int | None], None]

BYTES_PER_PIXEL = 4
_WINDOW = 512  # photos between two looks at the memory
_MOST = 0.8  # of the memory that is free
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@contextmanager
def limits_apart(name: str) -> Iterator[None]:
    """A photo is not to blame for a machine that opens no more files or has no memory left.

    Raises:
        ResnestError: that is why the photo of this name could not be read.
        ImageError: it is the photo's fault.
    """
    try:
        yield
    except ImageError as error:
        if isinstance(error.__cause__, MemoryError):
            raise ResnestError(f"{name} {error}.") from error
        if (limit := limit_reached(error)) is not None:
            raise ResnestError(f"{name}: {limit}") from error
        raise
    except MemoryError as error:
        raise ResnestError(f"{name} does not fit into this machine's memory.") from error


def photo_or_error(sample: "Sample") -> Image.Image | ImageError:
    """The sample's photo, upright, RGB; or why it cannot be read any more.

    Raises:
        ResnestError: it is the machine that cannot; see `limits_apart`.
    """
    try:
        with limits_apart(sample.path):
            return decode(sample.path)
    except ImageError as error:
        return error


def read_photo(sample: "Sample") -> Image.Image:
    """The sample's photo: upright, RGB.

    Raises:
        ResnestError: it cannot be read any more; names it.
    """
    found = photo_or_error(sample)
    if isinstance(found, ImageError):
        raise ResnestError(
            f"{sample.path} {found}. It was readable before: was it changed?"
        ) from found
    return found


def read_all(
    samples: "Sequence[Sample]", progress: Progress, free: int | None = None
) -> list[Image.Image | ImageError]:
    """All of them, in order, decoded by as many threads as there are cores.

    In place of one that cannot be read any more stands the error that says why.
    `free` are the bytes that may be had; what the machine has free unless given.

    Raises:
        ResnestError: they would take more than most of that, which is told after a few hundred.
    """
    free = free_memory() if free is None else free
    total, found, remaining = len(samples), list[Image.Image | ImageError](), iter(samples)
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="cache") as pool:
        while window := list(islice(remaining, _WINDOW)):
            for image in pool.map(photo_or_error, window):
                found.append(image)
                progress(len(found), total)
            first = [image for image in found[:_WINDOW] if isinstance(image, Image.Image)]
            needed = BYTES_PER_PIXEL * sum(image.width * image.height for image in first)
            needed = needed * total // max(1, len(first))
            if free is not None and needed > _MOST * free:
                raise ResnestError(
                    f"--cache: {total:,} photos take about {needed / 1e9:.1f} GB of memory when "
                    f"decoded, and {free / 1e9:.1f} GB are free. Use --no-cache."
                )
    return found


def free_memory() -> int | None:
    """Bytes that this process may still take, from Linux and its control group; None elsewhere."""
    found = [_available(), _below_limit()]
    return min((value for value in found if value is not None), default=None)


def _available() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(values[0]) if values else None


def _below_limit() -> int | None:
    """What a container's limit leaves (control groups, version 2)."""
    try:
        most = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = (_CGROUP / "memory.current").read_text(encoding="ascii").strip()
        return max(0, int(most) - int(used))
    except (OSError, ValueError):  # no limit: "max"
        return None
