"""The only printer: records on stdout, messages and progress on stderr.

stdout carries records only, in one of the formats of `writer`. Rich is imported where a table or a
bar is drawn. Not a terminal, NO_COLOR or TERM=dumb: no colour, no bars.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    from resnest_cli.inference.records import Record

Format = Literal["table", "json", "jsonl"]

_settings = {"quiet": False, "debug": False}


def set_quiet(quiet: bool) -> None:
    """Messages that are no errors are dropped from here on."""
    _settings["quiet"] = quiet


def set_debug(debug: bool) -> None:
    """Errors show their traceback from here on."""
    _settings["debug"] = debug


def debug_wanted() -> bool:
    """Whether `--debug` or `RESNEST_DEBUG` was given."""
    return _settings["debug"] or bool(os.environ.get("RESNEST_DEBUG"))


def message(text: str) -> None:
    """A line on stderr, unless `--quiet`."""
    if not _settings["quiet"]:
        print(printable(text), file=sys.stderr, flush=True)


def error(text: str) -> None:
    """An error on stderr, always; the word is red on a terminal."""
    prefix = "\033[1;31merror:\033[0m" if _decorated(sys.stderr) else "error:"
    print(f"{prefix} {printable(text)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text that any terminal can show: bytes that are no UTF-8 and control characters escaped."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def printable_name(name: str) -> str:
    """A file name on one line; see `printable`."""
    return printable(name).replace("\n", "\\n")


def closed_pipe() -> SystemExit:
    """What to raise when the reader of stdout has gone: quiet, exit 141 as a shell tool."""
    # Python flushes stdout once more at exit; what is left must go somewhere.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    return SystemExit(141)


def _decorated(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def stdout_console() -> "Console":
    """Rich's console on stdout; off a terminal the table keeps its natural width."""
    from rich.console import Console

    class QuietConsole(Console):
        def on_broken_pipe(self) -> None:
            raise closed_pipe()

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 100
    return QuietConsole(file=sys.stdout, width=width, highlight=False, soft_wrap=False)


class Writer(Protocol):
    """Takes records one by one and prints them in its format."""

    def write(self, record: "Record") -> None:
        """One record."""

    def close(self) -> None:
        """No record follows."""


def writer(format_: Format, *, single: bool) -> Writer:
    """The writer for a format; `single` when there is one input, for which JSON is one object."""
    if format_ == "table":
        return TableWriter()
    if format_ == "jsonl":
        return JsonLinesWriter()
    return JsonWriter(single=single)


class JsonLinesWriter:
    """One JSON object a line, as soon as it is known."""

    def write(self, record: "Record") -> None:
        """One line."""
        emit(to_json(record.as_dict()) + "\n")

    def close(self) -> None:
        """Nothing is left to do."""


class JsonWriter:
    """One JSON document: the object of a single input, else an array, streamed."""

    def __init__(self, *, single: bool) -> None:
        self._single = single
        self._count = 0

    def write(self, record: "Record") -> None:
        """The object, or the next element of the array."""
        text = to_json(record.as_dict(), indent=2)
        if not self._single:
            text = ("[\n" if self._count == 0 else ",\n") + text
        emit(text)
        self._count += 1

    def close(self) -> None:
        """Ends the document, an empty array where there was no record."""
        if self._single:
            emit("\n" if self._count else "")
        else:
            emit("\n]\n" if self._count else "[]\n")


class TableWriter:
    """A table for each photo: rank, class, probability with a bar; or its error."""

    def __init__(self) -> None:
        self._console = stdout_console()
        self._count = 0

    def write(self, record: "Record") -> None:
        """The photo's table, or its error."""
        name = printable_name(record.input)
        if self._count:
            self._console.print()
        self._count += 1
        from rich.text import Text

        # A line of its own, not the table's title, which would be folded to the table's width.
        self._console.print(Text(name, style="bold"), soft_wrap=True)
        if record.error is not None:
            self._console.print(Text(f"error: {record.error}", style="red"), soft_wrap=True)
            return
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(expand=False)
        table.add_column("Rank", justify="right")
        table.add_column("Class", overflow="fold")
        table.add_column("Probability", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True, width=20)
        for prediction in record.predictions:
            table.add_row(
                str(prediction.rank),
                Text(printable_name(prediction.label)),
                f"{prediction.probability:.2%}",
                ProgressBar(total=1, completed=prediction.probability, width=20),
            )
        self._console.print(table)

    def close(self) -> None:
        """Nothing is left to do."""


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON in ASCII: names that are not UTF-8 stand as surrogate escapes, `\\udcXX`."""
    return json.dumps(value, ensure_ascii=True, indent=indent)


def emit(text: str) -> None:
    """Text on stdout, at once."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise closed_pipe() from None


def show_table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; each column is (title, "left" or "right")."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title, justify in columns:
        table.add_column(title, justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable_name(cell)) for cell in row))
    stdout_console().print(table)


class DownloadBar:
    """Progress of a download on stderr: a Rich bar on a terminal, else one line."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task: Any = None

    def start(self, name: str, total: int | None, done: int) -> None:
        """A download begins, or goes on after `done` bytes; `total` where it is known."""
        if _settings["quiet"]:
            return
        if not _decorated(sys.stderr):
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


def megabytes(size: int) -> str:
    """A number of bytes as people read it: 110 MB."""
    if size < 10_000_000:
        return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:,.0f} MB"
