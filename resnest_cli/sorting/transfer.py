"""One file to its place, or back: never over another file, never half, and again after a kill.

What was done is seen from the files themselves, so that every function may be called anew wherever
a process was killed: it goes on, or finds that all is done. A file gets a new name by a hard link,
since a rename replaces what has the name; where a file system knows none, by a rename after a look.
Across disks a copy is synced and compared before the original goes.
"""

import errno
import filecmp
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from resnest_cli.files import leftovers, sync_folder, temporary_name
from resnest_cli.options import How

_TICK = 2 * 10**9  # ns; FAT keeps times of modification in steps of two seconds


class Step(NamedTuple):
    """One file to be sorted: its absolute path, and its place below the folder, with `/` between.

    `size` in bytes and `mtime` in ns are the file's when this was planned. `link` is what a
    symbolic link says that is to be moved.
    """

    source: str
    target: str
    size: int
    mtime: int
    link: str | None = None


class KeptError(Exception):
    """A file stays where it is; the message goes on after its name."""


def do(step: Step, how: How, folder: Path) -> None:
    """Copies, links or moves a file to its place in the folder.

    Raises:
        KeptError: it stays: it has changed or is gone, or its place has been taken since.
        OSError: the system refuses; nothing has changed.
    """
    source, target = Path(step.source), folder / step.target
    for left in leftovers(target):
        left.unlink(missing_ok=True)
    if how == "link":
        if link_text(target) != step.source:
            _symlink(step.source, target)
    elif how == "move":
        if step.link is None and source.is_file() and not _is(source, step):
            raise KeptError("stays: it has changed since it was predicted")
        absolute = step.link and os.path.join(source.parent, step.link)  # noqa: PTH118
        _move(source, target, absolute)
    elif target.is_symlink() or not _is(target, step):
        if not _is(source, step):
            raise KeptError("stays: it has changed, or is gone, since it was predicted")
        _copy(source, target)


def take_back(step: Step, how: How, folder: Path) -> bool:
    """Undoes `do`; returns whether there was anything to undo.

    Raises:
        KeptError: a copy has changed since, or something else has the place of what was moved.
        OSError: the system refuses; nothing has changed.
    """
    source, target = Path(step.source), folder / step.target
    for path in (*leftovers(source), *leftovers(target)):
        path.unlink(missing_ok=True)
    if how == "move":
        if not os.path.lexists(target):
            if not os.path.lexists(source):
                raise KeptError("is gone from there")
            return False
        if os.path.lexists(source) and not (_same(source, target) or _is(target, step)):
            if _is(source, step):
                return False  # it was never moved, and this is another file
            raise KeptError(f"stays: {source} has been put there since")
        source.parent.mkdir(parents=True, exist_ok=True)
        _move(target, source, step.link)
        return True
    if not os.path.lexists(target):
        return False
    if not (link_text(target) == step.source if how == "link" else _is(target, step)):
        raise KeptError("is another file than it was when sorted")
    target.unlink()
    return True


def _move(old: Path, new: Path, link: str | None) -> None:
    """Moves a file; or a symbolic link, which says `link` at its new place."""
    if not os.path.lexists(old):
        if os.path.lexists(new):  # by a process that was killed
            return
        raise KeptError("is gone")
    if link is not None:
        if link_text(new) != link:
            _symlink(link, new)
            shutil.copystat(old, new, follow_symlinks=False)
    elif os.path.lexists(new):
        if not _same(old, new):
            raise KeptError(f"stays: {new} has been put there since")
    else:
        try:
            rename(old, new)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(old, new)
        else:
            return
    _remove(old, new)


def _symlink(text: str, path: Path) -> None:
    try:
        path.symlink_to(text)
    except FileExistsError:
        raise KeptError(f"stays: {path} has been put there since") from None


def rename(old: Path, new: Path) -> None:
    """Renames a file; FileExistsError where the new name is taken."""
    if os.name != "nt":  # where a rename refuses by itself
        try:
            os.link(old, new)
        except OSError as error:
            if error.errno in {errno.EEXIST, errno.EXDEV}:
                raise
        else:
            _remove(old, new)
            return
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    old.rename(new)


def _remove(old: Path, new: Path) -> None:
    """Removes what has a new name; where that is refused it keeps the old one alone."""
    try:
        old.unlink()
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise


def _copy(source: Path, target: Path) -> None:
    """Copies a file with its mode, times and attributes; on the disk, and compared, at the end."""
    temporary = temporary_name(target)
    try:
        with source.open("rb") as read, temporary.open("xb") as written:
            shutil.copyfileobj(read, written, 2**20)
            written.flush()
            _copy_owner(source, temporary)
            shutil.copystat(source, temporary)
            os.fsync(written.fileno())
            if hasattr(os, "posix_fadvise"):  # so that it is read from the disk
                os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if not filecmp.cmp(source, temporary, shallow=False):
            raise OSError(errno.EIO, "the copy reads otherwise than the original", str(target))
        try:
            rename(temporary, target)
        except FileExistsError:
            raise KeptError(f"stays: {target} has been put there since") from None
        sync_folder(target.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _copy_owner(source: Path, copy: Path) -> None:
    if hasattr(os, "chown"):
        owner = source.stat()
        with suppress(OSError):  # only root may give files away
            os.chown(copy, owner.st_uid, owner.st_gid)


def link_text(path: Path) -> str | None:
    """What a symbolic link says; None of anything else."""
    return os.readlink(path) if path.is_symlink() else None  # noqa: PTH115 - the text as it is


def _is(path: Path, step: Step) -> bool:
    """Whether a file is the one that was planned, or its copy, by size and time."""
    try:
        found = path.stat()
    except OSError:
        return False
    same = found.st_size == step.size and abs(found.st_mtime_ns - step.mtime) <= _TICK
    return stat.S_ISREG(found.st_mode) and same


def _same(one: Path, other: Path) -> bool:
    """Whether both are names of one file, or copies with the same time."""
    if one.is_symlink() or other.is_symlink():
        return False
    if one.samefile(other):
        return True
    first, second = one.stat(), other.stat()
    near = abs(first.st_mtime_ns - second.st_mtime_ns) <= _TICK
    return near and filecmp.cmp(one, other, shallow=False)
