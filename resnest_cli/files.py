"""Files that appear whole or not at all, whatever happens to the process or the machine.

What a program trusts without looking into it, such as a compiled model, is private: nobody but its
owner can write it, and it is used only if its owner is the user of this process or root.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def atomic_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the name `path` only once its bytes are safe on the disk.

    It replaces one of that name. Nobody but its owner can read or write it if it is `private`, else
    the umask decides. Where the body raises, nothing is left behind; a kill may leave
    a hidden `.<name>.<digits>.tmp`, see `remove_leftovers`. The folder must exist.

    Raises:
        OSError: it cannot be written.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb", opener=_private if private else None) as file:
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


def write_private(path: Path, data: bytes) -> None:
    """Writes a file of mode 0600, atomically; a link of that name is replaced, not followed.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(path, private=True) as file:
        file.write(data)


def read_trusted(path: Path) -> bytes:
    """The content of a file that nobody but this user and root can have written.

    Raises:
        OSError: it cannot be read, or is not to be trusted; the message says why.
    """
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, os.O_RDONLY | flags), "rb") as file:  # noqa: PTH123 - a descriptor
        if why := distrust(os.fstat(file.fileno())):
            raise PermissionError(errno.EACCES, f"it {why}", str(path))
        return file.read()


def trusted(path: Path) -> bool:
    """Whether a path is a file or folder that nobody but this user and root can have written.

    A link is not, wherever it leads. What can be replaced in between, because its folder is not
    private, is to be read by `read_trusted`.
    """
    try:
        found = path.lstat()
    except OSError:
        return False
    return not (stat.S_ISLNK(found.st_mode) or distrust(found))


def distrust(found: os.stat_result) -> str:
    """Why a file, folder or link is not to be trusted, to follow its name; empty if it is.

    A link has an owner, but no mode of its own. Windows keeps no such modes: there the user's
    profile is private.
    """
    if not hasattr(os, "geteuid"):
        return ""
    if found.st_uid not in {os.geteuid(), 0}:
        return f"belongs to another user (id {found.st_uid})"
    if not stat.S_ISLNK(found.st_mode) and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by other users (chmod go-w)"
    return ""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def sync_folder(folder: Path) -> None:
    """Makes sure that renames and removals in this folder outlive a power failure."""
    with contextlib.suppress(OSError):  # Windows opens no folders; some file systems refuse it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
