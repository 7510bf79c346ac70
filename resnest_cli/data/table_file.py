"""A file with a row for each photo -> columns and rows of text. What they mean, `table` decides.

CSV with commas, semicolons, tabs or bars (`sep=;` in the first line is Excel's), JSON lines, a JSON
array of objects, or Parquet; the content decides, not the name. Text may be compressed with gzip.
Numbers are never computed with: 007 stays 007.

A byte order mark decides how text is encoded: UTF-8, UTF-16 (Excel's "Unicode text"), UTF-32.
Without one it is UTF-8; UTF-16 where every second byte is zero; and a line that is not UTF-8 is
read as Windows-1252, which older programs of western Europe and America write. A note says what was
guessed.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from resnest_cli.errors import UsageError, need
from resnest_cli.files import reading
from resnest_cli.images.sources import is_photo
from resnest_cli.text import count, one_line

WINDOWS = "cp1252"
# The marks of UTF-32 begin as those of UTF-16 do: longer ones first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 4096  # bytes
_SHOWN = 60  # characters
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


class Text(NamedTuple):
    """A file's text; what had to be guessed; whether lines of it were read as Windows-1252."""

    text: str
    notes: list[str]
    windows: bool = False


class Row(NamedTuple):
    """A row of text, a cell for each column; `number` is its line, or its row in Parquet."""

    number: int
    cells: list[str]


@dataclass(slots=True)
class Table:
    """Columns and rows of a file that are not empty, and what the user should know of them.

    `named` is False where the first line is a photo's: then the columns are called 1, 2, ...
    `odd` says what columns hold whose cells are no text, such as lists. `windows`: see `Text`.
    """

    file: Path
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
    """Reads a file of any of these forms; `unnamed` says that no line names the columns."""
    if is_photo(path.name):
        raise UsageError(f"{path}: is a photo; give a folder of class folders, or a table of them.")
    with reading(path), path.open("rb") as file:
        begin = file.read(16)
    if begin.startswith(b"PAR1"):
        table = _parquet(path)
    else:
        if what := next((what for mark, what in _OTHERS.items() if begin.startswith(mark)), None):
            raise UsageError(
                f"{path}: is {what}, which is not read here. Save a table as CSV; unpack photos."
            )
        with reading(path):
            data = path.read_bytes()
        if begin.startswith(b"\x1f\x8b"):
            with reading(f"{path}, a gzip file", UsageError, damage=(EOFError, zlib.error)):
                data = gzip.decompress(data)
        text, notes, windows = decoded(data, str(path))
        is_json = text.lstrip()[:1] in {"{", "["}
        table = _json(text, path) if is_json else _csv(text, path, unnamed)
        table.windows = windows
        table.notes[:0] = notes
    if not table.odd:
        table.rows = [row for row in table.rows if any(cell.strip() for cell in row.cells)]
    return table


def decoded(data: bytes, name: str) -> Text:
    """The text of a file's bytes; `name` is the file's, for messages."""
    found = _decoded(data, name)
    nul = found.text.find("\0")
    if nul >= 0:
        line = found.text.count("\n", 0, nul) + 1
        raise UsageError(
            f"{name}: has a NUL byte in line {line}: it is damaged, or no text at all. Save it "
            "again, as CSV in UTF-8."
        )
    return found


def _decoded(data: bytes, name: str) -> Text:
    marks = [(mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)]
    guesses = (("utf-16-le", data[1:_SAMPLE:2]), ("utf-16-be", data[:_SAMPLE:2]))
    wide = [one for one, zeros in guesses if len(data) > 3 and zeros.count(0) > 0.6 * len(zeros)]
    mark, encoding = marks[0] if marks else (b"", wide[0] if wide else "")
    if not encoding:
        return _by_lines(data, name)
    try:
        text = data.removeprefix(mark).decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name}: is not whole: byte {error.start} cannot be read as {encoding.upper()}. Save "
            "it again, as UTF-8."
        ) from error
    return Text(text, [] if mark else [f"{name}: has no mark; read as UTF-16"])


def _by_lines(data: bytes, name: str) -> Text:
    """UTF-8, lines that are none as Windows-1252: one such line makes no others unreadable."""
    with suppress(UnicodeDecodeError):
        return Text(data.decode("utf-8"), [])
    lines, odd = [], []
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            try:
                lines.append(line.decode(WINDOWS))
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{name}: line {number} is neither UTF-8 nor Windows-1252. Save it as UTF-8: "
                    "in a spreadsheet as CSV UTF-8, or with iconv -f ENCODING -t UTF-8."
                ) from error
            odd.append(number)
    note = (
        f"{name}: {count(len(odd), 'line')} not in UTF-8, read as Windows-1252, line {odd[0]} "
        f"first: {one_line(lines[odd[0] - 1])[:_SHOWN]} (if that is wrong, save the file as UTF-8)"
    )
    return Text("".join(lines), [note], windows=True)


def _csv(text: str, path: Path, unnamed: bool) -> Table:
    separator = _SEP.match(text)
    body = text[separator.end() :] if separator else text
    # Lines keep their ends, of any kind: cells in quotes may have some.
    stream = io.StringIO(body, newline="")
    head = next((line for line in stream if line.strip()), "")
    skipped = text[: len(text) - len(body) + stream.tell() - len(head)]
    before = len(re.findall(r"\r\n|\r|\n", skipped))
    delimiter = separator[1] if separator else _delimiter(head)
    lines = chain([head], stream)
    form = {"delimiter": delimiter, "skipinitialspace": True}
    rows = list(csv_lines(lines, path, before=before, **form))
    if not rows:
        raise UsageError(f"{path}: is empty. It needs a line that names its columns.")
    first = [cell.strip() for cell in rows[0].cells]
    if unnamed or any(map(is_photo, first)):
        table = Table(path, [str(n) for n in range(1, len(first) + 1)], rows, named=False)
        table.notes.append(f"{path}: line {rows[0].number} names no columns; it is a photo's")
    else:
        while first and not first[-1] and len(first) > 2:
            first.pop()  # of columns that a spreadsheet left empty
        table = Table(path, first, rows[1:])
    for row in table.rows:
        _fit(row, table)
    return table


def _delimiter(head: str) -> str:
    """Spreadsheets write semicolons in half of the world."""
    bare = _QUOTED.sub("", head)
    best = max(",;\t|", key=bare.count)
    return " " if not bare.count(best) and _CAFFE.fullmatch(bare.strip()) else best


def csv_lines(lines: Iterable[str], path: object, *, before: int = 0, **form: Any) -> Iterator[Row]:
    """Rows that are not empty, each with its first line; `form` is as of `csv.reader`."""
    reader = csv.reader(lines, strict=True, **form)
    start = before + 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield Row(start, cells)
            start = before + reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{path}: line {start} is not CSV: {error}.") from error


def _fit(row: Row, table: Table) -> None:
    """Makes a row as long as the columns."""
    wanted, cells = len(table.columns), row.cells
    if wanted == 1:
        raise UsageError(
            f"{table.file}: has one column only, called {shown(table.columns)}. The first line "
            "names two or more, with commas, semicolons, tabs or bars between them."
        )
    if any(cell.strip() for cell in cells[wanted:]):
        raise UsageError(
            f"{table.file}: line {row.number} has {len(cells)} cells, but there are {wanted} "
            f"columns: {shown(table.columns)}. A name with a separator in it needs quotes around "
            "it."
        )
    del cells[wanted:]
    cells += [""] * (wanted - len(cells))


def shown(columns: Iterable[str]) -> str:
    """Names of columns, for a message."""
    names = [name or "(no name)" for name in columns]
    return one_line(", ".join(names[:20])) + (", ..." if len(names) > 20 else "")


def _json(text: str, path: Path) -> Table:
    """Records of JSON: an array of objects, or an object in each line."""
    if text.lstrip()[0] == "[":
        unit, numbered = "row", list(enumerate(_parsed(text, f"{path}: is"), start=1))
    else:
        unit, numbered = "line", list(_json_lines(text, path))
    columns: dict[str, None] = {}
    odd: dict[str, str] = {}
    for number, record in numbered:
        if not isinstance(record, dict):
            raise UsageError(f"{path}: {unit} {number} is no JSON object. Write {_RECORDS}.")
        columns |= dict.fromkeys(record)
        nested = (name for name, value in record.items() if isinstance(value, dict | list))
        odd |= dict.fromkeys(nested, "lists or objects")
    if not columns:
        raise UsageError(f"{path}: has no record. Write {_RECORDS}.")
    no_photo = len(odd) == len(columns) or any(map(is_photo, columns))
    if no_photo and len(numbered) == 1 and unit == "line":
        raise _one_object(path)
    rows = [Row(n, [_text(record.get(name)) for name in columns]) for n, record in numbered]
    return Table(path, [name.strip() for name in columns], rows, unit, odd=odd)


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                yield number, _parsed(line, f"{path}: line {number} is")
        except UsageError:
            with suppress(ValueError, RecursionError):
                if isinstance(json.loads(text), dict):
                    raise _one_object(path) from None
            raise


def _one_object(path: Path) -> UsageError:
    return UsageError(
        f"{path}: is one JSON object; a table has one for each photo. Write {_RECORDS}."
    )


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
    need("pyarrow", str(path))
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path, UsageError, damage=(pa.ArrowException,)), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        odd = {f.name: str(f.type) for f in schema if not _is_text(f.type, pa.types)}
        taken = [name for name in schema.names if name not in odd]
        columns = file.read(columns=taken).to_pydict()
    cells = zip(*(columns[name] for name in taken), strict=True)
    rows = [
        Row(number, [_text(value) for value in row] + [""] * len(odd))
        for number, row in enumerate(cells, start=1)
    ]
    return Table(path, [*taken, *odd], rows, "row", odd=odd)


def _is_text(kind: Any, types: Any) -> bool:
    """Whether the values of a Parquet column have one text each."""
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(
        test(kind)
        for test in (
            types.is_string, types.is_large_string, types.is_integer, types.is_floating,
            types.is_boolean, types.is_decimal, types.is_null,
        )
    )  # fmt: skip
