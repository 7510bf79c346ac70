"""Records as tables, JSON, JSON lines or CSV, each written as soon as it is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from resnest_cli.csv_rows import Cell, csv_row
from resnest_cli.output.messages import printable, printable_name
from resnest_cli.output.sink import Sink
from resnest_cli.output.tables import stdout_console, to_json

if TYPE_CHECKING:
    from resnest_cli.inference.records import Record

Format = Literal["table", "json", "jsonl", "csv"]

_BARS_FROM = 66  # columns; a narrower terminal has room for the names only


class RecordWriter(Protocol):
    """Takes records one by one and writes them in its format."""

    def write(self, record: "Record") -> None:
        """One record."""

    def close(self) -> None:
        """No record follows."""


def record_writer(
    format_: Format,
    path: Path | None,
    *,
    topk: int,
    single: bool,
    many: bool,
    rejecting: bool = False,
) -> RecordWriter:
    """The writer for a format, to a file or, without `path`, to stdout.

    `single`: there is one input, for which JSON is one object instead of an array. `many`: one line
    for each photo instead of a table. `topk` is the number of classes that a CSV row has room for;
    with `rejecting` it has a column `unsure`, too.

    Raises:
        ResnestError: the file cannot be written.
    """
    errors = "surrogateescape" if format_ == "csv" else "backslashreplace"
    sink = Sink(path, errors=errors)
    if format_ == "jsonl":
        return JsonLinesWriter(sink)
    if format_ == "json":
        return JsonWriter(sink, single=single)
    if format_ == "csv":
        return CsvWriter(sink, topk, rejecting=rejecting)
    if many:
        return CompactTableWriter(sink, to_file=path is not None)
    return TableWriter(sink, to_file=path is not None)


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, record: "Record") -> None:
        """One line."""
        self._sink.write(to_json(record.as_dict()) + "\n")

    def close(self) -> None:
        """Nothing is left to do."""


class JsonWriter:
    """One JSON document: the object of a single input, else an array, streamed."""

    def __init__(self, sink: Sink, *, single: bool) -> None:
        self._sink = sink
        self._single = single
        self._count = 0

    def write(self, record: "Record") -> None:
        """The object, or the next element of the array."""
        text = to_json(record.as_dict(), indent=2)
        if not self._single:
            text = ("[\n" if self._count == 0 else ",\n") + text
        self._sink.write(text)
        self._count += 1

    def close(self) -> None:
        """Ends the document, an empty array where there was no record."""
        if self._single:
            self._sink.write("\n" if self._count else "")
        else:
            self._sink.write("\n]\n" if self._count else "[]\n")


class CsvWriter:
    """One row for each input: input, status, error, model, and for each rank three columns."""

    def __init__(self, sink: Sink, topk: int, *, rejecting: bool) -> None:
        self._sink = sink
        self._topk, self._rejecting = topk, rejecting
        header = ["input", "status", "error", "model"]
        for rank in range(1, topk + 1):
            header += [f"index_{rank}", f"label_{rank}", f"probability_{rank}"]
        self._header: list[str] | None = header + (["unsure"] if rejecting else [])

    def write(self, record: "Record") -> None:
        """One row; ranks that the record does not have stay empty."""
        self._begin()
        row: list[Cell] = [record.input, record.status, record.error, record.model]
        for prediction in record.predictions:
            row += [prediction.index, prediction.label, prediction.probability]
        row += [None] * (3 * (self._topk - len(record.predictions)))
        if self._rejecting:
            row.append({None: "", True: "true", False: "false"}[record.unsure])
        self._row(row)

    def _begin(self) -> None:
        if self._header is not None:
            self._row(self._header)
            self._header = None

    def _row(self, cells: Sequence[Cell]) -> None:
        text = csv_row(cells)
        # A file gets names as they are; on a terminal they must not act.
        self._sink.write(printable(text) if self._sink.terminal else text)

    def close(self) -> None:
        """The header at least, where there was no record."""
        self._begin()


class TableWriter:
    """A table for each photo: rank, class, probability with a bar; or its error."""

    def __init__(self, sink: Sink, *, to_file: bool) -> None:
        self._sink = sink
        self._console = stdout_console(to_file=to_file)
        self._count = 0

    def write(self, record: "Record") -> None:
        """The photo's table, or its error."""
        with self._console.capture() as capture:
            self._print(record)
        self._sink.write(capture.get())
        self._count += 1

    def _print(self, record: "Record") -> None:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self._count:
            self._console.print()
        # A line of its own, not the table's title, which would be folded to the table's width.
        self._console.print(Text(printable_name(record.input), style="bold"), soft_wrap=True)
        if record.error is not None:
            self._console.print(
                Text(f"error: {printable_name(record.error)}", style="red"), soft_wrap=True
            )
            return
        if record.unsure:
            self._console.print(Text("unsure", style="yellow"), soft_wrap=True)
        table = Table(expand=False)
        table.add_column("Rank", justify="right")
        table.add_column("Class", overflow="fold")
        table.add_column("Probability", justify="right", no_wrap=True)
        bars = self._console.width >= _BARS_FROM
        if bars:
            table.add_column("", no_wrap=True, width=20)
        for prediction in record.predictions:
            bar = ProgressBar(total=1, completed=prediction.probability, width=20)
            table.add_row(
                str(prediction.rank),
                Text(printable_name(prediction.label)),
                f"{prediction.probability:.2%}",
                *([bar] if bars else []),
            )
        self._console.print(table)

    def close(self) -> None:
        """Nothing is left to do."""


class CompactTableWriter:
    """One line for each photo: its name, the best class, its probability; or the error.

    The columns have fixed widths, since the lines are written before the next photos are known.
    """

    def __init__(self, sink: Sink, *, to_file: bool) -> None:
        self._sink = sink
        self._console = stdout_console(to_file=to_file)
        rest = self._console.width - len("  Probability  ")
        self._widths = max(10, rest * 55 // 100), max(10, rest * 45 // 100)
        self._started = False

    def write(self, record: "Record") -> None:
        """One line."""
        if not self._started:
            self._started = True
            rule = "-" if self._console.options.ascii_only else "─"
            self._line("Photo", "Class", "Probability", "bold")
            self._line(rule * self._widths[0], rule * self._widths[1], rule * 11, "dim")
        if record.error is not None:
            self._line(record.input, f"error: {record.error}", "", "red")
        elif not record.predictions:
            self._line(record.input, "-", "", "")
        else:
            best = record.predictions[0]
            label = f"unsure ({best.label})" if record.unsure else best.label
            self._line(record.input, label, f"{best.probability:.2%}", "")

    def _line(self, name: str, label: str, probability: str, style: str) -> None:
        from rich.cells import set_cell_size
        from rich.text import Text

        name, label = _shortened(printable_name(name), self._widths[0]), printable_name(label)
        text = f"{set_cell_size(name, self._widths[0])}  "
        if probability:
            text += f"{set_cell_size(label, self._widths[1])}  {probability:>11}"
        else:
            text += label  # an error may run on: it is the last thing on its line
        with self._console.capture() as capture:
            self._console.print(Text(text.rstrip(), style=style), soft_wrap=True)
        self._sink.write(capture.get())

    def close(self) -> None:
        """Nothing is left to do."""


def _shortened(name: str, width: int) -> str:
    """The end of a name that is too long: paths differ there."""
    from rich.cells import cell_len

    if cell_len(name) <= width:
        return name
    end = name[-width:]
    while cell_len(end) > width - 3:
        end = end[1:]
    return f"...{end}"
