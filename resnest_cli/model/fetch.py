"""Download of one file over HTTP: it resumes, it waits, and it never mixes two files.

Source: RFC 9110, sections 13.1.5 (If-Range) and 14 (ranges). Deviation: a `Last-Modified` date
serves for If-Range even where it is not strong, but only when the partial answer repeats it; the
hash at the end has the last word anyway.

One call tries one URL, several times where that can help. `weights` goes on to the next host. A
call ends, whatever the server does: an answer must begin, and go on faster than the least speed,
and the file has a largest size.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from resnest_cli import __version__, web
from resnest_cli.errors import DownloadError
from resnest_cli.model import answers
from resnest_cli.model.partial import Note, Partial, WrongFileError
from resnest_cli.net.progress import Progress

if TYPE_CHECKING:
    import requests

    from resnest_cli.net.deadline import DeadlineSession, Pace

CHUNK = 64 * 1024  # bytes; what a kill or a stall can lose
_COPY_CHUNK = 1 << 20
MAX_CONNECTIONS = 50  # per URL, even if each of them brings a few bytes
_HEAD = 512  # bytes; enough to recognise a web page or a Git LFS pointer


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to try one URL.

    `connect` and `read` are seconds without any answer; every `window` seconds must bring `slowest`
    bytes a second, the first window an answer, too. `attempts` is how many attempts in a row may
    fail without bringing the file further. `sleep` waits a number of seconds.
    """

    connect: float = 10.0
    read: float = 30.0
    window: float = 60.0
    slowest: int = 1000
    attempts: int = 4
    sleep: Callable[[float], None] = time.sleep


class _TryAgainError(Exception):
    """This attempt failed; the next one may not. `wait`: seconds, None: the usual pause."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def fetch(
    url: str,
    place: Partial,
    patience: Patience = Patience(),
    progress: Progress | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> str:
    """Download `url` to `place`, continuing what an earlier run has left. Returns its SHA-256.

    The caller holds the lock of `place`.

    Raises:
        DownloadError: this URL does not give the file; the message is the reason alone.
        CacheError: the cache folder cannot be written, or is full.
    """
    from resnest_cli.net.deadline import DeadlineSession

    download = _Download(url, place, patience, progress, notify)
    with DeadlineSession() as session:
        return download.run(session)


def copy(source: Path, place: Partial, progress: Progress | None = None) -> str:
    """Copy a file of a local mirror to `place`, with the same checks. Returns its SHA-256.

    Raises:
        DownloadError: the file cannot be read or is not the right one.
        CacheError: the cache folder cannot be written, or is full.
    """
    try:  # `place` turns its own OSErrors into CacheErrors: those caught here are the source's
        with source.open("rb") as file:
            left = source.stat().st_size
            data = file.read(_COPY_CHUNK)
            if reason := answers.misfit(data):
                raise DownloadError(reason)
            place.begin(Note(str(source), total=left))
            with _display(progress, place.target.name, left, 0) as shown, place.append() as part:
                while data:
                    place.write(part, data, left)
                    left -= len(data)
                    shown.advance(len(data))
                    data = file.read(_COPY_CHUNK)
    except OSError as error:
        raise DownloadError(error.strerror or str(error)) from error
    return place.finish()


class _Download:
    """One URL, one place, as many attempts as it takes."""

    def __init__(
        self,
        url: str,
        place: Partial,
        patience: Patience,
        progress: Progress | None,
        notify: Callable[[str], None],
    ) -> None:
        self.url, self.place, self.patience = url, place, patience
        self.progress, self.notify = progress, notify
        self.name = web.without_login(url)  # goes to the disk and into messages
        self.pace = self.new_pace()
        self.answered = False  # whether the server ever sent an answer
        self.doubts = 0  # how often a finished file had the wrong hash

    def new_pace(self) -> "Pace":
        """The least speed of an attempt."""
        from resnest_cli.net.deadline import Pace

        return Pace(self.patience.window, self.patience.slowest)

    def run(self, session: "DeadlineSession") -> str:
        """Attempt until the file is here, or until attempts no longer bring it further."""
        failures, most = 0, self.place.size()
        for _ in range(MAX_CONNECTIONS):
            try:
                return self.attempt(session)
            except _TryAgainError as error:
                reason, wait = str(error), error.wait
            size = self.place.size()
            least = self.pace.least if self.pace.deadline.expired else 0
            failures = 0 if size - most > least else failures + 1
            most = max(most, size)
            if failures >= self.patience.attempts:
                break
            seconds = min(2.0 ** max(failures - 1, 0), web.MAX_WAIT) if wait is None else wait
            self.notify(f"{self.name}: {reason}; trying again in {seconds:.0f} s")
            self.patience.sleep(seconds)
        raise DownloadError(reason)

    def attempt(self, session: "DeadlineSession") -> str:
        """Ask for what is missing, store it, and check the whole."""
        from urllib3.exceptions import HTTPError

        from resnest_cli.net.deadline import RedirectError

        note = self.place.resumable(self.name)
        have = self.place.size() if note else 0
        if note and note.total == have:
            return self.finish(doubtful=True)  # killed between the last byte and the rename
        headers = {"Accept-Encoding": "identity", "User-Agent": f"resnest-cli/{__version__}"}
        if note:
            headers |= {"Range": f"bytes={have}-", "If-Range": note.validator}
        timeout = (self.patience.connect, self.patience.read)
        self.pace = self.new_pace()
        try:
            with session.follow(self.url, self.pace.deadline, timeout, headers) as response:
                self.answered = True
                if note and response.status_code == 416:
                    return self.nothing_left(response, have)
                note, have = self.understand(response, note, have)
                self.receive(response, note, have)
        except RedirectError as error:
            raise DownloadError(f"it {error}") from error
        except (OSError, ValueError, HTTPError) as error:  # requests' errors are OSErrors
            raise self.failure(error) from error
        return self.finish(doubtful=have > 0 or note.total is None)

    def understand(
        self, response: "requests.Response", note: Note | None, have: int
    ) -> tuple[Note, int]:
        """What the body is: the note of its file, and the offset at which it begins."""
        status = response.status_code
        if note and status == 206:
            if not answers.continues(response, note, have):
                self.start_over("the rest that it offers belongs to another file")
            return note, have
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if status == 200 and encoding in {"", "identity"}:
            return Note(self.name, answers.validator(response), web.length(response)), 0
        if status == 200 and encoding in {"gzip", "x-gzip", "deflate"}:
            return Note(self.name), 0  # lengths and ranges count compressed bytes: no resuming
        if status == 200:
            raise DownloadError(f"it answered with content encoding {encoding}, unasked")
        if status in web.TRY_AGAIN:
            raise _TryAgainError(web.refusal(response), web.retry_after(response))
        raise DownloadError(web.refusal(response))

    def receive(self, response: "requests.Response", note: Note, have: int) -> None:
        """Store the body, which begins at offset `have`."""
        chunks: Iterator[bytes] = response.iter_content(CHUNK)
        data = next(chunks, b"")
        if have:
            self.place.check_room((note.total or have) - have)
        else:
            # Looked at before the old part goes: a login page must not cost what has arrived.
            while len(data) < _HEAD and (more := next(chunks, b"")):
                data += more
            if reason := answers.misfit(data):
                raise DownloadError(reason)
            self.place.begin(note)
        name = self.place.target.name
        with _display(self.progress, name, note.total, have) as shown, self.place.append() as part:
            while data:
                self.place.write(part, data, note.total and note.total - have)
                have += len(data)
                shown.advance(len(data))
                self.pace.advance(len(data))
                data = next(chunks, b"")
        if note.total is not None and have > note.total:
            self.start_over("it sent more than the whole file")
        if note.total is not None and have < note.total:
            raise _TryAgainError(f"it sent {have:,} of {note.total:,} bytes")

    def nothing_left(self, response: "requests.Response", have: int) -> str:
        """After a 416: the bytes here are either all there are or those of another file."""
        says_whole = response.headers.get("Content-Range", "").replace(" ", "") == f"bytes*/{have}"
        if not (self.place.sha256 or says_whole):
            self.start_over("it has no bytes beyond those here")
        return self.finish(doubtful=True)

    def start_over(self, reason: str) -> NoReturn:
        """Forget the bytes so far and ask again at once, without a range."""
        self.place.discard()
        raise _TryAgainError(reason, wait=0)

    def finish(self, *, doubtful: bool) -> str:
        """Check the whole. `doubtful`: bytes may be missing or mixed, so a second try can help."""
        try:
            return self.place.finish()
        except WrongFileError as error:
            self.doubts += 1
            if doubtful and self.doubts <= 2:
                raise _TryAgainError(str(error), wait=0) from error
            raise

    def failure(self, error: Exception) -> Exception:
        """The error to raise: can trying again help, and what happened, in plain words."""
        from requests import exceptions
        from urllib3.exceptions import MaxRetryError

        reason = web.plain(error)
        if reason == web.STOPPED and self.pace.deadline.expired:
            reason = web.too_slow(self.patience.slowest)
        if isinstance(error, exceptions.SSLError | exceptions.ProxyError):
            return DownloadError(reason)
        unreachable = bool(error.args) and isinstance(error.args[0], MaxRetryError)
        broken = exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError
        if isinstance(error, broken) and (self.answered or not unreachable):
            return _TryAgainError(reason)
        return DownloadError(reason)


@contextmanager
def _display(
    progress: Progress | None, name: str, total: int | None, done: int
) -> Iterator[Progress]:
    """The progress display, started, and stopped whatever happens."""
    progress = progress or _Silent()
    progress.start(name, total, done)
    try:
        yield progress
    finally:
        progress.stop()


class _Silent:
    """Shows nothing."""

    def start(self, name: str, total: int | None, done: int) -> None: ...

    def advance(self, n: int) -> None: ...

    def stop(self) -> None: ...
