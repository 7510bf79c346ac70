"""Files that appear whole or not at all, whatever happens to the process or the machine."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `path` only once its bytes are safe on the disk.

    It replaces one of that name. Where the body raises, nothing is left behind; a kill may leave
    a hidden `.<name>.<digits>.tmp`, see `remove_leftovers`. The folder must exist.

    Raises:
        OSError: it cannot be written.
    """
    temporary = temporary_name(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` for what shall take its name."""
    return path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.tmp")


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes left of a file, half written beside `path`.

    Its name may be a pattern, as of `Path.glob`. No other process may be writing that file.
    """
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        if _TEMPORARY.fullmatch(left.name):
            with contextlib.suppress(OSError):  # it is in nobody's way
                left.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file, atomically; surrogate escapes become the bytes they stand for.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def sync_folder(folder: Path) -> None:
    """Makes sure that renames and removals in this folder outlive a power failure."""
    with contextlib.suppress(OSError):  # Windows opens no folders; some file systems refuse it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
