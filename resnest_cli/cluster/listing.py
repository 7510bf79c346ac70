"""The inputs, written down once at the output and cut into parts of a fixed number of inputs.

    OUTPUT/_listing/00000.parquet    64 parts, each a row group

A worker reads the row group of its part, so that neither the driver nor a worker ever holds the
list. A run that goes on lists the inputs again and compares their hash: like the local runner it
refuses a list that has changed, and the written one is what is computed.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from resnest_cli.cluster.filesystems import joined
from resnest_cli.cluster.inputs import Input
from resnest_cli.features.lines import encoded
from resnest_cli.features.listing import add_name

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

FOLDER = "_listing"
_PARTS = 64  # in a file


@dataclass(frozen=True, slots=True)
class Listing:
    """How many inputs there are, and the hash over their names that `features` keeps, too."""

    inputs: int
    sha256: str


def parts_of(inputs: int, part_size: int) -> int:
    """How many parts so many inputs make."""
    return -(-inputs // part_size)


def size_of(part: int, inputs: int, part_size: int) -> int:
    """How many inputs part number `part`, from 0, has."""
    return min(part_size, inputs - part * part_size)


class Chain:
    """Counts inputs that pass through, and takes the hash over their names."""

    def __init__(self) -> None:
        self._hash, self._count = hashlib.sha256(), 0

    def __call__(self, inputs: Iterable[Input]) -> Iterator[Input]:
        """The same inputs."""
        for item in inputs:
            add_name(self._hash, item.name)
            self._count += 1
            yield item

    @property
    def listing(self) -> Listing:
        """What has passed through by now."""
        return Listing(self._count, self._hash.hexdigest())


def write_listing(
    system: "FileSystem", output: str, inputs: Iterable[Input], part_size: int
) -> Listing:
    """Writes the inputs below the folder `output`; holds one part of them at a time.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow.parquet as pq

    chain = Chain()
    waiting = chain(inputs)
    system.create_dir(joined(output, FOLDER), recursive=True)
    number, group = 0, list(islice(waiting, part_size))
    while group:
        with (
            system.open_output_stream(_path(output, number), compression=None) as stream,
            pq.ParquetWriter(stream, _schema()) as writer,
        ):
            for _ in range(_PARTS):
                writer.write_table(_table(group), row_group_size=part_size)
                group = list(islice(waiting, part_size))
                if not group:
                    break
        number += 1
    return chain.listing


def read_part(system: "FileSystem", output: str, part: int) -> list[Input]:
    """The inputs of part number `part`, from 0, in order.

    Raises:
        OSError: the listing is missing or damaged.
    """
    import pyarrow.parquet as pq

    number, group = divmod(part, _PARTS)
    with (
        system.open_input_file(_path(output, number)) as stream,
        pq.ParquetFile(stream) as file,
    ):
        rows = file.read_row_group(group).to_pylist()
    return [
        Input(
            row["input"].decode("utf-8", "surrogateescape"),
            row["kind"],
            row["where"].decode("utf-8", "surrogateescape"),
            row["offset"],
            row["size"],
        )
        for row in rows
    ]


def _path(output: str, number: int) -> str:
    return joined(output, FOLDER, f"{number:05}.parquet")


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("input", pa.binary(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("where", pa.binary(), nullable=False),
            pa.field("offset", pa.int64(), nullable=False),
            pa.field("size", pa.int64(), nullable=False),
        ]
    )


def _table(group: list[Input]) -> Any:
    import pyarrow as pa

    columns = [
        [encoded(item.name) for item in group],
        [item.kind for item in group],
        [encoded(item.where) for item in group],
        [item.offset for item in group],
        [item.size for item in group],
    ]
    return pa.table(columns, schema=_schema())
