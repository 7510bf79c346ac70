"""Files that appear whole or not at all, whatever happens to the process or the machine.

What a program trusts without looking into it, such as a compiled model, is private: nobody but its
owner can write it, and it is used only if its owner is the user of this process or root.
"""

import contextlib
import errno
import functools
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from resnest_cli.errors import ResnestError, cannot_write
from resnest_cli.locks import short_name, try_lock

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_DIGITS = len("01234567.tmp")


@contextlib.contextmanager
def atomic_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the name `path` only once its bytes are safe on the disk.

    It replaces one of that name. Nobody but its owner can read or write it if it is `private`, else
    the umask decides. Where the body raises, nothing is left behind; a kill may leave a hidden
    `.<name>.<digits>.tmp`, which the next one that writes this name removes. The folder must exist.

    Raises:
        OSError: it cannot be written.
    """
    for left in _leftovers(path.parent).pop(_beginning(path), ()):
        _remove_left(left)
    temporary, opened = _begun(path, private=private)
    try:
        with opened as file:
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
    return path.with_name(f"{_beginning(path)}{os.urandom(4).hex()}.tmp")


def _beginning(path: Path) -> str:
    return f".{short_name(path.name)}."


@functools.cache
def _leftovers(folder: Path) -> dict[str, list[Path]]:
    """By their beginnings, what killed processes have left in a folder: looked at once."""
    found: dict[str, list[Path]] = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if _TEMPORARY.fullmatch(entry.name):
                found.setdefault(entry.name[:-_DIGITS], []).append(folder / entry.name)
    return found


def _begun(path: Path, *, private: bool) -> tuple[Path, BinaryIO]:
    """A temporary file, locked for as long as its process lives."""
    while True:
        temporary = temporary_name(path)
        file = open(temporary, "xb", opener=_private if private else None)  # noqa: SIM115
        if os.name != "posix":  # Windows removes no file that is open
            return temporary, file
        try:
            if try_lock(file.fileno()) and os.fstat(file.fileno()).st_nlink:
                return temporary, file
        except OSError:  # a file system without locks, where nobody takes it for a leftover
            return temporary, file
        file.close()  # somebody has taken it for one before it was locked


def _remove_left(path: Path) -> None:
    """Removes a temporary file that no living process has open."""
    with contextlib.suppress(OSError):  # it is in nobody's way, or nobody can say whose it is
        descriptor = os.open(path, os.O_RDWR)
        try:
            if os.name != "posix" or try_lock(descriptor):
                path.unlink()
        finally:
            os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes left of a file, half written beside `path`.

    Its name may be a pattern, as of `Path.glob`. What a living process is writing stays.
    """
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        if _TEMPORARY.fullmatch(left.name):
            _remove_left(left)


def check_folder(folder: Path, flag: str) -> None:
    """Whether files can go into a folder that `flag` names; before anything slow begins.

    Raises:
        ResnestError: it is a file, or its parent does not exist.
    """
    if folder.exists() and not folder.is_dir():
        raise ResnestError(f"{folder}: cannot be written: is a file. Give {flag} a folder.")
    if not folder.parent.is_dir():
        raise ResnestError(f"{folder}: cannot be written: there is no folder {folder.parent}.")


@contextlib.contextmanager
def writing(path: Path, kind: type[ResnestError] = ResnestError) -> Iterator[None]:
    """What the system refuses inside becomes an error about this file, or folder, in words.

    Raises:
        ResnestError: of this kind; says why, and what to do.
    """
    try:
        yield
    except OSError as error:
        raise kind(cannot_write(path, error)) from error


def append(path: Path, data: bytes) -> None:
    """Adds whole lines to a file, synced; where that fails, the file stays as it was.

    Raises:
        OSError: it cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            # Nothing is buffered: else closing the file would write what is taken back here.
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)
    if before == 0:
        sync_folder(path.parent)


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
    """Whether a path is a file or folder that nobody but this user and root can have written."""
    return not distrusted(path)


def distrusted(path: Path) -> str:
    """Why a path is not `trusted`, to follow its name; empty if it is.

    A link is not, wherever it leads. What can be replaced in between, because its folder is not
    private, is to be read by `read_trusted`.
    """
    try:
        found = path.lstat()
    except OSError as error:
        return f"cannot be looked at: {error.strerror or error}"
    return "is a link" if stat.S_ISLNK(found.st_mode) else distrust(found)


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
