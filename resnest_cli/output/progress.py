"""Bars on stderr: downloads, and the photos of a long run."""

import sys
import time
from typing import TYPE_CHECKING, Any, Self

from resnest_cli.output.messages import decorated, is_quiet, megabytes, message

if TYPE_CHECKING:
    from rich.progress import Progress


class DownloadBar:
    """Progress of a download: a Rich bar on a terminal, else one line."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None

    def start(self, name: str, total: int | None, done: int) -> None:
        """A download begins, or goes on after `done` bytes; `total` where it is known."""
        if is_quiet():
            return
        if not decorated(sys.stderr):
            size = f" ({megabytes(total)})" if total else ""
            message(f"{'Resuming' if done else 'Downloading'} {name}{size}")
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(name, total=total, completed=done)

    def advance(self, n: int) -> None:
        """Another `n` bytes have come."""
        if self._bar is not None:
            self._bar.advance(self._task, n)

    def stop(self) -> None:
        """The download has ended, well or not."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class RecordProgress:
    """How far a run has come: photos, photos/s, failures; on a terminal, once it takes a while.

    A context manager. `total` is None where the number of photos is not known beforehand.
    `beside_records`: records may go to stdout meanwhile.
    """

    DELAY = 1.0  # seconds before anything is drawn: a quick run is not worth a bar

    def __init__(self, total: int | None, *, beside_records: bool = True) -> None:
        self._total = total
        self._start = time.monotonic()
        self._bar: Progress | None = None
        self._task: Any = None
        # Records that scroll by on the same terminal and a live bar would fight for the last line.
        fought_for = beside_records and sys.stdout is not None and sys.stdout.isatty()
        self.wanted = decorated(sys.stderr) and not fought_for and not is_quiet()
        self._before = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, done: int) -> None:
        """The run goes on after so many photos, which say nothing about its speed."""
        self._before, self._start = done, time.monotonic()

    def update(self, done: int, failed: int, total: int | None = None) -> None:
        """So many records are out, so many of them failures; a new `total` where it is given."""
        if not self.wanted:
            return
        elapsed = time.monotonic() - self._start
        if self._bar is None:
            if elapsed < self.DELAY:
                return
            self._draw(done)
        assert self._bar is not None
        speed = f"{(done - self._before) / elapsed:.1f} photos/s"
        speed += f", {failed} failed" if failed else ""
        if total is not None:
            self._total = total
        self._bar.update(self._task, completed=done, total=self._total, info=speed)

    def _draw(self, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}", markup=False),
            Remaining(),
            console=Console(file=sys.stderr),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=self._total, completed=done, info="")
