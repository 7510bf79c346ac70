"""Features or records of a part -> the bytes of its file.

    features     input, status, error, feature: a list of fixed size, flattened; null where failed
    predictions  input, status, error, model, predictions: a list of rank, index, label and
                 probability; with --reject-below also unsure
    .jsonl       the lines that `predict --format jsonl` writes

Names that are no UTF-8 have those bytes escaped, as everywhere in Parquet. The footer says which
part it is, of which run, and how many inputs failed how.
"""

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from resnest_cli.features.failures import kind_of
from resnest_cli.features.formats import Entry, Matrix, parquet_schema, parquet_table
from resnest_cli.features.lines import encoded
from resnest_cli.inference.ranking import Record

KEY = b"resnest"  # in the footer


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What a whole part says of itself: its number, whose it is, its inputs, failures by kind."""

    part: int
    identity: str
    inputs: int
    failures: dict[str, int]

    @property
    def failed(self) -> int:
        """Inputs that could not be read."""
        return sum(self.failures.values())


def counted(errors: Iterable[str | None]) -> dict[str, int]:
    """Failures by kind."""
    kinds: dict[str, int] = {}
    for error in errors:
        if error is not None:
            kind = kind_of(error)
            kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def features_file(entries: list[Entry], matrix: Matrix, info: PartInfo) -> bytes:
    """A part of features as Parquet."""
    import pyarrow as pa

    schema = parquet_schema(pa, matrix, "feature")
    return _parquet(parquet_table(pa, entries, matrix, schema), info, plain=True)


def records_file(records: list[Record], info: PartInfo, *, rejecting: bool) -> bytes:
    """A part of records as Parquet."""
    import pyarrow as pa

    ranked = pa.struct(
        [
            ("rank", pa.int32()),
            ("index", pa.int32()),
            ("label", pa.string()),
            ("probability", pa.float64()),
        ]
    )
    columns = {
        "input": pa.array([_text(r.input) for r in records], pa.string()),
        "status": pa.array([r.status for r in records], pa.string()),
        "error": pa.array([r.error for r in records], pa.string()),
        "model": pa.array([_text(r.model) for r in records], pa.string()),
        "predictions": pa.array(
            [[asdict(p) for p in r.predictions] for r in records], pa.list_(ranked)
        ),
    }
    if rejecting:
        columns["unsure"] = pa.array([r.unsure for r in records], pa.bool_())
    return _parquet(pa.table(columns), info, plain=False)


def lines_file(records: list[Record]) -> bytes:
    """A part of records as JSON lines."""
    return "".join(json.dumps(record.as_dict()) + "\n" for record in records).encode("ascii")


def _text(name: str) -> str:
    return encoded(name).decode("utf-8", "backslashreplace")


def _parquet(table: Any, info: PartInfo, *, plain: bool) -> bytes:
    """`plain` neither compresses nor makes a dictionary: numbers of a network gain by neither."""
    import pyarrow.parquet as pq

    about = {KEY: json.dumps(asdict(info)).encode()}
    table = table.replace_schema_metadata((table.schema.metadata or {}) | about)
    buffer = io.BytesIO()
    how: dict[str, Any] = {"compression": "none", "use_dictionary": False} if plain else {}
    pq.write_table(table, buffer, row_group_size=max(1, len(table)), **how)
    return buffer.getvalue()
