"""The process in the middle, and the child that it forks."""

import os
import pickle
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from typing import Any, NoReturn

from resnest_cli.errors import ResnestError
from resnest_cli.signals import STOPPING
from resnest_cli.supervise.journal import Journal, Start, Work
from resnest_cli.supervise.messages import CHUNK, Death, Done, Frames, Item, Raised, flush, send


class Keeper:
    """The process in the middle. One thread, no imports; it only forks, waits and kills."""

    def __init__(
        self, work: Work[Any, Any], time_limit: float, control: int, news: int, data: int
    ) -> None:
        self._work = work
        self._limit = time_limit
        self._tick = min(1.0, time_limit / 4)
        self._control, self._news, self._data = control, news, data
        # Ctrl-C is for the caller, who then ends us; the same for a signal to the process group.
        self._handlers = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
        # The end of a child wakes `poll` through this pipe.
        self._wake, self._wake_end = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._wake_end, False)
        signal.set_wakeup_fd(self._wake_end)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> NoReturn:
        """Starts a child whenever the caller says so; the caller's end is ours."""
        while (start := self._command()) is not None:
            journal = Journal()
            try:
                child = os.fork()
            except OSError as error:  # no more processes allowed
                send(self._data, Raised(error, "fork\n"))
                continue
            if child == 0:
                self._become_child(Start(start.skip, start.suspects, journal))
            try:
                send(self._news, child)
            except BrokenPipeError:  # the caller has just gone
                self._end(child)
            death = self._wait(child, journal)
            with suppress(BrokenPipeError):
                send(self._news, death)
        os._exit(0)

    def _command(self) -> Start | None:
        frames = Frames()
        while chunk := os.read(self._control, CHUNK):
            for command in frames.feed(chunk):
                return command  # type: ignore[no-any-return]
        return None

    def _become_child(self, start: Start) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number, handler in self._handlers.items():
                if number != signal.SIGINT and handler is not None:
                    signal.signal(number, handler)
            for fd in (self._control, self._news, self._wake, self._wake_end):
                os.close(fd)
            work_and_exit(self._work, start, self._data)
        finally:
            os._exit(1)

    def _end(self, child: int) -> NoReturn:
        os.kill(child, signal.SIGKILL)  # nobody has waited for it yet, so its id is still its own
        os.waitpid(child, 0)
        os._exit(0)

    def _wait(self, child: int, journal: Journal) -> Death:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        ages: dict[tuple[int, int], float] = {}  # of what is in flight, in seconds
        stuck = frozenset[int]()
        checked = time.monotonic()
        while True:
            ready = {fd for fd, _ in poll.poll(self._tick * 1000)}
            if self._control in ready:  # the caller is done with us, or dead
                self._end(child)
            if self._wake in ready:
                os.read(self._wake, CHUNK)
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    in_flight = stuck or frozenset(journal.in_flight())
                    return Death(os.waitstatus_to_exitcode(status), in_flight, journal.begun())
            now = time.monotonic()
            # Time for which all of us were stopped (Ctrl-Z) or asleep is nobody's fault.
            passed = min(now - checked, 2 * self._tick)
            checked = now
            entries = journal.in_flight().items()
            ages = {e: ages.get(e, 0.0) + min(passed, now - e[1] / 1e9) for e in entries}
            stuck = stuck or frozenset(e[0] for e, age in ages.items() if age > self._limit)
            if stuck:
                os.kill(child, signal.SIGKILL)


def work_and_exit(work: Work[Any, Any], start: Start, data: int) -> NoReturn:
    """The child: sends what the work gives, and how it ended."""
    known = set(sys.modules)
    end: Done | Raised
    try:
        results = work(start)
        while True:
            try:
                item = next(results)
            except StopIteration as stop:
                end = Done(stop.value)
                break
            send(data, Item(item))
    except MemoryError:
        # What else fails from now on is anybody's guess: the same as if the system had killed us.
        os.kill(os.getpid(), signal.SIGKILL)
        raise
    except BaseException as error:
        end = Raised(_portable(error, known), "".join(traceback.format_exception(error)))
    # Threads may still run, and exit handlers are the caller's: leave without either.
    flush()
    try:
        send(data, end)
    except BrokenPipeError:
        pass
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        send(data, Raised(_portable(error, known), text))
    os._exit(0)


def _portable(error: BaseException, known: set[str]) -> BaseException:
    """The error if it can be sent, else the nearest of its base classes with its text.

    A class of a library that the caller has not loaded is not sent, or receiving it would import
    that library there: torch takes seconds.
    """
    text = str(error) if isinstance(error, ResnestError) else f"{type(error).__name__}: {error}"
    ours = __name__.partition(".")[0] + "."
    for kind in type(error).__mro__:
        if kind.__module__ in known or kind.__module__.startswith(ours):
            with suppress(Exception):
                candidate = error if kind is type(error) else kind(text)
                pickle.loads(pickle.dumps(candidate))  # some can be written but not read
                return candidate
    return RuntimeError(text)
