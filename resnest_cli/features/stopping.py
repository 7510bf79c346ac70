"""Ctrl-C, SIGTERM, SIGHUP: the batch in hand is finished first; the second one leaves at once."""

import signal
import threading
from types import FrameType
from typing import Any, Self

from resnest_cli.errors import ResnestError
from resnest_cli.signals import heeded

# Seconds that the batch in hand may take: Slurm kills 30 s after SIGTERM, Kubernetes too.
PATIENCE = 20.0


class InterruptedRunError(ResnestError):
    """A signal has ended the run; its parts are kept."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Stopping:
    """A context in which the first signal only asks to stop.

    `requested` is the number of the signal that came. Before `patient` is set there is nothing to
    finish, and a signal raises InterruptedRunError; so it does when the batch in hand takes too
    long.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self.patient = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in heeded():
                self._before[number] = signal.signal(number, self._first)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def check(self) -> None:
        """Ends here if a signal has come.

        Raises:
            InterruptedRunError: it has.
        """
        if self.requested is not None:
            raise InterruptedRunError(self.requested)

    def _first(self, number: int, _frame: FrameType | None) -> None:
        self._restore()
        self.requested = number
        if not self.patient:
            raise InterruptedRunError(number)
        if hasattr(signal, "setitimer"):
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._late)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _late(self, _number: int, _frame: FrameType | None) -> None:
        self.check()

    def _restore(self) -> None:
        if hasattr(signal, "setitimer") and signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
