"""A file on its way into a cache folder: `<name>.part`, its note, and the final rename.

`<name>.part` holds the bytes that have arrived, `<name>.part.json` which file they belong to. The
note is removed before the bytes are, and written before new bytes are, so that a kill at any moment
leaves fewer bytes or none, never bytes of another file. The final name appears in one step, and
only when the SHA-256 is right. The folder may be shared: a link under one of these names is not
followed.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from resnest_cli import paths
from resnest_cli.errors import CacheError, DownloadError
from resnest_cli.machine_limits import limit_reached
from resnest_cli.web import LARGEST, too_large

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class WrongFileError(DownloadError):
    """All bytes have arrived, and they are not those of the published file."""


@dataclass(frozen=True, slots=True)
class Note:
    """What the bytes in `<name>.part` are the beginning of.

    `validator` is the server's strong ETag or Last-Modified; empty: cannot be resumed. `total` is
    the size of the whole file in bytes; None: the server did not say.
    """

    url: str
    validator: str = ""
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Partial:
    """The place a download goes to.

    `sha256` is the expected hash, its first digits, or empty where none is known; `variable` is the
    environment variable that moves the cache, for messages; `largest` is how many bytes the file
    may have.
    """

    target: Path
    sha256: str
    variable: str
    largest: int = LARGEST

    @property
    def part(self) -> Path:
        """The bytes so far."""
        return self.target.with_name(self.target.name + ".part")

    @property
    def note(self) -> Path:
        """The record of what they belong to."""
        return self.target.with_name(self.target.name + ".part.json")

    def size(self) -> int:
        """Number of bytes so far."""
        try:
            return self.part.stat().st_size
        except OSError:
            return 0

    def resumable(self, url: str) -> Note | None:
        """The note, if the bytes so far are the beginning of this URL's file and can be resumed."""
        try:
            note = Note(**json.loads(self.note.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        sound = isinstance(note.validator, str) and (note.total is None or type(note.total) is int)
        return note if sound and note.url == url and note.validator and self.size() else None

    def begin(self, note: Note) -> None:
        """Start afresh: no bytes yet, of the file that the note describes.

        Raises:
            DownloadError: the file is too large.
            CacheError: the folder cannot be written or has no room for the file.
        """
        if note.total is not None:
            self.check_size(note.total)
            self.check_room(note.total - self.size())  # the old part makes room
        with self.writing():
            self.discard()
            with FileIO(self.note, "xb", opener=self._open) as file:
                file.write(json.dumps(asdict(note)).encode())
            FileIO(self.part, "xb", opener=self._open).close()

    def discard(self) -> None:
        """Forget the bytes so far."""
        with self.writing():
            self.note.unlink(missing_ok=True)
            self.part.unlink(missing_ok=True)

    def append(self) -> FileIO:
        """Open for more bytes; unbuffered, so that what was written survives a kill.

        Raises:
            CacheError: the file cannot be opened.
        """
        with self.writing():
            return FileIO(self.part, "ab", opener=self._open)

    def write(self, file: FileIO, data: bytes, left: int | None) -> None:
        """Write data to the file that `append` opened; `left` bytes are to come, these included.

        Raises:
            DownloadError: the file has become too large; what has arrived is of no use.
            CacheError: the disk is full, or refuses.
        """
        try:
            self.check_size(file.tell() + len(data))
        except DownloadError:
            self.discard()
            raise
        view = memoryview(data)
        try:
            while view:
                view = view[file.write(view) :]
        except OSError as error:
            if error.errno not in _FULL:
                raise cannot_write(error, self.target.parent, self.variable) from error
            needed = len(view) if left is None else left - len(data) + len(view)
            free = self._free() or 0
            raise self._full(needed - free if needed > free else needed) from error

    def check_size(self, size: int) -> None:
        """Check that a file of `size` bytes may be the one.

        Raises:
            DownloadError: it is too large.
        """
        if size > self.largest:
            raise DownloadError(too_large(self.largest))

    def check_room(self, needed: int) -> None:
        """Check that `needed` more bytes fit.

        Raises:
            CacheError: they do not; the message says how many are missing.
        """
        free = self._free()
        if free is not None and needed > free:
            raise self._full(needed - free)

    def finish(self) -> str:
        """Check the hash and give the file its final name. Returns its SHA-256.

        Raises:
            WrongFileError: another hash than expected; the bytes are discarded.
            CacheError: the folder cannot be written.
        """
        with self.writing():
            with self.part.open("r+b") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            if actual.startswith(self.sha256):
                self.part.replace(self.target)
                self.note.unlink(missing_ok=True)
                return actual
        self.discard()
        digits = "is to begin with" if len(self.sha256) < len(actual) else "is to be"
        raise WrongFileError(f"wrong file: its SHA-256 {digits} {self.sha256}, but is {actual}")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn an OSError of the file system into a CacheError that tells what to do."""
        try:
            yield
        except OSError as error:
            raise cannot_write(error, self.target.parent, self.variable) from error

    def _open(self, path: str, flags: int) -> int:
        mode = 0o600 if self.variable == "RESNEST_HOME" else 0o666  # others share torch.hub's
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), mode)

    def _free(self) -> int | None:
        try:
            return shutil.disk_usage(self.target.parent).free
        except OSError:  # some network file systems do not say
            return None

    def _full(self, missing: int) -> CacheError:
        return CacheError(
            f"the disk is full: {self.target.parent} lacks {missing:,} bytes for "
            f"{self.target.name}. Free some space, or set {self.variable} to a folder on another "
            f"disk. What has arrived is kept, and the next run continues there."
        )


def no_place(folder: Path, variable: str) -> str:
    """Why a cache folder cannot be, and which variable names another; empty if it may be."""
    why = paths.homeless(folder)
    if not why:
        return ""
    return f"there is no cache folder: {why}. Set {variable} to one that can be written."


def cannot_write(error: OSError, folder: Path, variable: str) -> CacheError:
    """The error of a cache folder that refuses: which one, why, and which variable moves it."""
    if missing := no_place(folder, variable):
        return CacheError(missing)
    if limit := limit_reached(error):
        return CacheError(f"cannot write to the cache folder {folder}: {limit}")
    if error.errno in _FULL:
        return CacheError(
            f"the disk of {folder} is full. Free some space, or set {variable} to a folder on "
            f"another disk."
        )
    return CacheError(
        f"cannot write to the cache folder {folder}: {error.strerror or error}. Make it writable, "
        f"or set {variable} to a folder that is."
    )
