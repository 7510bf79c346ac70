"""The parts of an output: which are there and whole, and which attempts at them have died.

    OUTPUT/part-00000.parquet            rows, with a footer that says whose they are
    OUTPUT/_attempts/00000.json          while a worker is at this part

A worker that a photo brings down leaves its mark in `_attempts`; whoever tries the part next
decodes in processes of their own, so that the photo becomes a row with an error.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from resnest_cli.cluster.filesystems import joined, names_in, put, read, remove
from resnest_cli.cluster.rows import KEY, PartInfo, counted
from resnest_cli.errors import ResnestError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

ATTEMPTS = "_attempts"
MOST_ATTEMPTS = 8  # at one part in one run, each of which ended its worker
_AT_ONCE = 16  # parts that are looked at


class Parts:
    """The parts of one output; `identity` is a short hash of what decides their content."""

    def __init__(self, system: "FileSystem", folder: str, suffix: str, identity: str) -> None:
        self._system = system
        self._folder = folder
        self._suffix = suffix
        self.identity = identity

    def path(self, part: int) -> str:
        """Where a part lies."""
        return joined(self._folder, f"part-{part:05}.{self._suffix}")

    def info(self, part: int, inputs: int) -> PartInfo | None:
        """What a part says of itself; None where it is not there, not whole, or another run's.

        Raises:
            OSError: the file system cannot be read.
        """
        try:
            found = self._lines(part) if self._suffix == "jsonl" else self._footer(part)
        except (ValueError, KeyError, TypeError):  # pyarrow's errors about damage are ValueErrors
            return None
        if found is None or found.inputs != inputs or found.part != part:
            return None
        return found if found.identity == self.identity else None

    def whole(self, sizes: Iterable[tuple[int, int]]) -> Iterator[PartInfo]:
        """Of parts, each with its number of inputs, those that are there and whole.

        Raises:
            OSError: the file system cannot be read.
        """
        there = set(names_in(self._system, self._folder))
        wanted = [s for s in sizes if self.path(s[0]).rpartition("/")[2] in there]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for found in pool.map(lambda size: self.info(*size), wanted):
                if found is not None:
                    yield found

    def commit(self, part: int, data: bytes) -> None:
        """Makes a part count.

        Raises:
            OSError: it cannot be written.
        """
        put(self._system, self.path(part), data)

    def attempt(self, part: int, run: str) -> int:
        """Notes that a worker begins with a part; how many have died at it before.

        Those of earlier runs count as one: they may have been ended with their run.

        Raises:
            ResnestError: so many have died in this run that it is not by chance.
            OSError: it cannot be noted.
        """
        path = joined(self._folder, ATTEMPTS, f"{part:05}.json")
        before = read(self._system, path)
        died = 0
        if before is not None:
            try:
                told = json.loads(before)
                died = told["attempts"] if told["run"] == run else 1
            except (ValueError, KeyError, TypeError):  # cut off
                died = 1
        if died >= MOST_ATTEMPTS:
            raise ResnestError(
                f"{self.path(part)}: {died} workers have died of this part, although its photos "
                "were decoded in processes of their own: memory may be short. A smaller "
                "--batch-size needs less."
            )
        if died == 0:
            self._system.create_dir(joined(self._folder, ATTEMPTS), recursive=True)
        put(self._system, path, json.dumps({"run": run, "attempts": died + 1}).encode())
        return died

    def ended(self, part: int) -> None:
        """The worker has not died.

        Raises:
            OSError: it cannot be noted.
        """
        remove(self._system, joined(self._folder, ATTEMPTS, f"{part:05}.json"))

    def _footer(self, part: int) -> PartInfo | None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with (
                self._system.open_input_file(self.path(part)) as stream,
                pq.ParquetFile(stream) as file,
            ):
                rows, about = file.metadata.num_rows, file.metadata.metadata or {}
        except FileNotFoundError:
            return None
        except pa.ArrowException:
            return None
        info = PartInfo(**json.loads(about[KEY]))
        return info if info.inputs == rows else None

    def _lines(self, part: int) -> PartInfo | None:
        data = read(self._system, self.path(part))
        if data is None or (data and not data.endswith(b"\n")):
            return None
        records: list[dict[str, Any]] = [json.loads(line) for line in data.splitlines()]
        failures = counted(record["error"] for record in records)
        return PartInfo(part, self.identity, len(records), failures)
