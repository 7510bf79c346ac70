"""The caller's side: asks for children, hands on what they send, and gives them stdin again."""

import io
import mmap
import os
import pickle
import select
import signal
import stat
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from resnest_cli.errors import ResnestError
from resnest_cli.supervise.keeper import (
    CHUNK,
    Death,
    Frames,
    Item,
    Keeper,
    R,
    Raised,
    Start,
    T,
    Work,
    flush,
    send,
)

_MOST_AHEAD = 2**16  # inputs that become suspect because others before them crashed

J = TypeVar("J")


def supervised(work: Work[T, R], *, time_limit: float) -> Generator[T, None, R]:
    """The results of `work`, each exactly once and in order, whatever happens to its process.

    Call it before anything heavy is imported: it forks at once, and the work begins while the
    caller goes on. Closing the generator kills the child.

    Args:
        work: gives one result for each input from number `start.skip` on. Results, and what the
            generator returns at the end, must be picklable. It may read stdin (see `Replay`), but
            not write to stdout.
        time_limit: seconds after which an input in flight counts as stuck.

    Raises:
        ResnestError: the child died although nothing new was in flight and no result had come.
        Exception: whatever the work raised, with the child's traceback as a note.
    """
    if _can_fork():
        results = _results(work, time_limit)
        # Runs up to the first `yield`, which gives nothing: forks, and makes sure that closing or
        # dropping the generator ends the processes even if it was never asked for a result.
        with suppress(OSError):  # no more processes allowed: work without protection
            next(results)
            return results
    return work(Start())


def _can_fork() -> bool:
    """Whether this process has one thread, so that a fork is a whole copy of it."""
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return False
    try:  # native threads, such as those of OpenBLAS or OpenMP
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 - the cheapest
    except OSError:
        return True


def _results(work: Work[T, R], time_limit: float) -> Generator[T, None, R]:
    """First yields nothing of use, once the work has been started; then the results."""
    link = _Link(work, time_limit)
    received, suspects, crashes = 0, frozenset[int](), 0
    try:
        link.start(Start())
        yield None  # type: ignore[misc]
        while True:
            before = received
            for message in link.messages():
                if isinstance(message, Item):
                    if message.last:
                        return message.value  # type: ignore[no-any-return]
                    received += 1
                    yield message.value
                elif isinstance(message, Raised):
                    message.error.add_note(f"\nIn the working process:\n{message.text}")
                    raise message.error
                else:
                    crashes += 1
                    new = _suspects(suspects, message, received, crashes)
                    if received == before and new <= suspects:
                        raise message.error()
                    suspects = new
            link.start(Start(received, suspects))
    finally:
        link.close()


def _suspects(old: frozenset[int], death: Death, received: int, crashes: int) -> frozenset[int]:
    """What to isolate after this death: the old ones that still matter, and new ones, if any."""
    old = frozenset(index for index in old if index >= received)
    new = death.in_flight - old
    if not new:
        # A decoder may damage memory so that the crash comes when it has long returned.
        new = frozenset(range(received, death.begun)) - old
    if new:
        # A restart costs seconds: after many of them, ever more of what follows is isolated, too.
        ahead = min(2**crashes - 2, _MOST_AHEAD)  # 0, 2, 6, 14, ...
        new |= frozenset(range(max(new) + 1, max(new) + 1 + ahead))
    return old | new


class _Link:
    """The caller's end: has the keeper start children, and receives what they send."""

    def __init__(self, work: Work[Any, Any], time_limit: float) -> None:
        control, self._control = os.pipe()
        self._news, news = os.pipe()
        self._data, data = os.pipe()
        os.set_blocking(self._data, False)
        self._frames = Frames()  # of the keeper's news
        self._child: int | None = None  # its process id, in case the keeper is killed
        flush()  # or what is buffered would be printed twice
        try:
            self._keeper = os.fork()
            if self._keeper == 0:
                try:
                    self._close_ours()
                    Keeper(work, time_limit, control, news, data).run()
                finally:
                    os._exit(1)
        except OSError:
            self._close_ours()
            raise
        finally:
            for fd in (control, news, data):
                os.close(fd)

    def _close_ours(self) -> None:
        for fd in (self._control, self._news, self._data):
            os.close(fd)

    def start(self, start: Start) -> None:
        """Has a child started; there must be none."""
        send(self._control, start)

    def messages(self) -> Iterator[Item | Raised | Death]:
        """What the child sends, to the end or to its death."""
        messages = Frames()
        poll = select.poll()
        poll.register(self._data, select.POLLIN)
        poll.register(self._news, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            # The news of a death comes after the child's last byte: all of them are here.
            death = self._death() if self._news in ready else None
            with suppress(BlockingIOError):  # nothing more for now
                while chunk := os.read(self._data, CHUNK):
                    yield from messages.feed(chunk)
                    if death is None:
                        break
            if death is not None:
                yield death
                return

    def _death(self) -> Death | None:
        chunk = os.read(self._news, CHUNK)
        if not chunk:
            if self._child is not None:
                with suppress(ProcessLookupError):
                    os.kill(self._child, signal.SIGKILL)
            raise ResnestError("the process that watches over the working process was killed")
        for message in self._frames.feed(chunk):
            if isinstance(message, Death):
                self._child = None
                return message
            self._child = message
        return None

    def close(self) -> None:
        """Ends child and keeper and waits for them."""
        os.close(self._data)
        os.close(self._news)
        with suppress(BrokenPipeError):
            send(self._control, None)
        os.close(self._control)
        with suppress(ChildProcessError):  # where SIGCHLD is ignored, nobody is left to wait for
            os.waitpid(self._keeper, 0)


class Early(Generic[J, T, R]):
    """Starts a child that gets ready while this process finds out the job, and then is sent it.

    Create it first of all: a command line takes as long to parse as its libraries to import, and
    there is more than one core. A child that replaces a crashed one finds the job already there.

    Args:
        ready: gets ready; imports what the work needs.
        work: the job and where to begin -> results; see `supervised`.
        time_limit: as in `supervised`.
        room: bytes that the pickled job may take at most.
    """

    def __init__(
        self,
        ready: Callable[[], None],
        work: Callable[[J, Start], Generator[T, None, R]],
        *,
        time_limit: float,
        room: int,
    ) -> None:
        self._ready, self._work = ready, work
        self._job = mmap.mmap(-1, 8 + room)  # pages that nobody writes cost nothing
        self._waiting, self._waking = os.pipe()
        self._results = supervised(self._run, time_limit=time_limit)

    def send(self, job: J) -> Generator[T, None, R]:
        """Hands over the job, which must be picklable; its results."""
        data = pickle.dumps(job, pickle.HIGHEST_PROTOCOL)
        self._job[8 : 8 + len(data)] = data
        self._job[:8] = len(data).to_bytes(8, "little")
        os.write(self._waking, b"!")
        return self._results

    def _run(self, start: Start) -> Generator[T, None, R]:
        self._ready()
        if not any(self._job[:8]):
            os.read(self._waiting, 1)
        size = int.from_bytes(self._job[:8], "little")
        job: Any = pickle.loads(self._job[8 : 8 + size])
        return (yield from self._work(job, start))


class Replay(io.RawIOBase):
    """What a file descriptor gives, such as stdin, from the beginning in every process.

    Create it before `supervised`, read it in the work: each child reads all of it, although a pipe
    gives its bytes only once. A regular file is simply read again. Anything else passes through
    a temporary file without a name, which grows as it is read.

    For systems that fork; the descriptor must be open. Linux moves the bytes from a pipe to the
    file within the kernel, so that no crash can lose any. Elsewhere a crash between reading a
    chunk and writing it, some microseconds, loses that chunk.
    """

    def __init__(self, fd: int = 0) -> None:
        super().__init__()
        self._source = fd
        self._at = 0  # how much this process has read
        mode = os.fstat(fd).st_mode
        self._splice = stat.S_ISFIFO(mode)
        if stat.S_ISREG(mode):
            self._copy, self._offset = fd, os.lseek(fd, 0, os.SEEK_CUR)
        else:
            import tempfile

            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this stream
            self._copy, self._offset = self._file.fileno(), 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer as far as there are bytes; 0 at the end. Waits for the first ones."""
        if self._copy != self._source and os.fstat(self._copy).st_size <= self._at:
            self._pull()
        data = os.pread(self._copy, len(buffer), self._offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _pull(self) -> None:
        """One more chunk from the source into the copy."""
        if self._splice and sys.platform == "linux":
            try:
                os.splice(self._source, self._copy, CHUNK, offset_dst=self._at)
            except OSError:  # a file system that cannot
                self._splice = False
            else:
                return
        data = memoryview(os.read(self._source, CHUNK))
        at = self._at
        while data:
            written = os.pwrite(self._copy, data, at)
            at, data = at + written, data[written:]

    def close(self) -> None:
        """Closes the copy, never the source."""
        if not self.closed and self._copy != self._source:
            self._file.close()
        super().close()
