"""The parts of a job as files, which say in a footer whose they are.

    .rows     features: the rows as in .npy, lines as in `feats.csv`, 16 bytes each as in
              `feats.stat`; behind them as JSON what it is and how many bytes each of these has,
              and the length of that, 8 bytes little-endian
    .parquet  features: as above, in a column `feature`; predictions: input, status, error, model,
              predictions: a list of rank, index, label and probability (of several labels also
              selected); with --reject-below also
              unsure, with --unknown also unknown and distance
    .jsonl    predictions: the lines that `predict --format jsonl` writes, without a footer

Names that are no UTF-8 have those bytes escaped, as everywhere in Parquet.
"""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from resnest_cli.errors import ResnestError
from resnest_cli.jobs.formats import Matrix, formatted, items_of, parquet_schema, parquet_table
from resnest_cli.jobs.job import Item, failures_of
from resnest_cli.jobs.listing import STAT_BYTES, escaped

if TYPE_CHECKING:
    from resnest_cli.inference.ranking import Record

FOOTER = b"resnest"  # the key of what a Parquet file says of itself

_CHUNK = 2**20
_LENGTH_BYTES = 8  # at the end of a part


def part_file(
    results: Any, suffix: str, identity: dict[str, Any], about: dict[str, Any], stats: bytes
) -> bytes:
    """A part of entries or records; its footer says `about`. `stats` are 16 bytes of each input."""
    if suffix == "rows":
        rows = b"".join(item.row for item in results if item.row is not None)
        lines = b"".join(formatted(item.name, None, item.error) for item in results)
        sizes = {"bytes": [len(rows), len(lines), len(stats)]}
        footer = json.dumps(about | sizes).encode()
        return b"".join((rows, lines, stats, footer, len(footer).to_bytes(_LENGTH_BYTES, "little")))
    if suffix == "jsonl":
        return "".join(json.dumps(r.as_dict()) + "\n" for r in results).encode("ascii")
    if "ranking" in identity:
        return _records_file(results, about, identity["ranking"])
    extraction, count = identity["extraction"], len(results)
    matrix = Matrix(count, count, tuple(extraction["row_shape"]), extraction["dtype"])
    table = parquet_table(results, matrix, parquet_schema(matrix, "feature"))
    # Neither compressed nor in a dictionary: numbers of a network gain by neither.
    return _parquet_bytes(table, about, compression="none", use_dictionary=False)


def about_part(file: Any, suffix: str) -> dict[str, Any] | None:
    """What a part says of itself, as far as it does; None where it is not whole."""
    try:
        if suffix == "rows":
            return _rows_footer(file)
        if suffix == "parquet":
            return _parquet_footer(file)
        data = bytes(file.read())
        if data and not data.endswith(b"\n"):
            return None
        # Lines say nothing of kinds: failures of a part that is found are of no known one.
        errors = [(json.loads(line)["error"], None) for line in data.splitlines()]
        return {"inputs": len(errors), "failures": failures_of(errors)}
    except (ValueError, KeyError, TypeError):
        return None


def _rows_footer(file: IO[bytes]) -> dict[str, Any] | None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LENGTH_BYTES))
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    before = size - _LENGTH_BYTES - length
    if before < 0:
        return None
    file.seek(before)
    about: dict[str, Any] = json.loads(file.read(length))
    return about if sum(about["bytes"]) == before else None


def _parquet_footer(file: Any) -> dict[str, Any] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            rows, footer = table.metadata.num_rows, table.metadata.metadata or {}
    except pa.ArrowException:
        return None
    about: dict[str, Any] = json.loads(footer[FOOTER])
    return about if about["inputs"] == rows else None


def read_part(path: Path, row_bytes: int) -> Iterator[Item]:
    """The inputs of a whole part in .rows, with rows and sizes and times of files."""
    with path.open("rb", buffering=_CHUNK) as file, path.open("rb") as beside:
        about = about_part(beside, "rows")
        if about is None:
            raise ResnestError(f"{path} has changed: --resume computes it again.")
        row_end, line_bytes, stat_bytes = about["bytes"]
        beside.seek(row_end)
        lines = io.BytesIO(beside.read(line_bytes))
        stats = io.BytesIO(beside.read(stat_bytes))
        for line in items_of(io.TextIOWrapper(lines, "utf-8", "surrogateescape", newline="")):
            row = file.read(row_bytes) if line.error is None else None
            yield line._replace(row=row, stat=stats.read(STAT_BYTES))


def _records_file(records: list["Record"], about: dict[str, Any], ranking: dict[str, Any]) -> bytes:
    import pyarrow as pa

    numbers = [("rank", pa.int32()), ("index", pa.int32())]
    fields = [*numbers, ("label", pa.string()), ("probability", pa.float64())]
    fields += [("selected", pa.bool_())] if any(record.several for record in records) else []
    ranked = pa.struct(fields)
    predictions = [[p.as_dict() for p in record.predictions] for record in records]
    columns = {
        "input": pa.array([escaped(record.input) for record in records], pa.string()),
        "status": pa.array([record.status for record in records], pa.string()),
        "error": pa.array([record.error for record in records], pa.string()),
        "model": pa.array([escaped(record.model) for record in records], pa.string()),
        "predictions": pa.array(predictions, pa.list_(ranked)),
    }
    if ranking["reject_below"] > 0:
        columns["unsure"] = pa.array([record.unsure for record in records], pa.bool_())
    if ranking.get("unknown") is not None:
        columns["unknown"] = pa.array([record.unknown for record in records], pa.bool_())
        columns["distance"] = pa.array([record.distance for record in records], pa.float64())
    return _parquet_bytes(pa.table(columns), about)


def _parquet_bytes(table: Any, about: dict[str, Any], **how: Any) -> bytes:
    import pyarrow.parquet as pq

    footer = {FOOTER: json.dumps(about).encode()}
    table = table.replace_schema_metadata((table.schema.metadata or {}) | footer)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=max(1, len(table)), **how)
    return buffer.getvalue()
