"""The caller's side: asks for children and hands on what they send."""

import os
import select
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

    Call it before anything heavy is imported: it forks at once. The work runs when the first
    result is asked for. Closing the generator kills the child.

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
    """First yields nothing of use, once the keeper runs; then the results."""
    link = _Link(work, time_limit)
    received, suspects, crashes = 0, frozenset[int](), 0
    try:
        yield None  # type: ignore[misc]
        while True:
            before = received
            for message in link.attempt(Start(received, suspects)):
                if isinstance(message, Item):
                    received += 1
                    yield message.value
                elif isinstance(message, Done):
                    return message.value  # type: ignore[no-any-return]
                elif isinstance(message, Raised):
                    message.error.add_note(f"\nIn the working process:\n{message.text}")
                    raise message.error
                else:
                    if received == before and message.in_flight <= suspects:
                        raise message.error()
                    crashes += 1
                    suspects = _suspects(suspects, message.in_flight, received, crashes)
    finally:
        link.close()


def _suspects(
    old: frozenset[int], in_flight: frozenset[int], received: int, crashes: int
) -> frozenset[int]:
    """A restart costs seconds: after many crashes, ever more of what follows is isolated, too."""
    last = max(in_flight, default=received - 1)
    ahead = min(2**crashes - 2, _MOST_AHEAD)  # 0, 2, 6, 14, ...
    suspects = old | in_flight | frozenset(range(last + 1, last + 1 + ahead))
    return frozenset(index for index in suspects if index >= received)


class _Link:
    """The caller's end: tells the keeper to start children, and receives what they send."""

    def __init__(self, work: Work[Any, Any], time_limit: float) -> None:
        control, self._control = os.pipe()
        self._deaths, deaths = os.pipe()
        self._data, data = os.pipe()
        os.set_blocking(self._data, False)
        flush()  # or what is buffered would be printed twice
        try:
            self._keeper = os.fork()
            if self._keeper == 0:
                try:
                    for fd in (self._control, self._deaths, self._data):
                        os.close(fd)
                    Keeper(work, time_limit, control, deaths, data).run()
                finally:
                    os._exit(1)
        except OSError:
            for fd in (self._control, self._deaths, self._data):
                os.close(fd)
            raise
        finally:
            for fd in (control, deaths, data):
                os.close(fd)

    def attempt(self, start: Start) -> Iterator[Item | Done | Raised | Death]:
        """Starts a child; what it sends, to the end or to its death."""
        send(self._control, start)
        messages = Frames()
        poll = select.poll()
        poll.register(self._data, select.POLLIN)
        poll.register(self._deaths, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            # A death is told after the child's last byte was written: read those first.
            while chunk := self._chunk():
                yield from messages.feed(chunk)
                if self._deaths not in ready:
                    break
            if self._deaths in ready:
                yield from self._death()
                return

    def _chunk(self) -> bytes:
        try:
            return os.read(self._data, CHUNK)
        except BlockingIOError:
            return b""

    def _death(self) -> list[Any]:
        deaths = Frames()
        while chunk := os.read(self._deaths, CHUNK):
            if messages := deaths.feed(chunk):
                return messages
        raise ResnestError("the process that watches over the working process was killed")

    def close(self) -> None:
        """Ends child and keeper and waits for them."""
        os.close(self._data)
        os.close(self._deaths)
        with suppress(BrokenPipeError):
            send(self._control, None)
        os.close(self._control)
        with suppress(ChildProcessError):  # where SIGCHLD is ignored, nobody is left to wait for
            os.waitpid(self._keeper, 0)
