"""A file from one of several origins onto the disk: resumed, verified, written by one process.

A file on its way is `<name>.part`, and `<name>.part.json` says which file its bytes belong to. The
note is removed before the bytes are, and written before new bytes are, so that a kill at any moment
leaves fewer bytes or none, never bytes of another file. The final name appears in one step, and
only when the SHA-256 is right. The folder may be shared: a link under one of these names is not
followed.

A call ends, whatever the server does: an answer must begin, and go on faster than the least speed,
and the file has a largest size.

Source: RFC 9110, sections 8.8 (validators), 13.1.5 (If-Range) and 14 (ranges). Deviation: a
`Last-Modified` date serves for If-Range even where it is not strong, but only when the partial
answer repeats it; the hash at the end has the last word anyway.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from resnest_cli import paths
from resnest_cli.errors import CacheError, DownloadError, cannot_write
from resnest_cli.files import BusyError, free_bytes, lock_file
from resnest_cli.net import HEAD, LARGEST, Access, HttpError, TooLargeError, misfit, without_login
from resnest_cli.progress import Display, Notify, hidden

if TYPE_CHECKING:
    from requests import Response

    from resnest_cli.net.http import Deadline, DeadlineSession

CHUNK = 64 * 1024  # bytes; what a kill or a stall can lose
_COPY_CHUNK = 1 << 20
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class WrongFileError(DownloadError):
    """All bytes have arrived, and they are not those of the published file."""


@contextmanager
def locked(target: Path, variable: str, notify: Notify) -> Iterator[None]:
    """Holds the lock of a file to be fetched; waits, and says so, while another process does."""
    lock = lock_of(target)
    with contextlib.ExitStack() as stack:
        with writing(target.parent, variable):
            if variable == "RESNEST_HOME":  # one user's; the others are as their owners make them
                paths.make_private(target.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(lock_file(lock, wait=0))
            except BusyError:
                notify(f"another process is downloading {target.name}; waiting for it")
                stack.enter_context(lock_file(lock, wait=math.inf))
        yield


def lock_of(target: Path) -> Path:
    """The lock's file; left by a kill, it holds nothing."""
    return target.with_name(f"{target.name}.lock")


def set_aside(path: Path, variable: str) -> Path:
    """Renames a damaged file to `<name>.damaged`, numbered if taken, and returns the new path.

    A file that another process has already set aside is no error.
    """
    aside, number = path.with_name(f"{path.name}.damaged"), 2
    while aside.exists():
        aside, number = path.with_name(f"{path.name}.damaged.{number}"), number + 1
    with writing(path.parent, variable), contextlib.suppress(FileNotFoundError):
        path.rename(aside)
    return aside


def no_place(folder: Path, variable: str) -> str:
    """Why a cache folder cannot be, and which variable names another; empty if it may be."""
    why = paths.homeless(folder)
    if not why:
        return ""
    return f"there is no cache folder: {why}. Set {variable} to one that can be written."


@contextmanager
def writing(folder: Path, variable: str) -> Iterator[None]:
    """What the system refuses becomes a CacheError: which folder, why, what variable moves it."""
    try:
        yield
    except OSError as error:
        moved = f"Or set {variable} to a folder on another disk."
        said = f"the cache folder {cannot_write(folder, error)} {moved}"
        raise CacheError(no_place(folder, variable) or said) from error


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
class Place:
    """Where a download goes.

    `sha256` is the expected hash, its first digits, or empty where none is known; `variable` is the
    environment variable that moves the cache, for messages; `largest` is how many bytes the file
    may have. What is wrong with the disk is a CacheError.
    """

    target: Path
    sha256: str
    variable: str
    largest: int = LARGEST

    @property
    def part(self) -> Path:
        """The bytes so far."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def note(self) -> Path:
        """The record of what they belong to."""
        return self.target.with_name(f"{self.target.name}.part.json")

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
        """Starts afresh: no bytes yet, of the file that the note describes."""
        if note.total is not None:
            if note.total > self.largest:
                raise TooLargeError(self.largest)
            self.check_room(note.total - self.size())  # the old part makes room
        self.discard()
        with self.writing():
            with FileIO(self.note, "xb", opener=self._open) as file:
                file.write(json.dumps(asdict(note)).encode())
            FileIO(self.part, "xb", opener=self._open).close()

    def discard(self) -> None:
        """Forgets the bytes so far."""
        with self.writing():
            self.note.unlink(missing_ok=True)
            self.part.unlink(missing_ok=True)

    def append(self) -> FileIO:
        """A file for more bytes; unbuffered, so that what was written survives a kill."""
        with self.writing():
            return FileIO(self.part, "ab", opener=self._open)

    def write(self, file: FileIO, data: bytes, left: int | None) -> None:
        """Writes to the file that `append` opened; `left` bytes are to come, these included."""
        if file.tell() + len(data) > self.largest:
            self.discard()  # what has arrived is of no use
            raise TooLargeError(self.largest)
        view = memoryview(data)
        with self.writing():
            try:
                while view:
                    view = view[file.write(view) :]
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                needed = len(view) if left is None else left - len(data) + len(view)
                free = free_bytes(self.target.parent) or 0
                raise self._full(needed - free if needed > free else needed) from error

    def check_room(self, needed: int) -> None:
        """Whether `needed` more bytes fit; the error says how many are missing."""
        free = free_bytes(self.target.parent)
        if free is not None and needed > free:
            raise self._full(needed - free)

    def finish(self) -> str:
        """Gives a file with the right hash its final name, discards others. Returns its SHA-256."""
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

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Turns what the system refuses into a CacheError."""
        return writing(self.target.parent, self.variable)

    def _open(self, path: str, flags: int) -> int:
        mode = 0o600 if self.variable == "RESNEST_HOME" else 0o666  # others share torch.hub's
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), mode)

    def _full(self, missing: int) -> CacheError:
        return CacheError(
            f"the disk is full: {self.target.parent} lacks {missing:,} bytes for "
            f"{self.target.name}. Free some space, or set {self.variable} to a folder on another "
            f"disk. What has arrived is kept, and the next run continues there."
        )


def download(url: str, place: Place, access: Access) -> str:
    """Fetches `url` to `place`, continuing what an earlier run has left. Returns its SHA-256.

    The caller holds the lock of `place`, or is the only one who knows it.

    Raises:
        DownloadError: this URL does not give the file; the message is the reason alone.
        CacheError: the cache folder cannot be written, or is full.
    """
    from resnest_cli.net.http import DeadlineSession, persevere

    with DeadlineSession() as session:
        one = _Download(url, place, access, session)
        return persevere(
            one.attempt,
            access.patience,
            furthered=one.furthered,
            notify=lambda text: access.notify(f"{one.name}: {text}"),
        )


def copy(source: Path, place: Place, display: Display = hidden) -> str:
    """Copies a file of a local mirror to `place`, with the same checks and errors as `download`."""
    try:  # `place` turns its own OSErrors into CacheErrors: those caught here are the source's
        with source.open("rb") as file:
            note = Note(str(source), total=source.stat().st_size)
            _store(place, note, 0, iter(lambda: file.read(_COPY_CHUNK), b""), display)
    except OSError as error:
        raise DownloadError(error.strerror or str(error)) from error
    return place.finish()


def _store(
    place: Place,
    note: Note,
    have: int,
    chunks: Iterator[bytes],
    display: Display,
    arrived: Callable[[int], None] = lambda _: None,
) -> int:
    """Stores a body that begins at offset `have`; returns how many bytes are there afterwards."""
    data = next(chunks, b"")
    if have:
        place.check_room((note.total or have) - have)
    else:
        # Looked at before the old part goes: a login page must not cost what has arrived.
        while len(data) < HEAD and (more := next(chunks, b"")):
            data += more
        if reason := misfit(data):
            raise DownloadError(reason)
        place.begin(note)
    with display(place.target.name) as progress, place.append() as part:
        progress(have, note.total)
        while data:
            place.write(part, data, note.total and note.total - have)
            have += len(data)
            arrived(len(data))
            progress(have, note.total)
            data = next(chunks, b"")
    return have


@dataclass
class _Download:
    """One URL, one place, as many attempts as it takes."""

    url: str
    place: Place
    access: Access
    session: "DeadlineSession"
    deadline: "Deadline | None" = None  # of the last attempt
    answered: bool = False  # whether the server ever sent an answer
    doubts: int = 0  # how often a finished file had the wrong hash

    def __post_init__(self) -> None:
        self.name = without_login(self.url)  # goes to the disk and into messages
        self.most = self.place.size()

    def furthered(self) -> bool:
        """Whether the last attempt brought more than the drips of one that was too slow."""
        size = self.place.size()
        drips = self.deadline.least if self.deadline and self.deadline.expired else 0
        furthered = size - self.most > drips
        self.most = max(self.most, size)
        return furthered

    def attempt(self) -> str:
        """Asks for what is missing, stores it, and checks the whole."""
        from resnest_cli.net.http import HEADERS, Deadline, answer

        note = self.place.resumable(self.name)
        have = self.place.size() if note else 0
        if note and note.total == have:
            return self._finish(doubtful=True)  # killed between the last byte and the rename
        wanted = {"Range": f"bytes={have}-", "If-Range": note.validator} if note else {}
        patience, headers = self.access.patience, HEADERS | wanted
        self.deadline = deadline = Deadline(patience.window, patience.slowest)
        with answer(
            self.session, self.url, deadline, patience, headers, answered=self.answered
        ) as response:
            self.answered = True
            if note and response.status_code == 416:
                # The bytes here are either all there are or those of another file.
                found = response.headers.get("Content-Range", "").replace(" ", "")
                if not (self.place.sha256 or found == f"bytes*/{have}"):
                    self._start_over("it has no bytes beyond those here")
                return self._finish(doubtful=True)
            note, have = self._understand(response, note, have)
            body, arrived = response.iter_content(CHUNK), deadline.advance
            size = _store(self.place, note, have, body, self.access.progress, arrived)
            if note.total is not None and size > note.total:
                self._start_over("it sent more than the whole file")
            if note.total is not None and size < note.total:
                raise HttpError(f"it sent {size:,} of {note.total:,} bytes", again=True)
        return self._finish(doubtful=have > 0 or note.total is None)

    def _understand(self, response: "Response", note: Note | None, have: int) -> tuple[Note, int]:
        """What the body is: the note of its file, and the offset at which it begins."""
        from resnest_cli.net import http

        if note and response.status_code == 206:
            if not http.continues(response, have, note.total, note.validator):
                self._start_over("the rest that it offers belongs to another file")
            return note, have
        if response.status_code != 200:
            raise http.refused(response)
        if http.encoding_of(response):
            return Note(self.name), 0  # lengths and ranges count compressed bytes: no resuming
        return Note(self.name, http.validator_of(response), http.length_of(response)), 0

    def _start_over(self, reason: str) -> NoReturn:
        """Forgets the bytes so far and asks again at once, without a range."""
        self.place.discard()
        raise HttpError(reason, again=True, wait=0)

    def _finish(self, *, doubtful: bool) -> str:
        """Checks the whole. `doubtful`: bytes may be missing or mixed, so a second try can help."""
        try:
            return self.place.finish()
        except WrongFileError as error:
            self.doubts += 1
            if doubtful and self.doubts <= 2:
                raise HttpError(str(error), again=True, wait=0) from error
            raise
