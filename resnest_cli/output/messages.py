"""Lines on stderr, whether they are wanted, and live lines that show how far work has come.

On a terminal a live line is redrawn in place, and whatever else goes to stderr appears above it.
Elsewhere it becomes an ordinary line now and then, for logs, or nothing. No thread is behind it:
the work's own steps redraw it, so that a process may fork at any time.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, TextIO

from resnest_cli.net import Access
from resnest_cli.progress import Progress
from resnest_cli.text import duration, megabytes, printable, printable_name, speed

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

Unit = Literal["photos", "bytes", "steps"]

_BAR = 6, 40  # columns, least and most
_settings = {"quiet": False, "debug": False}


def set_quiet(quiet: bool) -> None:
    """Messages that are no errors are dropped from here on."""
    _settings["quiet"] = quiet


def is_quiet() -> bool:
    """Whether `--quiet` was given."""
    return _settings["quiet"]


def set_debug(debug: bool) -> None:
    """Errors show their traceback from here on."""
    _settings["debug"] = debug


def debug_wanted() -> bool:
    """Whether `--debug` or `RESNEST_DEBUG` was given."""
    return _settings["debug"] or bool(os.environ.get("RESNEST_DEBUG"))


def message(text: str, style: str = "") -> None:
    """A line on stderr, unless `--quiet`; on a terminal in a style: digits of ANSI's SGR."""
    if not _settings["quiet"]:
        text = printable(text)
        _line(f"\033[{style}m{text}\033[0m" if style and decorated(sys.stderr) else text)


def error(text: str) -> None:
    """An error on stderr, always; the word is red on a terminal."""
    prefix = "\033[1;31merror:\033[0m" if decorated(sys.stderr) else "error:"
    _line(f"{prefix} {printable(text)}")


def _line(text: str) -> None:
    # One write, so that the lines of several processes do not mix. What cannot be shown is dropped.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def decorated(stream: TextIO) -> bool:
    """Whether colours and bars may be drawn on this stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# Live lines


@dataclass(frozen=True, slots=True)
class Line:
    """What a live line says: a title, so many of so many, and more, the most important first."""

    title: str
    done: int
    total: int | None
    parts: tuple[str, ...] = ()
    unit: Unit = "photos"

    def __str__(self) -> str:
        return "  ".join((f"{self._name}{self._count()}", *self.parts))

    @property
    def _name(self) -> str:
        return f"{printable_name(self.title)} " if self.title else ""

    def _count(self) -> str:
        shown = megabytes if self.unit == "bytes" else "{:,}".format
        return shown(self.done) if self.total is None else f"{shown(self.done)}/{shown(self.total)}"

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """The title, a bar as wide as there is room, the count, and the parts that fit."""
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        width = options.max_width - 1  # the last column makes some terminals wrap
        parts = list(self.parts)
        while parts and len("  ".join((f"{self._name}{self._count()}", *parts))) > width:
            parts.pop()
        rest = "  ".join((self._count(), *parts))
        room = min(width - len(self._name) - len(rest) - 1, _BAR[1])
        yield Text(self._name[:width], end="")
        if self.total and room >= _BAR[0]:
            yield ProgressBar(total=self.total, completed=self.done, width=room)
            yield Text(" ", end="")
        yield Text(rest[: max(0, width - len(self._name))], end="")


class Bar:
    """Draws how far work has come: a `Progress`, and a context manager that removes the line.

    Nothing is drawn with `--quiet`; off a terminal only a `logged` one is, as plain lines.
    `beside_records`: records may go to stdout meanwhile. Records that scroll by on the same
    terminal and a live line would fight for the last line: then nothing is drawn.
    """

    FRAME = 0.1  # seconds between two drawings on a terminal
    PLAIN = 30.0  # and between two lines elsewhere
    DELAY = 1.0  # before the first drawing: what is quick is not worth a bar

    def __init__(
        self, title: str = "", unit: Unit = "photos", *,
        beside_records: bool = False, logged: bool = False,
    ) -> None:  # fmt: skip
        self.title, self._unit = title, unit
        self.done = 0
        self._live: Live | None = None
        self._next: float | None = None
        self._start: tuple[str, float, int] | None = None  # title, time, and what was done then
        fought_for = beside_records and sys.stdout is not None and sys.stdout.isatty()
        self.wanted = (logged or decorated(sys.stderr)) and not fought_for and not is_quiet()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def begin(self, done: int, title: str = "") -> None:
        """The work goes on after so many, which say nothing about its speed."""
        self._start = title or self.title, time.monotonic(), done

    def __call__(
        self, done: int, total: int | None = None, *, failed: int = 0, title: str = ""
    ) -> None:
        """See `progress.Progress`."""
        self.done = done
        if not self.wanted:
            return
        title = title or self.title
        if self._start is None or self._start[0] != title:
            self.begin(done, title)
        parts = (f"{failed:,} failed",) if failed else ()
        self.show(lambda: Line(title, done, total, parts + self._pace(done, total), self._unit))

    def _pace(self, done: int, total: int | None) -> tuple[str, ...]:
        """Time left and speed, once they are known."""
        if self._start is None or self._unit == "steps":
            return ()
        seconds, count = time.monotonic() - self._start[1], done - self._start[2]
        if count <= 0 or seconds <= 0:
            return ()
        rate = count / seconds
        left = () if total is None else (f"{duration((total - done) / rate)} left",)
        return *left, f"{megabytes(rate)}/s" if self._unit == "bytes" else speed(rate)

    def show(self, line: Callable[[], Line]) -> None:
        """The line as it is now; made only if it is time to show one, so this may be called often.

        Rich is not imported before the first drawing.
        """
        now = time.monotonic()
        if self._next is None:
            self._next = now + (self.DELAY if decorated(sys.stderr) else self.PLAIN)
        if now < self._next or is_quiet():
            return
        if self._live is None and not decorated(sys.stderr):
            message(str(line()))
            self._next = now + self.PLAIN
            return
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=sys.stderr, highlight=False)
            self._live = Live(
                console=console, auto_refresh=False, transient=True, redirect_stdout=False
            )
            self._live.start()
            # Rich hides the cursor, and after `kill -9` nobody would bring it back.
            console.show_cursor(True)
        self._live.update(line(), refresh=True)
        self._next = now + self.FRAME

    def clear(self) -> None:
        """Removes the line from the terminal; another may follow."""
        if self._live is not None:
            self._live.stop()
        self._live = self._next = self._start = None


class DownloadBar:
    """A `progress.Display` of downloads: a live line on a terminal, else one at the start."""

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Progress]:
        """Bytes of the file of this name."""
        begun = False

        def announce(
            done: int, total: int | None = None, *, failed: int = 0, title: str = ""  # noqa: ARG001
        ) -> None:  # fmt: skip
            nonlocal begun
            if not begun:
                size = f" ({megabytes(total)})" if total else ""
                message(f"{'Resuming' if done else 'Downloading'} {name}{size}")
            begun = True

        with Bar(name, "bytes") as bar:
            bar.DELAY = 0.0
            yield bar if decorated(sys.stderr) else announce


def access(mirror: str | None, offline: bool) -> Access:
    """How weights may be had, with progress and messages on stderr."""
    return Access(mirror, offline, DownloadBar(), message)
