"""Ctrl-C, SIGTERM and SIGHUP as a request that the work in hand answers when it is safe to."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from resnest_cli.errors import ResnestError
from resnest_cli.signals import heeded


class StoppedError(ResnestError):
    """A signal asked for the end, and what was done so far is safe."""


class BudgetUsedError(StoppedError):
    """The time that the run was given is used up, and what was done so far is safe."""


class StopRequest:
    """A context manager: the first signal only sets `signal`; a second SIGINT raises.

    The previous handlers are back in place when it ends. In threads other than the main one, which
    get no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in heeded():
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def check(self) -> None:
        """To be called where the work may end.

        Raises:
            StoppedError: a signal has come.
        """
        if self.signal is not None:
            raise StoppedError(f"stopped by {self.signal.name}")

    @property
    def exit_code(self) -> int:
        """What the shell expects of a process that a signal ended: 130, 143 or 129."""
        assert self.signal is not None
        return 128 + self.signal
