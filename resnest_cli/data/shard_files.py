"""Shards as open files: those on disk as they are, those behind addresses fetched ahead.

A remote shard is fetched whole into a temporary file before any of it is used, by the same download
as weights, and in the end the size and the SHA-256 of the index must fit. So a shard is all there
or an error. The file has no name once it is open: it goes when it was read, and with the process.

The next few shards are fetched while one is read. Each pass fetches them anew; the room needed is
that of a few shards for each process.
"""

import hashlib
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

from resnest_cli.data.tar import Shard
from resnest_cli.errors import DownloadError, ResnestError, UsageError, limit_reached
from resnest_cli.files import reading
from resnest_cli.net import Access, HttpError, Patience, without_login
from resnest_cli.net.download import Place, download
from resnest_cli.progress import checking, silent

AHEAD = 3  # shards that are fetched while another is read
_LARGEST = 2**40  # bytes; of a shard whose size no index knows
_MOST_TEXT = 2**30  # bytes; an index has a kilobyte or more for each shard


class Files:
    """The shards of one pass, to be opened in this order; to be closed in the end."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._fetched: dict[int, Future[BinaryIO]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._closed = threading.Event()

    def open(self, place: int) -> BinaryIO:
        """The shard with this place among them, from its beginning; to be closed by the caller.

        Raises:
            ResnestError: it is not there, or has not the size or the bytes that it should have.
        """
        shard = self._shards[place]
        if not shard.remote:
            return open_local(shard)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="shards")
        for ahead in range(place, min(place + 1 + AHEAD, len(self._shards))):
            if self._shards[ahead].remote and ahead not in self._fetched:
                try:
                    future = self._pool.submit(fetch, self._shards[ahead], self._closed)
                except RuntimeError as error:  # this machine, or its container, has no thread left
                    why = limit_reached(error) or f"{error}."
                    raise _cannot_fetch(self._shards[ahead], why) from error
                self._fetched[ahead] = future
        return self._fetched.pop(place).result()

    def give_up(self) -> None:
        """Ends all downloads soon; may be called from another thread."""
        self._closed.set()

    def close(self) -> None:
        """Gives up what is still being fetched."""
        self.give_up()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for future in self._fetched.values():
            if not future.cancelled() and future.exception() is None:
                future.result().close()
        self._fetched.clear()


def open_local(shard: Shard) -> BinaryIO:
    """A shard on disk."""
    moved = "If the shards were moved, a run goes on with --resume DATA."
    with reading(shard.place, then=moved):
        check_size(shard, Path(shard.place).stat().st_size)
        return Path(shard.place).open("rb")


def check_size(shard: Shard, size: int) -> None:
    """Raises ResnestError for a shard that is shorter or longer than its index says."""
    if size != shard.size:
        raise ResnestError(
            f"{shard.title}: has {size:,} bytes, not the {shard.size:,} that are in its index: it "
            "is truncated or was changed. Copy it anew, or pack it again."
        )


def _cannot_fetch(shard: Shard, why: str) -> ResnestError:
    return ResnestError(f"{shard.title}: the shard cannot be fetched: {why}")


class _GivenUpError(Exception):
    """Nobody waits for this download any more."""


def fetch(shard: Shard, closed: threading.Event | None = None) -> BinaryIO:
    """A remote shard in a file without a name; `closed` gives the download up."""
    given_up = closed or threading.Event()

    def pause(seconds: float = 0.0) -> None:
        if given_up.wait(seconds):
            raise _GivenUpError

    watched = nullcontext(checking(silent, pause))
    try:
        with tempfile.TemporaryDirectory(prefix="resnest-shard-") as folder:
            target = Path(folder) / (hashlib.sha256(shard.place.encode()).hexdigest()[:16] + ".tar")
            place = Place(target, shard.sha256, "TMPDIR", shard.size or _LARGEST)
            access = Access(patience=Patience(sleep=pause), progress=lambda _: watched)
            download(shard.place, place, access)
            if shard.size:
                check_size(shard, target.stat().st_size)
            return target.open("rb")
    except DownloadError as error:
        raise _cannot_fetch(shard, f"{error}.") from error
    except OSError as error:
        if limit := limit_reached(error):
            raise _cannot_fetch(shard, limit) from error
        raise ResnestError(
            f"{shard.title}: the shard has no place in the temporary folder: "
            f"{error.strerror or error}. Set TMPDIR to a folder with space for a few shards."
        ) from error


def fetch_text(address: str) -> bytes | None:
    """A small file, such as an index; None where the server has none of that name."""
    from resnest_cli.images.remote import fetch as fetch_bytes

    try:
        return fetch_bytes(address, _MOST_TEXT, Patience(total=600.0, attempts=3, pause=0.5))
    except HttpError as error:
        if error.status in {403, 404, 410}:
            return None
        raise UsageError(f"{without_login(address)} cannot be fetched: {error}.") from error
