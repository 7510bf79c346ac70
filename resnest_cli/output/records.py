"""Records and explanations as tables, JSON, JSON lines or CSV, written one by one.

JSON is ASCII: bytes of names that are not UTF-8 stand as surrogate escapes, `\\udcXX`.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resnest_cli.output.sink import Sink, stdout_console
from resnest_cli.text import Cell, csv_row, printable, printable_name

if TYPE_CHECKING:
    from rich.console import Console

    from resnest_cli.inference.ranking import Record

Format = Literal["table", "json", "jsonl", "csv"]

_BARS_FROM = 66  # columns; a narrower terminal has room for the names only
_WORDS = {None: "", True: "true", False: "false"}
NO_LABEL = "no label"
_WIDEST = 40  # columns for a class's name in an explanation; a longer one runs over


class RecordWriter:
    """Takes records or explanations one by one, and writes each at once in its format."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, record: Any) -> None:
        """One record."""
        raise NotImplementedError

    def close(self) -> None:
        """No record follows."""


def record_writer(
    format_: Format, path: Path | None, *, topk: int, single: bool, many: bool,
    rejecting: bool = False, doubting: bool = False, sorting: bool = False,
) -> RecordWriter:  # fmt: skip
    """The writer for a format, to a file or, without `path`, to stdout.

    `single`: there is one input, for which JSON is one object instead of an array. `many`: one line
    for each photo instead of a table. `topk` is the number of classes that a CSV row has room for;
    with `rejecting` it has a column `unsure`, too, and with `doubting` columns `unknown` and
    `distance`. `sorting`: the lines say where the photos go.
    """
    csv = partial(Csv, topk=topk, rejecting=rejecting, doubting=doubting)
    drawn = _SortedLines if sorting else _Lines if many else _Tables
    return writer(format_, path, single=single, csv=csv, drawn=drawn)


def writer(
    format_: Format, path: Path | None, *, single: bool,
    csv: Callable[[Sink], RecordWriter], drawn: "Callable[[Sink, Console], RecordWriter]",
) -> RecordWriter:  # fmt: skip
    """The writer for a format; `csv` and `drawn` make those that differ from record to record."""
    sink = Sink(path, errors="surrogateescape" if format_ == "csv" else "backslashreplace")
    if format_ == "jsonl":
        return JsonLines(sink)
    if format_ == "json":
        return Json(sink, single=single)
    if format_ == "csv":
        return csv(sink)
    return drawn(sink, stdout_console(to_file=path is not None))


def explanation_writer(format_: Literal["table", "json"], *, single: bool) -> RecordWriter:
    """To stdout: lines for people, or the JSON object of a `single` photo, else an array."""
    if format_ == "json":
        return Json(Sink(), single=single)
    return _Explanations(Sink(), stdout_console())


class JsonLines(RecordWriter):
    """One JSON object a line."""

    def write(self, record: "Record") -> None:
        """One record."""
        self._sink.write(json.dumps(record.as_dict()) + "\n")


class Json(RecordWriter):
    """One JSON document: the object of a single input, else an array, streamed."""

    def __init__(self, sink: Sink, *, single: bool) -> None:
        super().__init__(sink)
        self._single, self._count = single, 0

    def write(self, record: Any) -> None:
        """One record."""
        text = json.dumps(record.as_dict(), indent=2)
        if not self._single:
            text = ("[\n" if self._count == 0 else ",\n") + text
        self._sink.write(text)
        self._count += 1

    def close(self) -> None:
        """No record follows."""
        if self._single:
            self._sink.write("\n" if self._count else "")
        else:
            self._sink.write("\n]\n" if self._count else "[]\n")


class Csv(RecordWriter):
    """One row for each input: input, status, error, model, and for each rank three columns.

    Where a photo may have several labels, a last column has those that are selected, with | between
    them; where photos are sorted, their places follow in the same way. The header is written in any
    case, also where there is no record.
    """

    def __init__(
        self, sink: Sink, topk: int, *, rejecting: bool = False, doubting: bool = False
    ) -> None:
        super().__init__(sink)
        self._topk, self._rejecting, self._doubting = topk, rejecting, doubting
        header: list[Cell] = ["input", "status", "error", "model"]
        for rank in range(1, topk + 1):
            header += [f"index_{rank}", f"label_{rank}", f"probability_{rank}"]
        header += ["unsure"] if rejecting else []
        self._header = header + (["unknown", "distance"] if doubting else [])

    def write(self, record: "Record") -> None:
        """One record."""
        if record.several and self._header:
            self._header.append("labels")
        if record.sorted_to is not None and self._header:
            self._header.append("sorted_to")
        self.close()  # the header comes first
        row: list[Cell] = [record.input, record.status, record.error, record.model]
        shown = [one for one in record.predictions if one.rank <= self._topk]
        for prediction in shown:
            row += [prediction.index, prediction.label, prediction.probability]
        row += [None] * (3 * (self._topk - len(shown)))  # ranks that it does not have
        if self._rejecting:
            row.append(_WORDS[record.unsure])
        if self._doubting:
            row += [_WORDS[record.unknown], record.distance]
        if record.several:
            row.append("|".join(record.labels))
        if record.sorted_to is not None:
            row.append("|".join(record.sorted_to))
        self._row(row)

    def _row(self, cells: list[Cell]) -> None:
        text = csv_row(cells)
        # A file gets names as they are; on a terminal they must not act.
        self._sink.write(printable(text) if self._sink.terminal else text)

    def close(self) -> None:
        """No record follows."""
        if self._header:
            header, self._header = self._header, []
            self._row(header)


class Drawn(RecordWriter):
    """What rich draws."""

    def __init__(self, sink: Sink, console: "Console") -> None:
        super().__init__(sink)
        self._console, self._first = console, True

    def write(self, record: Any) -> None:
        """One record."""
        with self._console.capture() as capture:
            self._print(record)
        self._first = False
        self._sink.write(capture.get())

    def _print(self, record: Any) -> None:
        raise NotImplementedError

    def _heading(self, record: "Record") -> None:
        """The photo's name, and its error where it has one."""
        from rich.text import Text

        self._console.print(Text(printable_name(record.input), style="bold"), soft_wrap=True)
        if record.error is not None:
            error = f"error: {printable_name(record.error)}"
            self._console.print(Text(error, style="red"), soft_wrap=True)


class _Tables(Drawn):
    """A table for each photo: rank, class, probability with a bar; or its error."""

    def _print(self, record: "Record") -> None:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if not self._first:
            self._console.print()
        # A line of its own, not the table's title, which would be folded to the table's width.
        self._heading(record)
        if record.error is not None:
            return
        if verdict := record.verdict:
            self._console.print(Text(verdict, style="yellow"), soft_wrap=True)
        table = Table(expand=False)
        table.add_column("Rank", justify="right")
        table.add_column("Class", overflow="fold")
        table.add_column("Probability", justify="right", no_wrap=True)
        bars = self._console.width >= _BARS_FROM
        if bars:
            table.add_column("", no_wrap=True, width=20)
        if record.several:
            table.add_column("Selected")
        for one in record.predictions:
            bar = ProgressBar(total=1, completed=one.probability, width=20)
            label = Text(printable_name(one.label))
            more: list[Any] = [bar] if bars else []
            more += ["yes" if one.selected else ""] if record.several else []
            table.add_row(str(one.rank), label, f"{one.probability:.2%}", *more)
        self._console.print(table)


class DrawnLines(Drawn):
    """One line for each record: a photo's name, what it is like, a number; or the error.

    The columns have fixed widths, since the lines are written before the next photos are known.
    """

    def __init__(self, sink: Sink, console: "Console", widths: tuple[int, int, int]) -> None:
        super().__init__(sink, console)
        self._widths = max(10, widths[0]), max(10, widths[1]), widths[2]

    def _titles(self, name: str, what: str, number: str) -> None:
        if self._first:
            rule = "-" if self._console.options.ascii_only else "─"
            self._line(name, what, number, "bold")
            first, second, third = (rule * width for width in self._widths)
            self._line(first, second, third, "dim")

    def _line(self, name: str, what: str, number: str = "", style: str = "") -> None:
        from rich.cells import set_cell_size
        from rich.text import Text

        first, second, third = self._widths
        text = set_cell_size(shortened_name(printable_name(name), first), first) + "  "
        what = printable_name(what)
        if number:
            text += f"{set_cell_size(beginning(what, second), second)}  {number:>{third}}"
        else:
            text += what  # an error may run on: it is the last thing on its line
        self._console.print(Text(text.rstrip(), style=style), soft_wrap=True)


class _Lines(DrawnLines):
    """One line for each photo: its name, the best class, its probability; or the error.

    Of several labels all that are selected, and the probability of the last one.
    """

    def __init__(self, sink: Sink, console: "Console") -> None:
        rest = console.width - len("  Probability  ")
        super().__init__(sink, console, (rest * 55 // 100, rest * 45 // 100, 11))

    def _print(self, record: "Record") -> None:
        self._titles("Photo", "Class", "Probability")
        if record.error is not None:
            self._line(record.input, f"error: {record.error}", style="red")
        elif record.several:
            chosen = [one for one in record.predictions if one.selected]
            least = f"{chosen[-1].probability:.2%}" if chosen else ""
            self._line(record.input, ", ".join(record.labels) or NO_LABEL, least)
        elif not record.predictions:
            self._line(record.input, record.verdict or "-")
        else:
            best = record.predictions[0]
            verdict = record.verdict
            label = f"{verdict} ({best.label})" if verdict else best.label
            self._line(record.input, label, f"{best.probability:.2%}")


class _SortedLines(Drawn):
    """One line for each photo: its name, and its place below the folder of classes; or the error.

    Nothing is cut off: a plan is to be read.
    """

    def _print(self, record: "Record") -> None:
        from rich.text import Text

        if record.error is not None:
            text, style = f"error: {record.error}", "red"
        else:
            text, style = ", ".join(record.sorted_to or ()) or "stays", ""
        line = f"{printable_name(record.input)} -> {printable_name(text)}"
        self._console.print(Text(line, style=style), soft_wrap=True)


class _Explanations(Drawn):
    """A photo, and a line for each class: rank, name, probability, and where it is hot."""

    def _print(self, found: Any) -> None:
        from rich.cells import cell_len
        from rich.text import Text

        record = found.record
        names = [printable_name(one.label) for one in record.predictions]
        width = min(_WIDEST, max(map(cell_len, names), default=0))
        self._heading(record)
        for name, one, region in zip(names, record.predictions, found.regions, strict=True):
            where = "nothing speaks for it"
            if region is not None:  # in fractions of the photo's width and height
                left, top, right, bottom = region.box
                where = f"x {left:.0%} to {right:.0%}, y {top:.0%} to {bottom:.0%}"
            padded = name + " " * max(0, width - cell_len(name))
            line = f"{one.rank:>4}  {padded}  {one.probability:>7.2%}  {where}"
            self._console.print(Text(line), soft_wrap=True)


def beginning(text: str, width: int) -> str:
    """The beginning of a text that is too long for so many columns."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 3).rstrip()}..."


def shortened_name(name: str, width: int) -> str:
    """The end of a name that is too long: paths differ there."""
    from rich.cells import cell_len

    if cell_len(name) <= width:
        return name
    end = name[-width:]
    while cell_len(end) > width - 3:
        end = end[1:]
    return f"...{end}"
