"""What `resnest search` found, as tables, JSON, JSON lines or CSV, written one by one."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.output.records import (
    Csv,
    Drawn,
    DrawnLines,
    Format,
    RecordWriter,
    shortened_name,
    writer,
)
from resnest_cli.output.sink import Sink
from resnest_cli.text import Cell, printable_name, score

if TYPE_CHECKING:
    from rich.console import Console

SCORES = {"cosine": "Similarity", "dot": "Product", "euclidean": "Distance"}

_BARS_FROM = 76  # columns; a narrower terminal has room for the names only
_SCORE = 12  # columns of a score


def found_writer(
    format_: Format, path: Path | None, *, topk: int, single: bool, many: bool
) -> RecordWriter:
    """For one record for each query; see `records.record_writer`."""
    drawn = _FoundLines if many else _FoundTables
    return writer(format_, path, single=single, csv=partial(_FoundCsv, topk=topk), drawn=drawn)


def group_writer(format_: Format, path: Path | None) -> RecordWriter:
    """For groups of alike photos: JSON has an array of them, CSV a row for each photo."""
    return writer(format_, path, single=False, csv=_GroupCsv, drawn=_Groups)


class _FoundCsv(Csv):
    """A row for each query: what it is, and for each rank three columns."""

    def __init__(self, sink: Sink, topk: int) -> None:
        super().__init__(sink, topk)
        self._header = ["input", "row", "status", "error", "model", "metric"]
        for rank in range(1, topk + 1):
            self._header += [f"row_{rank}", f"input_{rank}", f"score_{rank}"]

    def write(self, record: Any) -> None:
        self.close()  # the header comes first
        row: list[Cell] = [record.input, record.row, record.status, record.error]
        row += [record.model, record.metric]
        for one in record.neighbours:
            row += [one.row, one.input, one.score]
        self._row(row + [None] * (3 * (self._topk - len(record.neighbours))))


class _GroupCsv(Csv):
    """A row for each photo of a group."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink, 0, rejecting=False)
        self._header = ["group", "row", "input", "score"]

    def write(self, record: Any) -> None:
        self.close()
        for one in record.neighbours:
            self._row([record.group, one.row, one.input, one.score])


class _FoundTables(Drawn):
    """A table for each query: rank, row, photo, score with a bar; or its error."""

    _ranks = True

    def _print(self, record: Any) -> None:
        if not self._first:
            self._console.print()
        self._heading(record)
        if record.error is not None:
            return
        if record.neighbours:
            _show(self._console, record.metric, record.neighbours, ranks=self._ranks)
        else:
            self._console.print("nothing is comparable with it", soft_wrap=True)


class _Groups(_FoundTables):
    """A table for each group."""

    _ranks = False


def _show(console: "Console", metric: str, photos: Any, *, ranks: bool) -> None:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=False)
    for title in ("Rank", "Row") if ranks else ("Row",):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("Photo", overflow="fold")
    table.add_column(SCORES[metric], justify="right", no_wrap=True)
    bars = metric == "cosine" and console.width >= _BARS_FROM
    if bars:
        table.add_column("", no_wrap=True, width=16)
    for one in photos:
        numbers = [str(one.rank), str(one.row)] if ranks else [str(one.row)]
        bar = [ProgressBar(total=1, completed=max(0.0, one.score), width=16)] if bars else []
        name = Text(printable_name(one.input))
        table.add_row(*numbers, name, score(metric, one.score), *bar)
    console.print(table)


class _FoundLines(DrawnLines):
    """One line for each query: its name, the nearest photo, the score; or the error."""

    def __init__(self, sink: Sink, console: "Console") -> None:
        half = (console.width - _SCORE - 4) // 2
        super().__init__(sink, console, (half, half, _SCORE))

    def _print(self, record: Any) -> None:
        self._titles("Photo", "Nearest", SCORES[record.metric])
        if record.error is not None:
            self._line(record.input, f"error: {record.error}", style="red")
        elif not record.neighbours:
            self._line(record.input, "-")
        else:
            best = record.neighbours[0]
            name = shortened_name(printable_name(best.input), self._widths[1])
            self._line(record.input, name, score(record.metric, best.score))
