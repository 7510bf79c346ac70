"""Where records and tables go: stdout or a file. What has been written is always whole records."""

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from resnest_cli.errors import ResnestError, cannot_write
from resnest_cli.files import writing
from resnest_cli.output.messages import decorated
from resnest_cli.text import printable_name

if TYPE_CHECKING:
    from rich.console import Console

CLOSED = "standard output is closed. Let it lead to a file, or to /dev/null."
_WHOLE = "What was written before is whole."
_WIDTH = 100  # of a table that goes to a file or a pipe
_NARROWEST = 79  # `resnest models` needs as much


class Sink:
    """Takes text, one or more whole records at a time, and writes it at once.

    When the disk is full, what was written of the last record is taken back where the output can
    be cut (a file, also behind a shell's redirection). A reader that closes its pipe ends the
    program quietly with exit code 141, as `cat` ends.

    Args:
        path: the file to write; None for stdout.
        errors: how characters that the output cannot hold are written: "backslashreplace", or
            "surrogateescape" to give file names back their own bytes.

    The file is created, or emptied, when the first record is written: a run that fails before
    leaves an older file as it is.
    """

    def __init__(self, path: Path | None = None, *, errors: str = "backslashreplace") -> None:
        self._path = path
        self._errors = errors
        self._own: int | None = None
        # Whether people see what is written, as it is.
        self.terminal = path is None and sys.stdout is not None and sys.stdout.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            os.close(self._own)
            self._own = None

    def write(self, text: str) -> None:
        """Writes the text, whole, before it returns.

        Raises:
            ResnestError: the file cannot be created or written, or stdout is closed.
        """
        if self._path is not None and self._own is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
            with writing(self._path):
                self._own = os.open(self._path, flags, 0o666)
        if self._own is None and sys.stdout is None:
            raise ResnestError(CLOSED)
        if self.terminal:
            # The terminal's own layer: on Windows it is not a stream of bytes.
            encoding = sys.stdout.encoding
            sys.stdout.write(text.encode(encoding, self._errors).decode(encoding, "replace"))
            sys.stdout.flush()
            return
        own, done = self._own, 0
        encoding = "utf-8" if own is not None else sys.stdout.encoding or "utf-8"
        data = text.encode(encoding, self._errors)
        try:
            if own is None:
                sys.stdout.flush()
            descriptor = sys.stdout.fileno() if own is None else own
            while done < len(data):
                done += os.write(descriptor, data[done:])
        except BrokenPipeError:
            raise closed_pipe() from None
        except OSError as error:
            with contextlib.suppress(OSError):  # a pipe or a device: what is gone is gone
                if done:
                    end = os.lseek(descriptor, 0, os.SEEK_CUR) - done
                    os.ftruncate(descriptor, end)
                    os.lseek(descriptor, end, os.SEEK_SET)
            if self._path is None:
                raise stdout_error(error) from error
            raise ResnestError(f"{cannot_write(self._path, error)} {_WHOLE}") from error


def emit(text: str) -> None:
    """Text on stdout, at once."""
    Sink().write(text)


def stdout_error(error: OSError) -> ResnestError:
    """What to say where standard output fails."""
    if error.errno == errno.EBADF:
        return ResnestError(CLOSED)
    return ResnestError(f"{cannot_write('standard output', error)} {_WHOLE}")


def closed_pipe() -> SystemExit:
    """The end of a program whose reader has gone."""
    # Python flushes stdout once more at exit; what is left must go somewhere.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
    return SystemExit(141)


def stdout_console(*, to_file: bool = False) -> "Console":
    """Rich's console for what goes to stdout or, without colour, to a file; used to render only."""
    from rich.console import Console

    closed = sys.stdout is None
    fixed = to_file or closed or not (sys.stdout.isatty() or os.environ.get("COLUMNS"))
    return Console(
        file=io.StringIO() if closed else sys.stdout,
        width=_WIDTH if fixed else None,
        force_terminal=not closed and not to_file and decorated(sys.stdout),
        highlight=False,
    )


def show_table(titles: Sequence[str], rows: Iterable[Sequence[str]], sides: str = "lr") -> None:
    """A table on stdout. `sides`: l or r for each column, left or right; the last goes on."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
                  show_header=any(titles))  # fmt: skip
    for title, side in zip(titles, sides.ljust(len(titles), sides[-1]), strict=True):
        table.add_column(title, justify="right" if side == "r" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable_name(cell)) for cell in row))
    console = stdout_console()
    console.width = max(console.width, _NARROWEST)  # lines run over rather than names be cut up
    with console.capture() as capture:
        console.print(table)
    emit(capture.get())


def show_markdown(text: str) -> None:
    """Markdown on stdout: laid out and paged at a terminal, as it is elsewhere.

    The pager is `$PAGER`, or `less`, which shows a short page at once and without clearing it.
    """
    if not Sink().terminal:
        return emit(text)
    from rich.markdown import Markdown

    console = stdout_console()
    console.width = min(console.width, _WIDTH)
    os.environ.setdefault("LESS", "FRX")
    with console.pager(styles=True):
        console.print(Markdown(text, hyperlinks=False))
    return None


def show_json(value: Any) -> None:
    """A JSON document on stdout, in ASCII: bytes of names that are not UTF-8 stand as `\\udcXX`."""
    emit(json.dumps(value, indent=2) + "\n")
