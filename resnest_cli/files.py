"""Files that appear whole or not at all, locks on their names, and what is said when that fails.

    atomic_file, atomic_path, write_text, append      whole files, or whole lines
    writing, reading                                  the system's refusals as errors, in words
    locked, lock_file                                 one process at a time
    read_trusted, distrusted, distrust                files that only this user can have written
    check_folder, free_bytes                          asked before anything slow begins

What a program trusts without looking into it, such as a compiled model, is private: nobody but its
owner can write it, and it is used only if its owner is the user of this process or root.

A lock ends with its process, however that ends: `flock` on Unix and a locked byte on Windows, as in
the library filelock, whose import would take a good part of the time of a prediction. Where a file
system knows no locks, nothing is held.
"""

import contextlib
import errno
import functools
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from resnest_cli.errors import ResnestError, cannot_write, limit_reached, reason
from resnest_cli.text import one_line

_SPECIAL = "is a device or a pipe, no file"
PATIENCE = 1.0  # seconds; a process that is being killed may hold a lock for an instant
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_DIGITS = len("01234567.tmp")
_held: set[int] = set()  # descriptors of locks; a forked child lets go of them


class BusyError(ResnestError):
    """Another process holds the lock."""


@contextlib.contextmanager
def writing(
    path: object, kind: type[ResnestError] = ResnestError, *, then: str = ""
) -> Iterator[None]:
    """Turns what the system refuses inside into an error of this kind about a file or folder.

    It says why, what to do, and `then`, such as how to go on.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{cannot_write(path, error)} {then}".rstrip()) from error


@contextlib.contextmanager
def reading(
    path: object,
    kind: type[ResnestError] = ResnestError,
    *,
    damage: tuple[type[Exception], ...] = (),
    then: str = "",
) -> Iterator[None]:
    """The same for a file that is read; `damage` are the errors that its content may cause."""
    expected: tuple[type[Exception], ...] = (OSError, *damage)
    try:
        yield
    except expected as error:
        why = reason(error) if isinstance(error, OSError) else one_line(str(error))
        limit = limit_reached(error) or ""
        text = f"{path}: cannot be read: {why.rstrip('.') or type(error).__name__}."
        raise kind(" ".join(filter(None, (text, limit[:1].upper() + limit[1:], then)))) from error


@contextlib.contextmanager
def atomic_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the name `path` only once its bytes are safe on the disk.

    It replaces one of that name. Nobody but its owner can read or write it if it is `private`, else
    the umask decides. Where the body raises, nothing is left behind; a kill may leave a hidden
    `.<name>.<digits>.tmp`, which the next one that writes this name removes. The folder must exist.
    A device or a pipe of this name is written to, and stays.
    """
    if _is_special(path):
        if private:
            raise OSError(errno.EINVAL, _SPECIAL)
        with path.open("wb") as file:
            yield file
        return
    for left in leftovers(path):
        _remove_left(left)
    temporary, opened = _begun(path, private=private)
    with _renamed(temporary, path), opened as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """The same for what is written by name: a name beside `path`, and whatever gets it becomes it.

    Unless `durable`, a power failure may leave the old file, or none.
    """
    temporary = temporary_name(path)
    with _renamed(temporary, path, durable=durable):
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())


@contextlib.contextmanager
def _renamed(temporary: Path, path: Path, *, durable: bool = True) -> Iterator[None]:
    """Gives a file its name at the end, or removes it. A device or a pipe keeps its name."""
    try:
        if _is_special(path):
            raise OSError(errno.EINVAL, _SPECIAL)
        yield
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _is_special(path: Path) -> bool:
    """Whether it is a device, a pipe or a socket, whose name no file may take."""
    return path.exists() and not (path.is_file() or path.is_dir())


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` for what shall take its name."""
    return path.with_name(f"{_beginning(path)}{os.urandom(4).hex()}.tmp")


def _beginning(path: Path) -> str:
    return f".{_short_name(path.name)}."


def leftovers(path: Path) -> list[Path]:
    """What killed processes have left of a file, half written beside `path`; named only once."""
    return _leftovers(path.parent).pop(_beginning(path), [])


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
            if _try_lock(file.fileno()) and os.fstat(file.fileno()).st_nlink:
                return temporary, file
        except OSError:  # a file system without locks, where nobody takes it for a leftover
            return temporary, file
        file.close()  # somebody has taken it for one before it was locked


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _remove_left(path: Path) -> None:
    """Removes a temporary file that no living process has open."""
    with contextlib.suppress(OSError):  # it is in nobody's way, or nobody can say whose it is
        descriptor = os.open(path, os.O_RDWR)
        try:
            if os.name != "posix" or _try_lock(descriptor):
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


def append(path: Path, data: bytes) -> None:
    """Adds whole lines to a file, synced; where that fails, the file stays as it was."""
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
    """Writes a UTF-8 text file, atomically; surrogate escapes become the bytes they stand for."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def write_private(path: Path, data: bytes) -> None:
    """Writes a file of mode 0600, atomically; a link of that name is replaced, not followed."""
    with atomic_file(path, private=True) as file:
        file.write(data)


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
        if folder is not None:  # first: files may lie in it
            with writing(folder):
                folder.mkdir(exist_ok=True)
            stack.callback(_remove_empty, folder)
            _hold(stack, folder, folder / ".lock")
        for path in filter(None, paths):
            if path.is_file() or not path.exists():
                real = Path(os.path.realpath(path))  # a file has one lock, whatever links to it
                _hold(stack, path, real.with_name(f".{_short_name(real.name)}.lock"))
        yield


def _hold(stack: contextlib.ExitStack, path: Path, file: Path) -> None:
    busy = f"{path}: another command is writing it. Wait for that, or give another name."
    with writing(path):
        try:
            stack.enter_context(lock_file(file, busy=busy))
        except OSError as error:
            refused = error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}
            if not (refused and path.is_file() and os.access(path, os.W_OK)):
                raise  # else the file alone may be written, and nothing beside it


@contextlib.contextmanager
def lock_file(
    file: Path, *, wait: float | None = None, busy: str = "", mode: int = 0o666
) -> Iterator[None]:
    """Holds a file that is nothing but a lock; it is made, and removed at the end.

    Where another process holds it after `wait` seconds (None: `PATIENCE`, and `math.inf` for ever),
    the BusyError says `busy`. An OSError: it cannot be made. `mode` is the file's, less the umask.
    """
    until = time.monotonic() + (PATIENCE if wait is None else wait)
    while (descriptor := _taken(file, mode)) is None:
        if time.monotonic() >= until:
            raise BusyError(busy or f"{file}: another process holds it.")
        time.sleep(0.05)
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # else this is a forked child
            _held.discard(descriptor)
            if os.name == "nt":  # nobody else can have a file open there that can be removed
                os.close(descriptor)
            with contextlib.suppress(OSError):
                file.unlink()
            if os.name != "nt":
                os.close(descriptor)


def _taken(file: Path, mode: int) -> int | None:
    """A descriptor of the locked file; None where another process has it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, mode)
    try:
        # Whoever had it may have removed it in between: then the name is nobody's, or another's.
        if _try_lock(descriptor) and os.path.samestat(os.fstat(descriptor), os.stat(file)):  # noqa: PTH116
            return descriptor
    except FileNotFoundError:
        pass
    except OSError:  # no locks here
        return descriptor
    os.close(descriptor)
    return None


def _try_lock(descriptor: int) -> bool:
    """Locks an open file; False where another process has it, OSError where there are no locks."""
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


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _short_name(name: str) -> str:
    """A name, or so much of it that others can be made of it; file systems allow 255 bytes."""
    raw = os.fsencode(name)
    if len(raw) <= 200:
        return name
    import hashlib

    return os.fsdecode(raw[:100]) + hashlib.sha256(raw).hexdigest()[:16]


def _forked() -> None:
    """In a child: the lock is its parent's alone, and must not outlive that."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


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


def distrusted(path: Path) -> str:
    """Why others than this user and root may have written a file or folder; empty if they cannot.

    A link is not trusted, wherever it leads. What can be replaced in between, because its folder is
    not private, is to be read by `read_trusted`.
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
    if not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o022:
        return "can be written by other users (chmod go-w)"
    return ""


def sync_folder(folder: Path) -> None:
    """Makes sure that renames and removals in this folder outlive a power failure."""
    with contextlib.suppress(OSError):  # Windows opens no folders; some file systems refuse it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_folder(folder: Path, flag: str) -> None:
    """Whether files can go into a folder that `flag` names; before anything slow begins.

    Raises:
        ResnestError: it is a file, or its parent does not exist.
    """
    if folder.exists() and not folder.is_dir():
        raise ResnestError(f"{folder}: cannot be written: is a file. Give {flag} a folder.")
    if not folder.parent.is_dir():
        raise ResnestError(
            f"{folder}: cannot be written: there is no folder {folder.parent}. Make it, or name "
            "another."
        )


def free_bytes(folder: Path) -> int | None:
    """Room that is left on the disk of a folder; None where a network file system does not say."""
    import shutil  # not needed where nothing large is written

    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
