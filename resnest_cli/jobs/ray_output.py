"""The folder of an output of Ray: nothing, a run that was begun, or a finished one.

What reads a folder of Parquet passes over names that begin with an underscore.

    OUTPUT/part-00000.parquet       rows, with a footer that says whose they are
           _manifest.json           what decides the content; written when the listing is whole
           _listing/00000.parquet   the inputs of 64 parts, each a row group
           _summary.json            written last

The inputs are written down once, cut into parts of a fixed number. A worker reads the row group of
its part, so that neither the driver nor a worker ever holds the list. A run that goes on lists the
inputs again and compares their hash: like the local runner it refuses a list that has changed, and
the written one is what is computed.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import locked
from resnest_cli.jobs.filesystems import names_in, opened, put, read, remove
from resnest_cli.jobs.formats import FOOTER
from resnest_cli.jobs.job import failures_of, refused
from resnest_cli.jobs.listing import Chain, Input, Mark, encoded
from resnest_cli.text import one_line

_FORMAT = 1
_LISTING = "_listing"
_ATTEMPTS = "_attempts"  # of earlier versions
_LISTED = 64  # parts in a file of the listing
_AT_ONCE = 16  # parts that are looked at
_OURS = re.compile(
    r"(part-\d{5,}\.(parquet|jsonl)|_manifest\.json|_summary\.json)(\.\w+\.tmp)?|\.lock"
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run was begun with; `listing` is the end of its list, as the local runner has it."""

    identity: dict[str, Any]
    listing: Mark
    part_size: int
    skipped: int

    @property
    def hash(self) -> str:
        """What a part must bear to be one of this run."""
        text = json.dumps([self.identity, self.listing.chain, self.part_size], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def sizes(self) -> list[int]:
        """How many inputs each part has."""
        whole, rest = divmod(self.listing.listed, self.part_size)
        return [self.part_size] * whole + [rest] * (rest > 0)


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


class Output:
    """The folder of one output; `identity` is a short hash of what decides its content.

    What the driver calls raises ResnestError where the folder cannot be used; what workers call,
    `info` and `commit`, raises OSError.
    """

    def __init__(self, output: str, suffix: str, identity: str = "") -> None:
        self.output, self.suffix, self.identity = output, suffix, identity
        self.system, self.folder = opened(output)

    def path(self, *names: str) -> str:
        """A path below the folder."""
        return "/".join((self.folder.rstrip("/"), *names))

    def part_path(self, part: int) -> str:
        """Where a part lies."""
        return self.path(f"part-{part:05}.{self.suffix}")

    def info(self, part: int, inputs: int) -> PartInfo | None:
        """What a part says of itself; None where it is not there, not whole, or another run's."""
        try:
            found = self._lines(part) if self.suffix == "jsonl" else self._footer(part)
        except (ValueError, KeyError, TypeError):  # pyarrow's errors about damage are ValueErrors
            return None
        expected = (part, self.identity, inputs)
        return found if found and (found.part, found.identity, found.inputs) == expected else None

    def commit(self, part: int, data: bytes) -> None:
        """Makes a part count."""
        put(self.system, self.part_path(part), data)

    def _footer(self, part: int) -> PartInfo | None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with (
                self.system.open_input_file(self.part_path(part)) as stream,
                pq.ParquetFile(stream) as file,
            ):
                rows, about = file.metadata.num_rows, file.metadata.metadata or {}
        except (FileNotFoundError, pa.ArrowException):
            return None
        info = PartInfo(**json.loads(about[FOOTER]))
        return info if info.inputs == rows else None

    def _lines(self, part: int) -> PartInfo | None:
        data = read(self.system, self.part_path(part))
        if data is None or (data and not data.endswith(b"\n")):
            return None
        # Lines say nothing of kinds: failures of a part that is found are of no known one.
        errors = [(json.loads(line)["error"], None) for line in data.splitlines()]
        return PartInfo(part, self.identity, len(errors), failures_of(errors))

    def look(self, *, resume: bool, overwrite: bool) -> Manifest | None:
        """What there is to go on with; None where the run begins."""
        with self._errors("read"):
            data = read(self.system, self.path("_manifest.json"))
            names = names_in(self.system, self.folder)
        if overwrite or (data is None and not any(n.startswith("part-") for n in names)):
            foreign = [name for name in names if not _OURS.fullmatch(name)]
            if foreign:
                raise UsageError(
                    f"{self.output} holds other files ({foreign[0]}): name a folder of its own."
                )
            return None
        if not resume:
            raise refused(self.output, unfinished="_summary.json" not in names)
        if data is None:
            raise ResnestError(
                f"{self.output} has parts, but no _manifest.json: --overwrite starts afresh."
            )
        try:
            content = json.loads(data)
            newer = content.pop("format") > _FORMAT
            manifest = Manifest(**(content | {"listing": Mark.of(content["listing"])}))
        except (ValueError, KeyError, TypeError) as error:
            raise ResnestError(
                f"{self.output}/_manifest.json cannot be read: {one_line(str(error))}. "
                "--overwrite starts afresh."
            ) from error
        if newer:
            raise ResnestError(f"{self.output} was made by a later version of this program.")
        self.identity = manifest.hash
        return manifest

    def clear(self) -> None:
        """Makes room for a new run: removes what is ours, what says that it is something first."""
        with self._errors("written"):
            self.system.create_dir(self.folder, recursive=True)
            names = names_in(self.system, self.folder)
            for name in sorted(names, key=lambda name: name.startswith("part-")):
                if name != ".lock":
                    remove(self.system, self.path(name))
            self._empty(_LISTING)
            self._empty(_ATTEMPTS)

    def list_inputs(self, inputs: Iterable[Input], part_size: int) -> Mark:
        """Writes the listing; holds one part of it at a time."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"input": pa.binary(), "kind": pa.string(), "where": pa.binary()}
        types |= {"offset": pa.int64(), "size": pa.int64()}
        schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])
        chain = Chain()
        waiting = chain(inputs)
        with self._errors("written"):
            self.system.create_dir(self.path(_LISTING), recursive=True)
            number, group = 0, list(islice(waiting, part_size))
            while group:
                path = self.path(_LISTING, f"{number:05}.parquet")
                with (
                    self.system.open_output_stream(path, compression=None) as stream,
                    pq.ParquetWriter(stream, schema) as writer,
                ):
                    for _ in range(_LISTED):
                        names, kinds, places, *numbers = map(list, zip(*group, strict=True))
                        names, places = ([*map(encoded, texts)] for texts in (names, places))
                        table = pa.table([names, kinds, places, *numbers], schema=schema)
                        writer.write_table(table, row_group_size=part_size)
                        group = list(islice(waiting, part_size))
                        if not group:
                            break
                number += 1
        return chain.mark

    def inputs_of(self, part: int) -> list[Input]:
        """The inputs of a part, in order; raises OSError."""
        import pyarrow.parquet as pq

        number, group = divmod(part, _LISTED)
        path = self.path(_LISTING, f"{number:05}.parquet")
        with self.system.open_input_file(path) as stream, pq.ParquetFile(stream) as file:
            columns = file.read_row_group(group).to_pydict().values()
        names, kinds, places, *numbers = columns
        names, places = (
            [text.decode("utf-8", "surrogateescape") for text in texts] for texts in (names, places)
        )
        return [Input(*row) for row in zip(names, kinds, places, *numbers, strict=True)]

    def begin(self, manifest: Manifest) -> None:
        """Notes what is begun; the listing is written already."""
        about = {"format": _FORMAT, **asdict(manifest), "listing": manifest.listing.about}
        self._put("_manifest.json", about)
        self.identity = manifest.hash

    def whole_parts(self, sizes: Iterable[int]) -> list[PartInfo]:
        """The parts that are there and whole, of parts with so many inputs each."""
        with self._errors("read"), ThreadPoolExecutor(_AT_ONCE) as pool:
            there = set(names_in(self.system, self.folder))
            wanted = [s for s in enumerate(sizes) if self.part_path(s[0]).split("/")[-1] in there]
            return list(filter(None, pool.map(lambda size: self.info(*size), wanted)))

    def drop(self, parts: Iterable[int]) -> None:
        """Removes parts that are to be computed again, and what says that the run is finished."""
        with self._errors("written"):
            for part in parts:
                remove(self.system, self.path("_summary.json"))
                remove(self.system, self.part_path(part))

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes `_summary.json`; removes files that a kill has cut off."""
        with self._errors("written"):
            self._empty(_ATTEMPTS)
            for name in names_in(self.system, self.folder):
                if name.endswith(".tmp") and _OURS.fullmatch(name):
                    remove(self.system, self.path(name))
        self._put("_summary.json", summary)

    def summary(self) -> dict[str, Any] | None:
        """What a finished run says."""
        with self._errors("read"):
            data = read(self.system, self.path("_summary.json"))
        return json.loads(data) if data is not None else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder against another run, where it is on a local file system."""
        with self._errors("written"):
            self.system.create_dir(self.folder, recursive=True)
        local = self.system.type_name == "local"
        with locked(folder=Path(self.folder) if local else None):
            yield

    def _put(self, name: str, content: dict[str, Any]) -> None:
        data = json.dumps(content, indent=1).encode() + b"\n"
        with self._errors("written"):
            put(self.system, self.path(name), data)

    def _empty(self, folder: str) -> None:
        for name in names_in(self.system, self.path(folder)):
            remove(self.system, self.path(folder, name))

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = one_line(error.strerror or str(error))
            raise ResnestError(f"{self.output}: cannot be {what}: {reason}") from error
