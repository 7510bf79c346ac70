"""Entries -> .npy, .npz, .csv or .parquet, one after another: memory stays flat.

    .npy      (rows, ...): the rows alone
    .npz      features (rows, ...), and the inputs of the rows as UTF-8 bytes `paths` with `offsets`
              (rows + 1): path i is bytes(paths[offsets[i]:offsets[i + 1]])
    .csv      input,row,status,error,f0,f1,...: a line for every input
    .parquet  input, status, error, features (a list of fixed size, flattened; null where failed)

The same entries give the same bytes, however they were divided before.
"""

import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from resnest_cli.errors import ResnestError
from resnest_cli.features.lines import HEADER, encoded, formatted

if TYPE_CHECKING:
    from resnest_cli.inference.extraction import Dtype

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")

_CHUNK = 2**20
_GROUP_BYTES = 2**23  # of rows in a row group of Parquet
_NEVER = (1980, 1, 1, 0, 0, 0)  # the time of a ZIP's members: no two runs shall differ in it


class Entry(NamedTuple):
    """One input, with its row's bytes or its error."""

    name: str
    error: str | None
    row: bytes | None


@dataclass(frozen=True, slots=True)
class Matrix:
    """What is to be written: `rows` rows of this shape, out of `inputs` inputs."""

    rows: int
    inputs: int
    row_shape: tuple[int, ...]
    dtype: "Dtype"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return self.rows, *self.row_shape

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return prod(self.row_shape) * (2 if self.dtype == "float16" else 4)

    def bytes_in(self, suffix: str) -> int:
        """About how much room the file takes, rather too much than too little."""
        # With the comma: -0.13210486 is the usual kind of float32, -0.1321 of float16.
        per_value = {"float16": 9, "float32": 13}[self.dtype]
        if suffix == ".csv":
            return self.rows * prod(self.row_shape) * per_value
        return self.rows * self.row_bytes


def check_suffix(suffix: str) -> None:
    """Tells what cannot be written before the work begins.

    Raises:
        ResnestError: the library for this format is missing.
    """
    # Not imported: its threads would be in the way of the fork that starts the work.
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ResnestError('.parquet needs pyarrow. Run: pip install "resnest-cli[parquet]"')


def write(path: Path, entries: Iterator[Entry], matrix: Matrix) -> None:
    """Writes the file that the extension of `path` names; `entries` are all inputs, in order.

    Raises:
        OSError: the disk is full, or another failure.
    """
    writers: dict[str, Callable[[Path, Iterator[Entry], Matrix], None]] = {
        ".npy": _write_npy,
        ".npz": _write_npz,
        ".csv": _write_csv,
        ".parquet": _write_parquet,
    }
    writers[path.suffix](path, entries, matrix)


def with_lines(entries: Iterator[Entry], file: IO[bytes]) -> Iterator[Entry]:
    """Hands the entries on, and writes `feats.csv` on the way."""
    file.write(HEADER.encode())
    for entry, row in _numbered(entries):
        file.write(formatted(entry.name, row, entry.error))
        yield entry


def _numbered(entries: Iterator[Entry]) -> Iterator[tuple[Entry, int | None]]:
    row = 0
    for entry in entries:
        if entry.row is None:
            yield entry, None
        else:
            yield entry, row
            row += 1


def npy_header(file: IO[bytes], matrix: Matrix) -> None:
    """Writes what stands before the rows in a file of numpy's format, version 1.0."""
    _header(file, matrix.dtype, matrix.shape)


def _header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    import numpy as np

    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _write_npy(path: Path, entries: Iterator[Entry], matrix: Matrix) -> None:
    with path.open("wb", buffering=_CHUNK) as file:
        npy_header(file, matrix)
        for entry in entries:
            if entry.row is not None:
                file.write(entry.row)


def _write_npz(path: Path, entries: Iterator[Entry], matrix: Matrix) -> None:
    """The paths wait in two files beside until the rows, which come first, are written."""
    names, ends = (path.with_name(f"assembled.{what}") for what in ("paths", "offsets"))
    at = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with (
            _member(archive, "features.npy") as rows,
            names.open("wb", buffering=_CHUNK) as paths,
            ends.open("wb", buffering=_CHUNK) as offsets,
        ):
            npy_header(rows, matrix)
            offsets.write(at.to_bytes(8, "little"))
            for entry in entries:
                if entry.row is not None:
                    rows.write(entry.row)
                    at += paths.write(encoded(entry.name))
                    offsets.write(at.to_bytes(8, "little"))
        _copied(archive, "paths.npy", names, "uint8", (at,))
        _copied(archive, "offsets.npy", ends, "int64", (matrix.rows + 1,))
    names.unlink()
    ends.unlink()


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(name, _NEVER), "w", force_zip64=True)


def _copied(
    archive: zipfile.ZipFile, name: str, source: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    with _member(archive, name) as member, source.open("rb") as file:
        _header(member, dtype, shape)
        shutil.copyfileobj(file, member, _CHUNK)


def _write_csv(path: Path, entries: Iterator[Entry], matrix: Matrix) -> None:
    import numpy as np

    columns = prod(matrix.row_shape)
    with path.open("wb", buffering=_CHUNK) as file:
        titles = "".join(f",f{index}" for index in range(columns))
        file.write(f"{HEADER.rstrip()}{titles}\n".encode())
        nothing = b"," * columns + b"\n"
        for entry, row in _numbered(entries):
            file.write(formatted(entry.name, row, entry.error)[:-1])
            if entry.row is None:
                file.write(nothing)
            else:
                # The fewest digits that give back the same number.
                values = np.frombuffer(entry.row, matrix.dtype).astype("U").tolist()
                file.write(f",{','.join(values)}\n".encode())


def _write_parquet(path: Path, entries: Iterator[Entry], matrix: Matrix) -> None:
    """Row groups of a fixed number of inputs; names that are no UTF-8 have those bytes escaped."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = parquet_schema(pa, matrix)
    count = max(1, min(4096, _GROUP_BYTES // matrix.row_bytes))
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        while group := list(islice(entries, count)):
            writer.write_table(parquet_table(pa, group, matrix, schema), row_group_size=count)


def parquet_schema(pa: Any, matrix: Matrix, column: str = "features") -> Any:
    """The columns of a Parquet file; the rows stand in `column`. `pa` is the module pyarrow."""
    value = pa.float16() if matrix.dtype == "float16" else pa.float32()
    return pa.schema(
        [
            pa.field("input", pa.string(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string()),
            pa.field(column, pa.list_(value, prod(matrix.row_shape))),
        ],
        metadata={"row_shape": str(list(matrix.row_shape))},
    )


def parquet_table(pa: Any, group: list[Entry], matrix: Matrix, schema: Any) -> Any:
    """Entries as a table of this schema."""
    columns = [
        pa.array([encoded(e.name).decode("utf-8", "backslashreplace") for e in group]),
        pa.array(["ok" if e.error is None else "error" for e in group]),
        pa.array([e.error for e in group], pa.string()),
        _lists(pa, group, matrix, schema[3].type.value_type, prod(matrix.row_shape)),
    ]
    return pa.table(columns, schema=schema)


def _lists(pa: Any, group: list[Entry], matrix: Matrix, value: Any, width: int) -> Any:
    """The rows as a column of lists of fixed size, null where there is none."""
    empty = bytes(matrix.row_bytes)
    data = b"".join(entry.row if entry.row is not None else empty for entry in group)
    values = pa.Array.from_buffers(value, len(group) * width, [None, pa.py_buffer(data)])
    missing = pa.array([entry.row is None for entry in group], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(values, width, mask=missing)
