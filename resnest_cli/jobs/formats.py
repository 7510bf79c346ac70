"""Entries -> .npy, .npz, .csv or .parquet and back, one after another: memory stays flat.

    .npy      (rows, ...): the rows alone
    .npz      features (rows, ...), and the inputs of the rows as UTF-8 bytes `paths` with `offsets`
              (rows + 1): path i is bytes(paths[offsets[i]:offsets[i + 1]])
    .csv      input,row,status,error,f0,f1,...: a line for every input
    .parquet  input, status, error, features (a list of fixed size, flattened; null where failed)

The same entries give the same bytes, however they were divided before. Beside all of them but .csv
stands `feats.csv`, with the lines `input,row,status,error`; `row` is empty where the input failed.
It is UTF-8; a name that is no text keeps its own bytes; see `text.csv_row` for commas and formulas.
Columns of logits and probabilities bear the names of their classes instead of f0, f1, ...

`feats.stat` has 16 bytes for every input: the size of its file and the time of its modification in
ns, int64 little-endian. Both are -1 where there is no file, such as of an address; the size alone,
where only that it was not modified after that time is known: an earlier version made the row.

Names that are no UTF-8 have those bytes escaped, as everywhere in Parquet.
"""

import csv
import json
import shutil
import zipfile
from array import array
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from resnest_cli.errors import ResnestError, reason
from resnest_cli.jobs.job import Item
from resnest_cli.jobs.listing import NO_STAT, STAT, STAT_BYTES, encoded, escaped
from resnest_cli.text import csv_row, read_csv_rows

if TYPE_CHECKING:
    from resnest_cli.inference.extraction import Dtype

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
HEADER = "input,row,status,error\n"

_CHUNK = 2**20
_GROUP_BYTES = 2**23  # of rows in a row group of Parquet
_NEVER = (1980, 1, 1, 0, 0, 0)  # the time of a ZIP's members: no two runs shall differ in it


@dataclass(frozen=True, slots=True)
class Matrix:
    """What is to be written: `rows` rows of this shape, out of `inputs` inputs."""

    rows: int
    inputs: int
    row_shape: tuple[int, ...]
    dtype: "Dtype"
    class_names: tuple[str, ...] = ()  # of logits and probabilities

    @property
    def titles(self) -> list[str]:
        """Of the columns of a .csv; a class whose name stands twice has its index behind it."""
        names = Counter(self.class_names)
        if len(self.class_names) != self.columns:  # an output of an earlier version
            return [f"f{index}" for index in range(self.columns)]
        return [n if names[n] == 1 else f"{n} ({i})" for i, n in enumerate(self.class_names)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return self.rows, *self.row_shape

    @property
    def columns(self) -> int:
        """Numbers in a row."""
        return prod(self.row_shape)

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return self.columns * (2 if self.dtype == "float16" else 4)

    def bytes_in(self, suffix: str) -> int:
        """About how much room the file takes, rather too much than too little."""
        # With the comma: -0.13210486 is the usual kind of float32, -0.1321 of float16.
        per_value = {"float16": 9, "float32": 13}[self.dtype]
        return self.rows * (self.columns * per_value if suffix == ".csv" else self.row_bytes)


def matrix_of(info: dict[str, Any]) -> Matrix:
    """The matrix that `feats.json` describes."""
    counts, extraction = info["counts"], info["extraction"]
    shape = tuple(extraction["row_shape"])
    names = tuple(info.get("class_names", ()))
    return Matrix(counts["rows"], counts["inputs"], shape, extraction["dtype"], names)


def formatted(name: str, row: int | None, error: str | None) -> bytes:
    """A line of `feats.csv`, or several where the name has newlines."""
    return encoded(csv_row((name, row, "ok" if error is None else "error", error)))


def read_lines(path: Path) -> Iterator[Item]:
    """The inputs, without rows, of `feats.csv`."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield from islice(items_of(file), 1, None)


def items_of(lines: Iterable[str]) -> Iterator[Item]:
    """The inputs, without rows, of what `formatted` gave."""
    for cells in read_csv_rows(lines):
        name, _, status, error = cells[:4]
        yield Item(name, error if status == "error" else None, None)


def write(path: Path, entries: Iterator[Item], matrix: Matrix) -> None:
    """Writes the file that the extension of `path` names; `entries` are all inputs, in order."""
    writers = {".npy": _write_npy, ".npz": _write_npz, ".csv": _write_csv}
    writers.get(path.suffix, _write_parquet)(path, entries, matrix)


def with_files(
    entries: Iterator[Item], lines: IO[bytes] | None, stats: IO[bytes], row: int = 0
) -> Iterator[Item]:
    """Hands the entries on, and writes `feats.csv` and `feats.stat` on the way."""
    for entry in entries:
        if lines is not None:
            lines.write(formatted(entry.name, row if entry.error is None else None, entry.error))
        stats.write(entry.stat or NO_STAT)
        row += entry.error is None
        yield entry


def npy_header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    """Writes what stands before the rows in a file of numpy's format, version 1.0."""
    import numpy as np

    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _write_npy(path: Path, entries: Iterator[Item], matrix: Matrix) -> None:
    with path.open("wb", buffering=_CHUNK) as file:
        npy_header(file, matrix.dtype, matrix.shape)
        for entry in entries:
            if entry.row is not None:
                file.write(entry.row)


def _write_npz(path: Path, entries: Iterator[Item], matrix: Matrix) -> None:
    """The paths wait in two files beside until the rows, which come first, are written."""
    names, ends = (path.with_name(f"assembled.{what}") for what in ("paths", "offsets"))

    def member(name: str) -> IO[bytes]:
        return archive.open(zipfile.ZipInfo(name, _NEVER), "w", force_zip64=True)

    at = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with (
            member("features.npy") as rows,
            names.open("wb", buffering=_CHUNK) as paths,
            ends.open("wb", buffering=_CHUNK) as offsets,
        ):
            npy_header(rows, matrix.dtype, matrix.shape)
            offsets.write(at.to_bytes(8, "little"))
            for entry in entries:
                if entry.row is not None:
                    rows.write(entry.row)
                    at += paths.write(encoded(entry.name))
                    offsets.write(at.to_bytes(8, "little"))
        for name, source, dtype, length in (
            ("paths.npy", names, "uint8", at),
            ("offsets.npy", ends, "int64", matrix.rows + 1),
        ):
            with member(name) as copy, source.open("rb") as file:
                npy_header(copy, dtype, (length,))
                shutil.copyfileobj(file, copy, _CHUNK)
    names.unlink()
    ends.unlink()


def _write_csv(path: Path, entries: Iterator[Item], matrix: Matrix) -> None:
    import numpy as np

    with path.open("wb", buffering=_CHUNK) as file:
        file.write(f"{HEADER.rstrip()},".encode() + encoded(csv_row(matrix.titles)))
        nothing = b"," * matrix.columns + b"\n"
        row = 0
        for entry in entries:
            if entry.row is None:
                file.write(formatted(entry.name, None, entry.error)[:-1] + nothing)
            else:
                file.write(formatted(entry.name, row, None)[:-1])
                row += 1
                # The fewest digits that give back the same number.
                values = np.frombuffer(entry.row, matrix.dtype).astype("U").tolist()
                file.write(f",{','.join(values)}\n".encode())


def _write_parquet(path: Path, entries: Iterator[Item], matrix: Matrix) -> None:
    """Row groups of a fixed number of inputs."""
    import pyarrow.parquet as pq

    schema = parquet_schema(matrix, "features")
    count = max(1, min(4096, _GROUP_BYTES // matrix.row_bytes))
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        while group := list(islice(entries, count)):
            writer.write_table(parquet_table(group, matrix, schema), row_group_size=count)


def parquet_schema(matrix: Matrix, column: str) -> Any:
    """The columns of a Parquet file; the rows stand in `column`."""
    import pyarrow as pa

    value = pa.float16() if matrix.dtype == "float16" else pa.float32()
    return pa.schema(
        [
            pa.field("input", pa.string(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string()),
            pa.field(column, pa.list_(value, matrix.columns)),
        ],
        metadata={"row_shape": str(list(matrix.row_shape))},
    )


def parquet_table(group: list[Item], matrix: Matrix, schema: Any) -> Any:
    """Entries as a table; the rows are lists of fixed size, null where there is none."""
    import pyarrow as pa

    empty = bytes(matrix.row_bytes)
    data = b"".join(empty if entry.row is None else entry.row for entry in group)
    buffers = [None, pa.py_buffer(data)]
    value = schema[3].type.value_type
    values = pa.Array.from_buffers(value, len(group) * matrix.columns, buffers)
    missing = pa.array([entry.row is None for entry in group], pa.bool_())
    columns = [
        pa.array([escaped(entry.name) for entry in group]),
        pa.array(["ok" if entry.error is None else "error" for entry in group]),
        pa.array([entry.error for entry in group], pa.string()),
        pa.FixedSizeListArray.from_arrays(values, matrix.columns, mask=missing),
    ]
    return pa.table(columns, schema=schema)


def read_info(target: Path) -> dict[str, Any]:
    """What `feats.json` says of a finished output."""
    path = target.with_suffix(".json")
    try:
        info: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if "." + info["format"] != target.suffix.lower() or not target.exists():
            raise ResnestError(f"{path} does not belong to {target}, or that is not finished.")
        matrix_of(info)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not target.exists():
            raise ResnestError(f"{target}: there is no such file.") from error
        why = reason(error) if isinstance(error, OSError) else error
        raise ResnestError(f"{path}, which describes {target}, cannot be read: {why}.") from error
    return info


@contextmanager
def _fitting(target: Path) -> Iterator[None]:
    """What is damaged or missing inside becomes a ResnestError."""
    try:
        yield
    except (OSError, ValueError, KeyError, IndexError, csv.Error, zipfile.BadZipFile) as error:
        raise ResnestError(f"{target} and the files beside it do not fit: {error}.") from error


def read_entries(
    target: Path, info: dict[str, Any], *, rows: bool = True
) -> Generator[Item, None, None]:
    """All inputs of a finished output, with their rows if wanted."""
    matrix, count, with_row = matrix_of(info), 0, 0
    with _fitting(target):
        stats = read_stats(target, matrix.inputs)
        found = _rows(target, matrix) if rows else iter(())
        for line in read_lines(target.with_suffix(".csv")):
            count, row = count + 1, None
            if line.error is None:
                with_row += 1
                if rows:
                    row = next(found, b"")
                    _check(len(row) == matrix.row_bytes, f"the row of {line.name!r} is missing")
            yield line._replace(row=row, stat=next(stats, NO_STAT))
        _check(count == matrix.inputs, f"{count} lines, but {matrix.inputs} inputs")
        _check(with_row == matrix.rows, f"{with_row} lines with a row, but {matrix.rows} rows")
        _check(next(found, None) is None, "there are more rows than lines that have one")


class EntriesByNumber:
    """The inputs of a finished output in any order; a context manager. 16 bytes of memory for each.

    Rows are read from .npy itself, those of other formats from `copy`, to which they are copied
    one behind the other; without `copy` there are none.
    """

    def __init__(self, target: Path, info: dict[str, Any], copy: Path | None) -> None:
        self._target, self._matrix, self._start = target, matrix_of(info), 0
        self._files, self._rows = ExitStack(), None
        self._row_numbers, self._line_starts = array("q"), array("q")
        copies = None if target.suffix == ".npy" else copy
        with ExitStack() as stack:
            file = stack.enter_context(copies.open("wb", buffering=_CHUNK)) if copies else None
            row = 0
            for entry in read_entries(target, info, rows=file is not None):
                self._row_numbers.append(row)
                row += entry.error is None
                if file is not None:
                    file.write(entry.row or b"")
        with _fitting(target):
            self._lines = self._files.enter_context(target.with_suffix(".csv").open("rb"))
            at = quotes = 0
            for line in self._lines:
                if quotes % 2 == 0:  # else it goes on a cell
                    self._line_starts.append(at)
                at, quotes = at + len(line), quotes + line.count(b'"')
            self._line_starts.append(at)
            if copy is not None:
                self._rows = self._files.enter_context((copies or target).open("rb"))
                if copies is None:
                    _check_npy(self._rows, self._matrix)
                    self._start = self._rows.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def __getitem__(self, number: int) -> Item:
        with _fitting(self._target):
            begin, end = self._line_starts[number + 1 : number + 3]  # behind the header
            self._lines.seek(begin)
            text = self._lines.read(end - begin).decode("utf-8", "surrogateescape")
            (entry,) = items_of([text])
            if self._rows is None or entry.error is not None:
                return entry
            size = self._matrix.row_bytes
            self._rows.seek(self._start + self._row_numbers[number] * size)
            row = self._rows.read(size)
            _check(len(row) == size, f"the row of {entry.name!r} is missing")
            return entry._replace(row=row)


def read_stats(target: Path, inputs: int) -> Iterator[bytes]:
    """Size and time of each input of a finished output, as in `feats.stat`."""
    path = target.with_suffix(".stat")
    if not path.exists() or path.stat().st_size == 0:  # an earlier version made it
        written = target.with_suffix(".json").stat().st_mtime_ns
        yield from repeat(STAT.pack(-1, written), inputs)
        return
    if path.stat().st_size != inputs * STAT_BYTES:
        raise ResnestError(f"{path} does not belong to {target}: remove it, to go on without.")
    with path.open("rb", buffering=_CHUNK) as file:
        while stat := file.read(STAT_BYTES):
            yield stat


def _check(fits: bool, otherwise: str) -> None:
    if not fits:
        raise ValueError(otherwise)


def _rows(target: Path, matrix: Matrix) -> Iterator[bytes]:
    import numpy as np

    suffix = target.suffix.lower()
    if suffix == ".npy":
        with target.open("rb", buffering=_CHUNK) as file:
            yield from _npy_rows(file, matrix)
    elif suffix == ".npz":
        with zipfile.ZipFile(target) as archive, archive.open("features.npy") as member:
            yield from _npy_rows(member, matrix)
    elif suffix == ".csv":
        with target.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
            for cells in islice(csv.reader(text, strict=True), 1, None):
                if cells[2] == "ok":
                    yield np.array(cells[4:], matrix.dtype).tobytes()
    else:
        import pyarrow.parquet as pq

        with pq.ParquetFile(target) as table:
            for batch in table.iter_batches(batch_size=1024, columns=["features"]):
                values = batch.column(0).flatten().to_numpy(zero_copy_only=False)  # without nulls
                whole = np.ascontiguousarray(values, matrix.dtype).tobytes()
                for at in range(0, len(whole), matrix.row_bytes):
                    yield whole[at : at + matrix.row_bytes]


def _npy_rows(file: IO[bytes], matrix: Matrix) -> Iterator[bytes]:
    _check_npy(file, matrix)
    while row := file.read(matrix.row_bytes):
        yield row


def _check_npy(file: IO[bytes], matrix: Matrix) -> None:
    """Reads what stands before the rows."""
    import numpy as np

    _check(np.lib.format.read_magic(file) == (1, 0), "not a file of this program")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    _check(
        shape == matrix.shape and dtype == np.dtype(matrix.dtype),
        f"{dtype} {shape} instead of {matrix.dtype} {matrix.shape}",
    )
