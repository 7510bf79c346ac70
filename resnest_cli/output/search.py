"""What `resnest search` found, as tables, JSON, JSON lines or CSV, written one by one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.output.records import (
    Csv,
    Drawn,
    Format,
    Json,
    JsonLines,
    RecordWriter,
    shortened_name,
)
from resnest_cli.output.sink import Sink, stdout_console
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
    sink = Sink(path, errors="surrogateescape" if format_ == "csv" else "backslashreplace")
    if format_ == "jsonl":
        return JsonLines(sink)
    if format_ == "json":
        return Json(sink, single=single)
    if format_ == "csv":
        return _FoundCsv(sink, topk)
    console = stdout_console(to_file=path is not None)
    return _FoundLines(sink, console) if many else _FoundTables(sink, console)


def group_writer(format_: Format, path: Path | None) -> RecordWriter:
    """For groups of alike photos: JSON has an array of them, CSV a row for each photo."""
    sink = Sink(path, errors="surrogateescape" if format_ == "csv" else "backslashreplace")
    if format_ == "jsonl":
        return JsonLines(sink)
    if format_ == "json":
        return Json(sink, single=False)
    if format_ == "csv":
        return _GroupCsv(sink)
    return _Groups(sink, stdout_console(to_file=path is not None))


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

    def _print(self, record: Any) -> None:
        if not self._first:
            self._console.print()
        self._heading(record)
        if record.error is not None:
            return
        if record.neighbours:
            _show(self._console, record.metric, record.neighbours, ranks=True)
        else:
            self._console.print("nothing is comparable with it", soft_wrap=True)


class _Groups(Drawn):
    """A table for each group."""

    def _print(self, record: Any) -> None:
        if not self._first:
            self._console.print()
        self._heading(record)
        _show(self._console, record.metric, record.neighbours, ranks=False)


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


class _FoundLines(Drawn):
    """One line for each query: its name, the nearest photo, the score; or the error."""

    def __init__(self, sink: Sink, console: "Console") -> None:
        super().__init__(sink, console)
        self._width = max(10, (console.width - _SCORE - 4) // 2)

    def _print(self, record: Any) -> None:
        if self._first:
            rule = "-" if self._console.options.ascii_only else "─"
            self._line("Photo", "Nearest", SCORES[record.metric], "bold")
            self._line(rule * self._width, rule * self._width, rule * _SCORE, "dim")
        if record.error is not None:
            self._line(record.input, f"error: {record.error}", "", "red")
        elif not record.neighbours:
            self._line(record.input, "-", "", "")
        else:
            best = record.neighbours[0]
            self._line(record.input, best.input, score(record.metric, best.score), "")

    def _line(self, name: str, nearest: str, number: str, style: str) -> None:
        from rich.cells import set_cell_size
        from rich.text import Text

        width = self._width
        text = f"{set_cell_size(shortened_name(printable_name(name), width), width)}  "
        nearest = printable_name(nearest)
        if number:
            nearest = set_cell_size(shortened_name(nearest, width), width)
            nearest += f"  {number:>{_SCORE}}"
        self._console.print(Text((text + nearest).rstrip(), style=style), soft_wrap=True)
