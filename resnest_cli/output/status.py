"""One line on stderr that says how far something has come.

On a terminal it is redrawn in place, and whatever else goes to stderr appears above it. Elsewhere
it becomes an ordinary line now and then, for logs. There is no thread behind it: the caller's own
steps redraw it, so that a process may fork at any time.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnest_cli.output.messages import decorated, is_quiet, message

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

_BAR = 6, 40  # columns, least and most


@dataclass(frozen=True, slots=True)
class Line:
    """What the line says: a title, so many of so many, and more, the most important first."""

    title: str
    done: int
    total: int | None
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "  ".join((f"{self.title} {self._count()}", *self.parts))

    def _count(self) -> str:
        return f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """The title, a bar as wide as there is room, the count, and the parts that fit."""
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        width = options.max_width - 1  # the last column makes some terminals wrap
        parts = list(self.parts)
        while parts and len("  ".join((f"{self.title} {self._count()}", *parts))) > width:
            parts.pop()
        rest = "  ".join((self._count(), *parts))
        room = min(width - len(self.title) - len(rest) - 2, _BAR[1])
        yield Text(f"{self.title} "[:width], end="")
        if self.total and room >= _BAR[0]:
            yield ProgressBar(total=self.total, completed=self.done, width=room)
            yield Text(" ", end="")
        yield Text(rest[: max(0, width - len(self.title) - 1)], end="")


class StatusLine:
    """Shows `Line`s; nothing with `--quiet`. `clear` ends it, `show` may begin it again."""

    FRAME = 0.1  # seconds between two drawings on a terminal
    PLAIN = 30.0  # and between two lines elsewhere
    DELAY = 0.5  # before the first drawing: what is quick is not worth a bar

    def __init__(self) -> None:
        self._live: Live | None = None
        self._next: float | None = None

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
        self._begin().update(line(), refresh=True)
        self._next = now + self.FRAME

    def _begin(self) -> "Live":
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
        return self._live

    def clear(self) -> None:
        """The line is removed from the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._next = None


class Pace:
    """How fast a count grows, and how long the rest takes at that speed."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def parts(self, done: int, total: int | None) -> tuple[str, ...]:
        """Time left and photos a second, once they can be told."""
        now = time.monotonic()
        if self._start is None:
            self._start = now, done
        seconds, count = now - self._start[0], done - self._start[1]
        if count <= 0 or seconds <= 0:
            return ()
        speed = count / seconds
        left = () if total is None else (f"{duration((total - done) / speed)} left",)
        return *left, f"{speed:,.0f} photos/s" if speed >= 10 else f"{speed:.1f} photos/s"


def duration(seconds: float) -> str:
    """Seconds in at most 8 characters: 3.2 s, 45 s, 12:34, 1:02:03, 2 d 3 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}:{rest:02}"
    if hours < 24:
        return f"{hours}:{minutes:02}:{rest:02}"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days < 100 else f"{days:,} d"
