"""The process in the middle, the child that it forks, and what goes through their pipes."""

import mmap
import os
import pickle
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, TypeVar

from resnest_cli.errors import ResnestError
from resnest_cli.signals import STOPPING

CHUNK = 2**16  # bytes read at a time
_LENGTH = struct.Struct("=Q")


class Journal:
    """The inputs that are being worked on, in memory that other processes see, too.

    Threads may share it: taking a slot is one atomic operation, as is each write of 8 bytes, so
    that a crash at any moment leaves whole entries. At most `SLOTS` entries at a time.
    """

    SLOTS = 1024

    def __init__(self) -> None:
        # Pairs: the index + 1, or 0 where the slot is free; and the start in ns. Last, `begun`.
        self._table = memoryview(mmap.mmap(-1, 16 * self.SLOTS + 8)).cast("q")
        self._free = list(range(self.SLOTS))
        self._slot: dict[int, int] = {}

    def begin(self, index: int) -> None:
        """Work on this input begins; it must not be in flight already."""
        slot = self._slot[index] = self._free.pop()
        self._table[2 * slot + 1] = time.monotonic_ns()
        self._table[2 * slot] = index + 1
        if index >= self._table[-1]:  # threads may race here; one too low does no harm
            self._table[-1] = index + 1

    def end(self, index: int) -> None:
        """Work on this input has ended, well or not."""
        slot = self._slot.pop(index)
        self._table[2 * slot] = 0
        self._free.append(slot)

    def in_flight(self) -> dict[int, int]:
        """Index of each input in flight -> when it began, in ns of the monotonic clock."""
        table = self._table.tolist()
        return {table[at] - 1: table[at + 1] for at in range(0, 2 * self.SLOTS, 2) if table[at]}

    def begun(self) -> int:
        """All inputs that ever began have a lower index."""
        return self._table[-1]


@dataclass(frozen=True, slots=True)
class Start:
    """Where the work begins: after `skip` inputs; `suspects` are to be handled in isolation.

    What may crash is noted in the `journal`, where there is one; suspects are not.
    """

    skip: int = 0
    suspects: frozenset[int] = frozenset()
    journal: Journal | None = None


T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[Start], Generator[T, None, R]]


class Item(NamedTuple):
    """One result of the work; the `last` one is the value that its generator returned."""

    value: Any
    last: bool = False


class Raised(NamedTuple):
    """The work has raised this; the text is its traceback."""

    error: BaseException
    text: str


class Death(NamedTuple):
    """How a child ended: its exit code, negative for a signal, and what it was at."""

    code: int
    in_flight: frozenset[int]
    begun: int  # every input that it had ever begun has a lower index

    def error(self) -> ResnestError:
        """The error where no other child could do better."""
        if self.code >= 0:
            return ResnestError(f"the working process ended unexpectedly with code {self.code}")
        text = f"the working process was killed by {signal.Signals(-self.code).name}"
        if self.code == -signal.SIGKILL:
            text += (
                ", probably because memory ran out; smaller batches and fewer workers need less."
            )
        return ResnestError(text)


class Frames:
    """Cuts a stream of bytes into the messages that `send` wrote."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[Any]:
        """The messages that are complete with this chunk."""
        self._buffer += chunk
        messages, at, size = [], 0, len(self._buffer)
        while size - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            end = at + _LENGTH.size + length
            if end > size:
                break
            messages.append(pickle.loads(self._buffer[at + _LENGTH.size : end]))
            at = end
        del self._buffer[:at]
        return messages


def send(fd: int, message: object) -> None:
    """Writes all of a message; waits for the reader."""
    payload = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    view = memoryview(_LENGTH.pack(len(payload)) + payload)
    while view:
        view = view[os.write(fd, view) :]


def flush() -> None:
    """What was printed goes out before this process forks or ends."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or its reader has gone
            stream.flush()


class Keeper:
    """The process in the middle. One thread, no imports; it only forks, waits and kills."""

    def __init__(
        self, work: Work[Any, Any], time_limit: float, control: int, news: int, data: int
    ) -> None:
        self._work, self._limit = work, time_limit
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
            _work_and_exit(self._work, start, self._data)
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


def _work_and_exit(work: Work[Any, Any], start: Start, data: int) -> NoReturn:
    """The child: sends what the work gives, and how it ended."""
    known = set(sys.modules)
    end: Item | Raised
    try:
        results = work(start)
        while True:
            send(data, Item(next(results)))
    except StopIteration as stop:
        end = Item(stop.value, last=True)
    except MemoryError:
        # What else fails from now on is anybody's guess: the same as if the system had killed us.
        os.kill(os.getpid(), signal.SIGKILL)
        raise
    except BaseException as error:
        end = _raised(error, known)
    # Threads may still run, and exit handlers are the caller's: leave without either.
    flush()
    try:
        send(data, end)
    except BrokenPipeError:
        pass
    except Exception as error:
        send(data, _raised(error, known))
    os._exit(0)


def _raised(error: BaseException, known: set[str]) -> Raised:
    """The error if it can be sent, else the nearest of its base classes with its text.

    A class of a library that the caller has not loaded is not sent, or receiving it would import
    that library there: torch takes seconds.
    """
    trace = "".join(traceback.format_exception(error))
    text = str(error) if isinstance(error, ResnestError) else f"{type(error).__name__}: {error}"
    ours = __name__.partition(".")[0] + "."
    for kind in type(error).__mro__:
        if kind.__module__ in known or kind.__module__.startswith(ours):
            with suppress(Exception):
                candidate = error if kind is type(error) else kind(text)
                pickle.loads(pickle.dumps(candidate))  # some can be written but not read
                return Raised(candidate, trace)
    return Raised(RuntimeError(text), trace)
