"""A finished output -> its entries, in order, one at a time."""

import csv
import json
import zipfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

from resnest_cli.errors import ResnestError
from resnest_cli.features.formats import Entry, Matrix
from resnest_cli.features.lines import read_lines


def read_info(target: Path) -> dict[str, Any]:
    """What `feats.json` says of a finished output.

    Raises:
        ResnestError: it is missing, or no file of this program.
    """
    path = target.with_suffix(".json")
    try:
        info: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if "." + info["format"] != target.suffix.lower() or not target.exists():
            raise ResnestError(f"{path} does not belong to {target}, or that is not finished.")
        matrix_of(info)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResnestError(f"{path}, which describes {target}, cannot be read: {error}.") from error
    return info


def matrix_of(info: dict[str, Any]) -> Matrix:
    """What an output consists of, as `feats.json` tells it."""
    counts, extraction = info["counts"], info["extraction"]
    shape = tuple(extraction["row_shape"])
    return Matrix(counts["rows"], counts["inputs"], shape, extraction["dtype"])


def identity_of(info: dict[str, Any]) -> dict[str, Any]:
    """The part of `feats.json` that was known when the run began."""
    return {name: value for name, value in info.items() if name not in {"list", "counts"}}


def read_entries(target: Path, info: dict[str, Any]) -> Generator[Entry, None, None]:
    """All inputs of a finished output.

    Raises:
        ResnestError: a file is damaged, or they do not fit together.
    """
    matrix = matrix_of(info)
    count = 0
    try:
        rows = _rows(target, matrix)
        for line in read_lines(target.with_suffix(".csv"), header=True):
            count += 1
            row = None
            if line.error is None:
                row = next(rows, b"")
                _check(len(row) == matrix.row_bytes, f"the row of {line.name!r} is missing")
            yield Entry(line.name, line.error, row)
        _check(count == matrix.inputs, f"{count} lines, but {matrix.inputs} inputs")
        _check(next(rows, None) is None, "there are more rows than lines that have one")
    except (OSError, ValueError, KeyError, csv.Error, zipfile.BadZipFile) as error:
        raise ResnestError(f"{target} and the files beside it do not fit: {error}.") from error


def _check(fits: bool, otherwise: str) -> None:
    if not fits:
        raise ValueError(otherwise)


def _rows(target: Path, matrix: Matrix) -> Iterator[bytes]:
    suffix = target.suffix.lower()
    if suffix == ".npy":
        with target.open("rb", buffering=2**20) as file:
            yield from _npy_rows(file, matrix)
    elif suffix == ".npz":
        with zipfile.ZipFile(target) as archive, archive.open("features.npy") as member:
            yield from _npy_rows(member, matrix)
    elif suffix == ".csv":
        yield from _csv_rows(target, matrix)
    else:
        yield from _parquet_rows(target, matrix)


def _npy_rows(file: IO[bytes], matrix: Matrix) -> Iterator[bytes]:
    import numpy as np

    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not a file of this program")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if shape != matrix.shape or dtype != np.dtype(matrix.dtype):
        raise ValueError(f"{dtype} {shape} instead of {matrix.dtype} {matrix.shape}")
    while row := file.read(matrix.row_bytes):
        yield row


def _csv_rows(target: Path, matrix: Matrix) -> Iterator[bytes]:
    import numpy as np

    with target.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = csv.reader(file, strict=True)
        next(lines, None)
        for cells in lines:
            if cells[2] == "ok":
                yield np.array(cells[4:], matrix.dtype).tobytes()


def _parquet_rows(target: Path, matrix: Matrix) -> Iterator[bytes]:
    import numpy as np
    import pyarrow.parquet as pq

    with pq.ParquetFile(target) as file:
        for batch in file.iter_batches(batch_size=1024, columns=["features"]):
            values = batch.column(0).flatten().to_numpy(zero_copy_only=False)  # without the nulls
            whole = np.ascontiguousarray(values, matrix.dtype).tobytes()
            for at in range(0, len(whole), matrix.row_bytes):
                yield whole[at : at + matrix.row_bytes]
