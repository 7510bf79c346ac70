"""The path column of a Parquet or CSV file -> what it lists, some rows at a time."""

from collections.abc import Iterator
from typing import Any

from resnest_cli.cluster.filesystems import opened
from resnest_cli.errors import UsageError, one_line

SUFFIXES = (".parquet", ".csv")
_ROWS = 8192


def listed(manifest: str, column: str) -> Iterator[str | None]:
    """The paths and addresses of a manifest, in order; None where a row has none.

    Raises:
        UsageError: it cannot be read, or has no such column; names the ones it has.
    """
    import pyarrow as pa

    system, path = opened(manifest)
    read = _parquet if manifest.lower().endswith(".parquet") else _csv
    try:
        for values in read(system, path, manifest, column):
            for value in values.cast(pa.string()).to_pylist():
                yield value or None
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"cannot read the list of inputs {manifest}: {_reason(error)}") from error


def _parquet(system: Any, path: str, manifest: str, column: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with system.open_input_file(path) as stream, pq.ParquetFile(stream) as file:
        _check(manifest, column, file.schema_arrow.names)
        for batch in file.iter_batches(_ROWS, columns=[column]):
            yield batch.column(0)


def _csv(system: Any, path: str, manifest: str, column: str) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import csv

    convert = csv.ConvertOptions(column_types={column: pa.string()})
    with system.open_input_stream(path, compression=None) as stream:
        reader = csv.open_csv(stream, convert_options=convert)
        _check(manifest, column, reader.schema.names)
        place = reader.schema.get_field_index(column)
        for batch in reader:
            yield batch.column(place)


def _check(manifest: str, column: str, names: list[str]) -> None:
    if column not in names:
        have = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise UsageError(
            f"{manifest}: there is no column {column!r} with paths; it has {have}. "
            "Name the column with --path-column."
        )


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return one_line(str(error))
