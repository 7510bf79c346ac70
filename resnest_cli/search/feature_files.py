"""What `resnest features` wrote -> mapped rows, the names of their photos, and the record.

    .npy                     mapped as it lies
    .npz                     mapped inside of the archive, where nothing is compressed
    .csv, .parquet, a folder of Parquet parts (`--runner ray`)
                             the rows are copied once, to a temporary file, and that is mapped

The record is `feats.json`, or `_summary.json` of a folder. Inputs that failed have no row.
"""

import csv
import json
import os
import tempfile
import zipfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import reading, writing
from resnest_cli.jobs.filesystems import names_in, opened, read
from resnest_cli.jobs.formats import SUFFIXES, Matrix, matrix_of, read_entries, read_info
from resnest_cli.jobs.job import Item
from resnest_cli.paths import is_address
from resnest_cli.text import one_line, read_csv_rows

_AGAIN = "Make the features again with `resnest features`."
_CHUNK = 2**20
_LOCAL_HEADER = 30  # bytes of a ZIP's member before its name; the lengths of that and more at 26


class Names(Sequence[str]):
    """The names of the photos, by row; a byte a character and 8 bytes for each in memory."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("q", [0])

    def append(self, name: str) -> None:
        """The name of the next row."""
        self._text += name.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        """The name of a row, or of several."""
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        begin, end = self._ends[row : row + 2]
        return self._text[begin:end].decode("utf-8", "surrogatepass")


class Stored(NamedTuple):
    """An output: its place, its record, rows (N, columns) in its dtype, mapped, and their names."""

    place: str
    record: dict[str, Any]
    rows: NDArray[Any]
    names: Names
    failed: dict[str, str]  # inputs without a row, with their errors; some of them


_MOST_FAILED = 100_000  # inputs that are remembered


def read_features(place: str | os.PathLike[str]) -> Stored:
    """Opens an output of `resnest features`.

    Raises:
        UsageError: it is no such output, is not finished, or does not hold features.
        ResnestError: it is damaged, or the temporary file cannot be written.
    """
    place = os.fspath(place)
    remote = is_address(place)
    if remote or os.path.isdir(place):  # noqa: PTH112 - keeps odd bytes
        record = _record_of_folder(place)
        matrix = _matrix(place, record)
        return _copied(place, record, matrix, _entries_of_folder(place, matrix))
    target = Path(place)
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{place}: no output of `resnest features`: that is {', '.join(SUFFIXES)}, or a folder."
        )
    record = _record_of_file(target)
    matrix = _matrix(place, record)
    suffix = target.suffix.lower()
    if suffix not in {".npy", ".npz"}:
        return _copied(place, record, matrix, read_entries(target, record))
    with reading(place, damage=(ValueError, KeyError, zipfile.BadZipFile, EOFError), then=_AGAIN):
        rows = _mapped(target, matrix)
    return Stored(place, record, rows, *_named(target, matrix))


def _record_of_file(target: Path) -> dict[str, Any]:
    record = target.with_suffix(".json")
    if not target.exists():
        if (beside := target.with_name(target.name + ".parts")).exists():
            raise UsageError(
                f"{target} is not finished: {beside} holds an unfinished run. Finish it with "
                "`resnest features --resume`."
            )
        raise ResnestError(f"{target}: cannot be read: there is no such file.")
    if not record.exists():
        raise UsageError(
            f"{target} has no record {record.name} beside it, so nobody knows which model made it. "
            "Move it there, or make the features again with `resnest features`."
        )
    return read_info(target)


def _record_of_folder(place: str) -> dict[str, Any]:
    system, folder = opened(place)
    path = f"{place.rstrip('/')}/_summary.json"
    with reading(path):
        data = read(system, f"{folder.rstrip('/')}/_summary.json")
        begun = data is None and "_manifest.json" in names_in(system, folder)
    if begun:
        raise UsageError(
            f"{place} is not finished: finish it with `resnest features --runner ray --resume`."
        )
    if data is None:
        raise UsageError(
            f"{place} has no record _summary.json: it is no folder that `resnest features "
            "--runner ray` made. To search with photos of a folder, name it behind FEATURES."
        )
    with reading(path, damage=(ValueError,)):
        record = json.loads(data)
    return record if isinstance(record, dict) else {}


def _matrix(place: str, record: dict[str, Any]) -> Matrix:
    """The matrix that a record describes, if it is one of features."""
    if "ranking" in record:
        raise UsageError(f"{place} holds predictions: search needs what `resnest features` writes.")
    try:
        matrix = matrix_of(record)
        head, _ = record["extraction"]["head"], (record["model"], record["weights_sha256"])
    except (KeyError, TypeError) as error:
        raise ResnestError(
            f"the record of {place} is damaged: {one_line(str(error))} is missing. {_AGAIN}"
        ) from error
    if head:
        raise UsageError(
            f"{place} holds {head} of classes, which say what a photo is, not what it looks like. "
            "Make features without --head."
        )
    if matrix.columns < 1:
        raise ResnestError(f"{place} has rows without numbers.")
    return matrix


def _named(target: Path, matrix: Matrix) -> tuple[Names, dict[str, str]]:
    """The names of all rows, and inputs that have none, of the .csv beside."""
    names, failed, count = Names(), dict[str, str](), 0
    lines = target.with_suffix(".csv")
    with (
        reading(lines, damage=(ValueError, csv.Error), then=_AGAIN),
        lines.open(encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        rows = read_csv_rows(file)
        next(rows, None)
        for count, (name, _, status, error) in enumerate(rows, start=1):  # noqa: B007
            if status == "ok":
                names.append(name)
            elif len(failed) < _MOST_FAILED:
                failed[name] = error
    if (count, len(names)) != (matrix.inputs, matrix.rows):
        raise ResnestError(
            f"{target} and {lines.name} do not fit: {count:,} lines, but {matrix.inputs:,} inputs; "
            f"{len(names):,} of them with a row, but {matrix.rows:,} rows. {_AGAIN}"
        )
    return names, failed


def _note(entry: Item, names: Names, failed: dict[str, str]) -> None:
    if entry.error is None:
        names.append(entry.name)
    elif len(failed) < _MOST_FAILED:
        failed[entry.name] = entry.error


def _mapped(target: Path, matrix: Matrix) -> NDArray[Any]:
    """The rows of .npy or .npz, as they lie on the disk; ValueError where they do not."""
    with target.open("rb") as file:
        if target.suffix.lower() == ".npz":
            with zipfile.ZipFile(file) as archive:
                member = archive.getinfo("features.npy")
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed, which `resnest features` never does")
            file.seek(member.header_offset)
            lengths = np.frombuffer(file.read(_LOCAL_HEADER)[26:], "<u2")
            file.seek(int(lengths.sum()), os.SEEK_CUR)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not a file of this program")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if shape != matrix.shape or dtype != np.dtype(matrix.dtype):
            raise ValueError(f"{dtype} {shape} instead of {matrix.dtype} {matrix.shape}")
        start = file.tell()
        if file.seek(0, os.SEEK_END) < start + matrix.rows * matrix.row_bytes:
            raise ValueError("rows are missing at its end")
        return _map(file, matrix, start)


def _map(file: IO[bytes], matrix: Matrix, start: int = 0) -> NDArray[Any]:
    if not matrix.rows:
        return np.empty((0, matrix.columns), matrix.dtype)
    shape = matrix.rows, matrix.columns
    return np.memmap(file, matrix.dtype, "r", start, shape)


def _copied(place: str, record: dict[str, Any], matrix: Matrix, entries: Iterator[Item]) -> Stored:
    """Copies the rows to a file that nobody else sees, and that is gone with its last use."""
    names, failed, folder = Names(), dict[str, str](), tempfile.gettempdir()
    with writing(folder, then="TMPDIR=FOLDER names another place for temporary files."):
        file = tempfile.TemporaryFile(buffering=_CHUNK)  # noqa: SIM115 - closed below
        with file:
            for entry in entries:
                _note(entry, names, failed)
                file.write(entry.row or b"")
            file.flush()
            return Stored(place, record, _map(file, matrix), names, failed)


def _entries_of_folder(place: str, matrix: Matrix) -> Iterator[Item]:
    """The inputs of a folder of Parquet parts, in order, with their rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    system, folder = opened(place)
    count = with_row = 0
    parts = [n for n in names_in(system, folder) if n.startswith("part-") and n.endswith("parquet")]
    for name in sorted(parts, key=lambda name: (len(name), name)):
        with (
            reading(f"{place.rstrip('/')}/{name}", damage=(pa.ArrowException, ValueError)),
            system.open_input_file(f"{folder.rstrip('/')}/{name}") as stream,
            pq.ParquetFile(stream) as file,
        ):
            for batch in file.iter_batches(1024, columns=["input", "error", "feature"]):
                inputs, errors, lists = batch.columns
                values = lists.flatten().to_numpy(zero_copy_only=False)  # without nulls
                rows = np.ascontiguousarray(values, matrix.dtype).reshape(-1, matrix.columns)
                there = iter(rows)
                for one, error in zip(inputs.to_pylist(), errors.to_pylist(), strict=True):
                    row = next(there).tobytes() if error is None else None
                    yield Item(one, error, row)
                    count, with_row = count + 1, with_row + (row is not None)
    if (count, with_row) != (matrix.inputs, matrix.rows):
        raise ResnestError(
            f"{place} has {count:,} inputs in its parts, and {matrix.inputs:,} in its record: "
            "`resnest features --runner ray --resume` computes what is missing."
        )
