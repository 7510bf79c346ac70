"""The caller's side: asks for children and hands on what they send."""

import os
import select
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

from resnest_cli.errors import ResnestError
from resnest_cli.supervise.journal import R, Start, T, Work
from resnest_cli.supervise.keeper import Keeper
from resnest_cli.supervise.messages import CHUNK, Death, Done, Frames, Item, Raised, flush, send

_MOST_AHEAD = 2**16  # inputs that become suspect because others before them crashed


def supervised(
    work: Work[T, R], *, time_limit: float, enabled: bool = True
) -> Generator[T, None, R]:
    """The results of `work`, each exactly once and in order, whatever happens to its process.

    Call it before anything heavy is imported: it forks at once, and the work begins while the
    caller goes on. Closing the generator kills the child.

    Args:
        work: gives one result for each input from number `start.skip` on. Results, and what the
            generator returns at the end, must be picklable. It may read stdin (see `Replay`), but
            not write to stdout.
        time_limit: seconds after which an input in flight counts as stuck.
        enabled: False runs the work in this process.

    Raises:
        ResnestError: the child died although nothing new was in flight and no result had come.
        Exception: whatever the work raised, with the child's traceback as a note.
    """
    if enabled and _can_fork():
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
                    received += 1
                    yield message.value
                elif isinstance(message, Done):
                    return message.value  # type: ignore[no-any-return]
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
    """The caller's end: tells the keeper to start children, and receives what they send."""

    def __init__(self, work: Work[Any, Any], time_limit: float) -> None:
        control, self._control = os.pipe()
        self._news, news = os.pipe()
        self._data, data = os.pipe()
        os.set_blocking(self._data, False)
        self._told = Frames()
        self._child: int | None = None  # its process id, in case the keeper is killed
        flush()  # or what is buffered would be printed twice
        try:
            self._keeper = os.fork()
            if self._keeper == 0:
                try:
                    for fd in (self._control, self._news, self._data):
                        os.close(fd)
                    Keeper(work, time_limit, control, news, data).run()
                finally:
                    os._exit(1)
        except OSError:
            for fd in (self._control, self._news, self._data):
                os.close(fd)
            raise
        finally:
            for fd in (control, news, data):
                os.close(fd)

    def start(self, start: Start) -> None:
        """Has a child started; there must be none."""
        send(self._control, start)

    def messages(self) -> Iterator[Item | Done | Raised | Death]:
        """What the child sends, to the end or to its death."""
        messages = Frames()
        poll = select.poll()
        poll.register(self._data, select.POLLIN)
        poll.register(self._news, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            # A death is told after the child's last byte was written, so all of them are here.
            death = self._death() if self._news in ready else None
            while chunk := self._chunk():
                yield from messages.feed(chunk)
                if death is None:
                    break
            if death is not None:
                yield death
                return

    def _chunk(self) -> bytes:
        try:
            return os.read(self._data, CHUNK)
        except BlockingIOError:
            return b""

    def _death(self) -> Death | None:
        chunk = os.read(self._news, CHUNK)
        if not chunk:
            if self._child is not None:
                with suppress(ProcessLookupError):
                    os.kill(self._child, signal.SIGKILL)
            raise ResnestError("the process that watches over the working process was killed")
        for message in self._told.feed(chunk):
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
