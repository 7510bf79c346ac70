"""Locks on the names that commands write; a lock ends with its process, however that ends.

`flock` on Unix and a locked byte on Windows, as in the library filelock, whose import would take a
good part of the time of a prediction. Where a file system knows no locks, nothing is held.
"""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from resnest_cli.errors import ResnestError, cannot_write

PATIENCE = 1.0  # seconds; a process that is being killed may hold a lock for an instant

_held: set[int] = set()  # descriptors; a forked child lets go of them


@contextlib.contextmanager
def locked(*paths: Path | None, folder: Path | None = None) -> Iterator[None]:
    """Holds the files, and the folder, that a command is to write, against other commands.

    The lock is an empty hidden file, `.NAME.lock` beside the file or `.lock` in the folder, which
    is made, and is removed at the end, as is a folder that stayed empty. A kill leaves the lock's
    file, which holds nothing then; the next command that writes the name removes it. Pipes and
    devices are not held.

    Raises:
        ResnestError: another process holds one, or its place cannot be written.
    """
    with contextlib.ExitStack() as stack:
        for path in filter(None, paths):
            if path.is_file() or not path.exists():
                real = Path(os.path.realpath(path))  # a file has one lock, whatever links to it
                lock = real.with_name(f".{short_name(real.name)}.lock")
                stack.enter_context(_holding(path, lock))
        if folder is not None:
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise ResnestError(cannot_write(folder, error)) from error
            stack.callback(_remove_empty, folder)
            stack.enter_context(_holding(folder, folder / ".lock"))
        yield


def try_lock(descriptor: int) -> bool:
    """Locks an open file; False where another process has it.

    Raises:
        OSError: the file system knows no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN}:
            return False
        raise
    return True


@contextlib.contextmanager
def _holding(path: Path, file: Path) -> Iterator[None]:
    until = time.monotonic() + PATIENCE
    try:
        while (descriptor := _taken(file)) is None:
            if time.monotonic() > until:
                raise ResnestError(
                    f"{path}: another command is writing it. Wait for that, or give another name."
                )
            time.sleep(0.05)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS} or not _may_write(path):
            raise ResnestError(cannot_write(path, error)) from error
        descriptor = -1  # the file alone may be written, and nothing beside it
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:
            _held.discard(descriptor)
            _let_go(file, descriptor)


def short_name(name: str) -> str:
    """A name, or so much of it that others can be made of it; file systems allow 255 bytes."""
    raw = os.fsencode(name)
    if len(raw) <= 200:
        return name
    import hashlib

    return os.fsdecode(raw[:100]) + hashlib.sha256(raw).hexdigest()[:16]


def _taken(file: Path) -> int | None:
    """A descriptor of the locked file; None where another process has it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Whoever had it may have removed it in between: then the name is nobody's, or another's.
        if try_lock(descriptor) and os.path.samestat(os.fstat(descriptor), os.stat(file)):  # noqa: PTH116
            return descriptor
    except FileNotFoundError:
        pass
    except OSError:  # no locks here
        return descriptor
    os.close(descriptor)
    return None


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _may_write(path: Path) -> bool:
    return path.is_file() and os.access(path, os.W_OK)


def _let_go(file: Path, descriptor: int) -> None:
    if descriptor < 0:
        return
    if os.name == "nt":  # nobody else can have a file open there that can be removed
        os.close(descriptor)
    with contextlib.suppress(OSError):
        file.unlink()
    if os.name != "nt":
        os.close(descriptor)


def _forked() -> None:
    """In a child: the lock is its parent's alone, and must not outlive that."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
