"""A file with a row for each photo -> columns and rows of text. What they mean is another matter.

CSV with commas, semicolons, tabs or bars (`sep=;` in the first line is Excel's), JSON lines, a JSON
array of objects, or Parquet; the content decides, not the name. Text may be compressed with gzip.
Numbers are never computed with: 007 stays 007.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from resnest_cli.data.encoding import decoded, read_bytes
from resnest_cli.errors import ResnestError, UsageError, one_line
from resnest_cli.images.sources import EXTENSIONS

_SEP = re.compile(r"\s*\"?sep=(.)\"?[ \t]*(\r\n|\r|\n|$)", re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"')
_CAFFE = re.compile(r"\S+ \S+")  # `1.jpg 0`: lists of Caffe, and of ImageNet
_RECORDS = "df.to_json(FILE, orient='records', lines=True)"
_OTHERS = {
    b"PK\x03\x04": "a zip archive, as Excel's .xlsx is",
    b"\xd0\xcf\x11\xe0": "an Excel file (.xls)",
    b"SQLite format 3": "an SQLite file",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF",
}


class Row(NamedTuple):
    """A row of text, a cell for each column; `number` is its line, or its row in Parquet."""

    number: int
    cells: list[str]


@dataclass(slots=True)
class Table:
    """Columns and rows that are not empty.

    `named` is False where the first line is a photo's: then the columns are called 1, 2, ...
    `odd` says what columns hold whose cells are no text, such as lists. `windows`: see `Text`.
    """

    columns: list[str]
    rows: list[Row]
    unit: str = "line"
    named: bool = True
    odd: Mapping[str, str] = field(default_factory=dict)
    windows: bool = False
    notes: list[str] = field(default_factory=list)

    def values(self, column: int) -> Iterator[str]:
        """The cells of a column, without spaces around them."""
        return (row.cells[column].strip() for row in self.rows)


def read_table_file(path: Path, *, unnamed: bool = False) -> Table:
    """Reads a file of any of these forms; `unnamed` says that no line names the columns.

    Raises:
        UsageError: it is none of them, damaged, or without a row.
        ResnestError: it cannot be read, or Parquet without pyarrow.
    """
    if is_photo(path.name):
        raise UsageError(f"{path}: is a photo; give a folder of class folders, or a table of them.")
    begin = read_bytes(path, 16)
    if begin.startswith(b"PAR1"):
        table = _parquet(path)
    else:
        for mark, what in _OTHERS.items():
            if begin.startswith(mark):
                raise UsageError(f"{path}: is {what}, which is not read here. Save it as CSV.")
        text, notes, windows = decoded(_unpacked(read_bytes(path), path), str(path))
        json_ = text.lstrip()[:1] in {"{", "["}
        table = _json(text, path) if json_ else _csv(text, path, unnamed)
        table.windows = windows
        table.notes[:0] = notes
    if not table.odd:
        table.rows = [row for row in table.rows if any(cell.strip() for cell in row.cells)]
    return table


def _unpacked(data: bytes, path: Path) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: is a damaged gzip file: {error}.") from error


def _csv(text: str, path: Path, unnamed: bool) -> Table:
    separator = _SEP.match(text)
    body = text[separator.end() :] if separator else text
    # Lines keep their ends, of any kind: cells in quotes may have some.
    stream = io.StringIO(body, newline="")
    head = next((line for line in stream if line.strip()), "")
    skipped = body[: stream.tell() - len(head)] if head else ""
    before = _lines(text[: len(text) - len(body)]) + _lines(skipped)
    delimiter = separator[1] if separator else _delimiter(head)
    reader = csv.reader(
        chain([head], stream), strict=True, delimiter=delimiter, skipinitialspace=True
    )
    rows = [row for row in _csv_rows(reader, path, before) if any(c.strip() for c in row.cells)]
    if not rows:
        raise UsageError(f"{path}: is empty. It needs lines path,label[,split].")
    first = [cell.strip() for cell in rows[0].cells]
    if unnamed or any(is_photo(cell) for cell in first):
        table = Table([str(n) for n in range(1, len(first) + 1)], rows, named=False)
        table.notes.append(f"{path}: line {rows[0].number} names no columns; it is a photo's")
    else:
        while first and not first[-1] and len(first) > 2:
            first.pop()  # of columns that a spreadsheet left empty
        table = Table(first, rows[1:])
    for row in table.rows:
        _fit(row, table, path)
    return table


def _lines(text: str) -> int:
    return len(re.findall(r"\r\n|\r|\n", text))


def _delimiter(head: str) -> str:
    """Spreadsheets write semicolons in half of the world."""
    bare = _QUOTED.sub("", head)
    best = max(",;\t|", key=bare.count)
    if not bare.count(best) and _CAFFE.fullmatch(bare.strip()):
        return " "
    return best


def _csv_rows(reader: Any, path: Path, before: int) -> Iterator[Row]:
    start = before + 1
    try:
        for cells in reader:
            yield Row(start, cells)
            start = before + reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{path}: line {start} is not CSV: {error}.") from error


def _fit(row: Row, table: Table, path: Path) -> None:
    """Gives a row a cell for each column; empty ones too many go."""
    wanted, cells = len(table.columns), row.cells
    if wanted == 1:
        raise UsageError(
            f"{path}: has one column only, called {shown(table.columns)}. The first line names two "
            "or more, with commas, semicolons, tabs or bars between them: path,label."
        )
    if any(cell.strip() for cell in cells[wanted:]):
        raise UsageError(
            f"{path}: line {row.number} has {len(cells)} cells, but there are {wanted} columns: "
            f"{shown(table.columns)}. A name with a separator in it needs quotes around it."
        )
    del cells[wanted:]
    cells += [""] * (wanted - len(cells))


def is_photo(cell: str) -> bool:
    """Whether a text ends as names of photos do."""
    return cell[cell.rfind(".") :].lower() in EXTENSIONS if "." in cell else False


def shown(columns: Iterable[str]) -> str:
    """Names of columns, for a message."""
    names = [name or "(no name)" for name in columns]
    return one_line(", ".join(names[:20])) + (", ..." if len(names) > 20 else "")


def _json(text: str, path: Path) -> Table:
    """Records of JSON: an array of objects, or an object in each line."""
    if text.lstrip()[0] == "[":
        found = _parsed(text, f"{path}: is")
        numbered = list(enumerate(found, start=1))
        unit = "row"
    else:
        numbered, unit = list(_json_lines(text, path)), "line"
    columns: dict[str, None] = {}
    for number, record in numbered:
        if not isinstance(record, dict):
            raise UsageError(f"{path}: {unit} {number} is no JSON object. Write {_RECORDS}.")
        columns |= dict.fromkeys(record)
    if not columns:
        raise UsageError(f"{path}: has no record. Write {_RECORDS}.")
    odd = {
        name: "lists or objects"
        for _, record in numbered
        for name, value in record.items()
        if isinstance(value, dict | list)
    }
    no_photo = len(odd) == len(columns) or any(map(is_photo, columns))
    if no_photo and len(numbered) == 1 and unit == "line":
        raise _one_object(path)
    rows = [
        Row(number, [_text(record.get(name)) for name in columns]) for number, record in numbered
    ]
    return Table([name.strip() for name in columns], rows, unit, odd=odd)


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, _parsed(line, f"{path}: line {number} is")
            except UsageError:
                if isinstance(_whole(text), dict):
                    raise _one_object(path) from None
                raise


def _one_object(path: Path) -> UsageError:
    return UsageError(
        f"{path}: is one JSON object; a table has one for each photo. Write {_RECORDS}."
    )


def _whole(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parsed(text: str, what: str) -> Any:
    """Numbers stay the texts that they are."""
    try:
        return json.loads(text, parse_float=str, parse_int=str, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} not JSON: {one_line(str(error))}.") from error


def _text(value: Any) -> str:
    if value is None or isinstance(value, dict | list) or value != value:  # noqa: PLR0124 - NaN
        return ""
    return str(value)


def _parquet(path: Path) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ResnestError(
            f'{path}: Parquet needs pyarrow. Run: pip install "resnest-cli[parquet]"'
        ) from error
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            odd = {f.name: str(f.type) for f in schema if not _is_text(f.type, pa.types)}
            taken = [name for name in schema.names if name not in odd]
            columns = file.read(columns=taken).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: is damaged: {one_line(str(error))}") from error
    cells = zip(*(columns[name] for name in taken), strict=True)
    rows = [
        Row(number, [_text(value) for value in row] + [""] * len(odd))
        for number, row in enumerate(cells, start=1)
    ]
    return Table([*taken, *odd], rows, "row", odd=odd)


def _is_text(kind: Any, types: Any) -> bool:
    """Whether the values of a Parquet column have one text each."""
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        test(kind)
        for test in (
            types.is_string, types.is_large_string, types.is_integer, types.is_floating,
            types.is_boolean, types.is_decimal, types.is_null,
        )
    )  # fmt: skip
