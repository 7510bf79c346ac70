"""Ctrl-C, SIGTERM, and SIGHUP of a closed terminal: asked once, answered between two steps.

All three are answered alike: what was done is saved, and the exit code is 128 + the number. What
was ignored at the start, as `nohup` leaves SIGHUP, stays ignored.
"""

import signal
import threading
from types import FrameType
from typing import Any, ClassVar, Self

from resnest_cli.errors import ResnestError

# Seconds that the batch in hand may take: Slurm kills 30 s after SIGTERM, Kubernetes too.
PATIENCE = 20.0
STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
)


class StoppedError(ResnestError):
    """The work was asked to end, by a signal or a limit, and what was done so far is safe."""


class BudgetUsedError(StoppedError):
    """The time that the run was given is used up, and what was done so far is safe."""


class StopRequest:
    """A context manager: a signal only sets `signal`, and `check` answers it; see `PatientStop`.

    A second SIGINT raises KeyboardInterrupt; further signals of other kinds change nothing, since
    what they would cut off is what gets saved. The previous handlers are back in place at the end.
    In threads other than the main one, which get no signals, it does nothing.
    """

    last: ClassVar[StoppedError | None] = None  # what `check` raised last in this process

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in heeded():
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    @property
    def exit_code(self) -> int:
        """What the shell expects of a process that a signal ended: 130, 143 or 129."""
        assert self.signal is not None
        return 128 + self.signal

    def check(self) -> None:
        """Call this where the work may end.

        Raises:
            StoppedError: a signal has come; with its exit code.
        """
        if self.signal is not None:
            error = StoppedError(f"interrupted by {self.signal.name}")
            error.exit_code = self.exit_code
            StopRequest.last = error
            raise error

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def _restore(self) -> None:
        while self._before:  # a signal may come in between, and restore the rest itself
            signal.signal(*self._before.popitem())


class PatientStop(StopRequest):
    """A `StopRequest` of which a second signal of any kind ends the process at once.

    Before `patient` is set there is nothing to finish, and the first signal raises StoppedError; so
    it does `PATIENCE` seconds later when the batch in hand still has not ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patient = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._restore()
        self.signal = signal.Signals(number)
        if not self.patient:
            self.check()
        if hasattr(signal, "setitimer"):
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: self.check())
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _restore(self) -> None:
        if hasattr(signal, "setitimer") and signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        super()._restore()


def heeded() -> tuple[signal.Signals, ...]:
    """Those of `STOPPING` that nobody asked this process to ignore."""
    return tuple(one for one in STOPPING if signal.getsignal(one) is not signal.SIG_IGN)


def leave_to_parent() -> None:
    """In a process that works for another: a signal to all of them is for that one to answer."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
