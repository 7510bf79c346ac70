"""Tables of anything but records, and JSON."""

import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from resnest_cli.output.messages import decorated
from resnest_cli.output.sink import emit
from resnest_cli.text import printable_name

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 100  # of a table that goes to a file or a pipe
_NARROWEST = 79  # `resnest models` needs as much


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


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON in ASCII: names that are not UTF-8 stand as surrogate escapes, `\\udcXX`."""
    return json.dumps(value, ensure_ascii=True, indent=indent)
