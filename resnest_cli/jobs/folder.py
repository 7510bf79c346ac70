"""An output that is a folder of part files, on any file system: nothing, begun, or finished.

What reads a folder of Parquet passes over names that begin with an underscore.

    OUTPUT/part-00000.parquet       rows, with a footer that says whose they are
           _manifest.json           what decides the content; written when the listing is whole
           _listing/00000.parquet   the inputs of 64 parts, each a row group
           _summary.json            written last

The inputs are written down once, cut into parts of a fixed number. Who computes a part reads its
row group, so that nobody ever holds the list.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import locked
from resnest_cli.jobs.filesystems import names_in, opened, put, read, remove
from resnest_cli.jobs.formats import FOOTER, Matrix, features_file, lines_file, records_file
from resnest_cli.jobs.job import Report, failures_of, refused
from resnest_cli.jobs.listing import Input, Mark, encoded
from resnest_cli.jobs.run import Manifest, PartInfo
from resnest_cli.text import one_line

if TYPE_CHECKING:
    from resnest_cli.jobs.compute import Result

T = TypeVar("T")

_FORMAT = 1
_LISTED = 64  # parts in a file of the listing
_AT_ONCE = 16  # parts that are looked at
_TRIES = 4  # at a part
_FOLDERS = ("_listing", "_attempts")  # earlier versions noted attempts at parts
_OURS = re.compile(
    r"(part-\d{5,}\.(parquet|jsonl)|_manifest\.json|_summary\.json)(\.\w+\.tmp)?|\.lock"
)


def content_of(manifest: Manifest) -> dict[str, Any]:
    """A manifest as `_manifest.json` holds it."""
    return {
        "format": _FORMAT,
        "identity": manifest.identity,
        "listing": manifest.listing.about,
        "part_size": manifest.part_size,
        "skipped": manifest.skipped,
    }


def manifest_of(content: dict[str, Any], *, finished: bool = False) -> Manifest:
    """The manifest out of `content_of`."""
    listing = Mark.of(content["listing"])
    identity, size, skipped = (content[name] for name in ("identity", "part_size", "skipped"))
    return Manifest(identity, listing, size, skipped, listing.listed, finished)


class Folder:
    """One output; parts in `suffix`, parquet or jsonl. Runners use it with its `manifest`."""

    def __init__(self, output: str, suffix: str, manifest: Manifest | None = None) -> None:
        self.output, self.suffix, self.manifest = output, suffix, manifest
        self._system, self.folder = opened(output)
        self._begun = time.monotonic()

    @property
    def manifest(self) -> Manifest:
        """What was begun."""
        assert self._manifest is not None
        return self._manifest

    @manifest.setter
    def manifest(self, manifest: Manifest | None) -> None:
        self._manifest = manifest
        if manifest is not None:
            about = [manifest.identity, manifest.listing.chain, manifest.part_size]
            text = json.dumps(about, sort_keys=True)
            # What a part must bear to be one of this run.
            self.identity = hashlib.sha256(text.encode()).hexdigest()[:16]

    def path(self, *names: str) -> str:
        """A path below the folder."""
        return "/".join((self.folder.rstrip("/"), *names))

    def part_path(self, part: int) -> str:
        """Where a part lies."""
        return self.path(f"part-{part:05}.{self.suffix}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder against another run, where it is on a local file system."""
        with self._errors("written"):
            self._system.create_dir(self.folder, recursive=True)
        local = self._system.type_name == "local"
        with locked(folder=Path(self.folder) if local else None):
            yield

    def look(self, *, resume: bool, overwrite: bool) -> Manifest | None:
        """What there is to go on with; None where the run begins."""
        with self._errors("read"):
            data = read(self._system, self.path("_manifest.json"))
            names = names_in(self._system, self.folder)
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
            newer = content["format"] > _FORMAT
            self.manifest = manifest_of(content)
        except (ValueError, KeyError, TypeError) as error:
            raise ResnestError(
                f"{self.output}/_manifest.json cannot be read: {one_line(str(error))}. "
                "--overwrite starts afresh."
            ) from error
        if newer:
            raise ResnestError(f"{self.output} was made by a later version of this program.")
        if "_summary.json" in names:
            whole = len(self.whole_parts(self.manifest)) == len(self.manifest.sizes)
            self.manifest = replace(self.manifest, finished=whole)
        return self.manifest

    def write_listing(self, inputs: Iterable[Input], part_size: int) -> int:
        """Makes room for a new run and writes its inputs down; holds one part of them at a time."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"input": pa.binary(), "kind": pa.string(), "where": pa.binary()}
        types |= {"offset": pa.int64(), "size": pa.int64()}
        schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])
        self.clear()
        waiting, count = iter(inputs), 0
        with self._errors("written"):
            self._system.create_dir(self.path("_listing"), recursive=True)
            group = list(islice(waiting, part_size))
            while group:
                with (
                    self._system.open_output_stream(
                        self._listing_path(count // part_size), compression=None
                    ) as stream,
                    pq.ParquetWriter(stream, schema) as writer,
                ):
                    for _ in range(_LISTED):
                        names, kinds, places, *numbers = map(list, zip(*group, strict=True))
                        names, places = ([*map(encoded, texts)] for texts in (names, places))
                        table = pa.table([names, kinds, places, *numbers], schema=schema)
                        writer.write_table(table, row_group_size=part_size)
                        count += len(group)
                        if not (group := list(islice(waiting, part_size))):
                            break
        return count

    def clear(self) -> None:
        """Removes all that is ours, first what says that there is something."""
        with self._errors("written"):
            self._system.create_dir(self.folder, recursive=True)
            names = names_in(self._system, self.folder)
            for name in sorted(names, key=lambda name: name.startswith("part-")):
                if name != ".lock":
                    remove(self._system, self.path(name))
            for folder in _FOLDERS:
                self._empty(folder)
                with suppress(OSError):  # it was never there
                    self._system.delete_dir(self.path(folder))

    def begin(self, manifest: Manifest) -> None:
        """Notes what is begun; the listing is written already."""
        self.manifest = manifest
        self._put("_manifest.json", content_of(manifest))

    def names(self, manifest: Manifest) -> Iterator[str]:
        """The names of the inputs, in order."""
        for part in range(len(manifest.sizes)):
            with self._errors("read"):
                inputs = self.inputs_of(part)
            yield from (item.name for item in inputs)

    def inputs_of(self, part: int) -> list[Input]:
        """The inputs of a part, in order; raises OSError."""
        import pyarrow.parquet as pq

        path = self._listing_path(part)
        with self._system.open_input_file(path) as stream, pq.ParquetFile(stream) as file:
            columns = file.read_row_group(part % _LISTED).to_pydict().values()
        names, kinds, places, *numbers = columns
        names, places = (
            [text.decode("utf-8", "surrogateescape") for text in texts] for texts in (names, places)
        )
        return [Input(*row) for row in zip(names, kinds, places, *numbers, strict=True)]

    def retry(
        self, manifest: Manifest, _identity: dict[str, Any], _inputs: Iterator[Input]
    ) -> Manifest:
        """Removes the parts with failures, and what says that the run is finished."""
        failed = [info.part for info in self.whole_parts(manifest) if info.failed]
        with self._errors("written"):
            for part in failed:
                remove(self._system, self.path("_summary.json"))
                remove(self._system, self.part_path(part))
        return replace(manifest, finished=manifest.finished and not failed)

    def whole_parts(self, manifest: Manifest) -> list[PartInfo]:
        """The parts that are there and whole."""
        with self._errors("read"), ThreadPoolExecutor(_AT_ONCE) as pool:
            there = set(names_in(self._system, self.folder))
            sizes = enumerate(manifest.sizes)
            wanted = [s for s in sizes if self.part_path(s[0]).rpartition("/")[2] in there]
            return list(filter(None, pool.map(lambda size: self._info(*size), wanted)))

    def part(self, part: int, inputs: int) -> PartInfo | None:
        """A part of so many inputs, if it is there and whole."""
        return self._retried(part, "read", lambda: self._info(part, inputs))

    def commit(self, part: int, results: Sequence["Result"]) -> PartInfo:
        """Writes a part: entries for features, records for predictions."""
        identity, count = self.manifest.identity, len(results)
        failures = failures_of((result.error, result.kind) for result in results)
        about = {"part": part, "identity": self.identity, "inputs": count, "failures": failures}
        rows: Any = results
        if self.suffix == "jsonl":
            data = lines_file(rows)
        elif "ranking" in identity:
            data = records_file(rows, about, rejecting=identity["ranking"]["reject_below"] > 0)
        else:
            extraction = identity["extraction"]
            matrix = Matrix(count, count, tuple(extraction["row_shape"]), extraction["dtype"])
            data = features_file(rows, matrix, about)
        path = self.part_path(part)
        self._retried(part, "written", lambda: put(self._system, path, data))
        return PartInfo(part, count, failures)

    def finish(self, manifest: Manifest, report: Report) -> dict[str, Any]:
        """Writes `_summary.json`, and returns it; removes files that a kill has cut off."""
        if manifest.finished:
            with self._errors("read"):
                data = read(self._system, self.path("_summary.json"))
            summary: dict[str, Any] = json.loads(data or b"")
            report.finished_before, report.failures = True, summary["failures"]
            return summary
        with self._errors("written"):
            self._empty("_attempts")
            for name in names_in(self._system, self.folder):
                if name.endswith(".tmp") and _OURS.fullmatch(name):
                    remove(self._system, self.path(name))
        failed, total = sum(report.failures.values()), time.monotonic() - self._begun
        summary = {
            **manifest.identity,
            "list": manifest.listing.about,
            "counts": {
                "inputs": manifest.inputs, "rows": manifest.inputs - failed, "failed": failed
            },
            "failures": report.failures,
            "parts": {
                "size": manifest.part_size,
                "computed": report.computed,
                "found": report.parts - report.computed,
            },
            "seconds": {"total": total, "computing": report.elapsed, **report.seconds},
            "photos": report.photos,
            "photos_per_second": report.photos / max(report.elapsed, 1e-9),
        }  # fmt: skip
        self._put("_summary.json", summary)
        return summary

    def _info(self, part: int, inputs: int) -> PartInfo | None:
        """What a part says of itself; None where it is not there, not whole, or another run's."""
        try:
            about = self._lines(part) if self.suffix == "jsonl" else self._footer(part)
        except (ValueError, KeyError, TypeError):  # pyarrow's errors about damage are ValueErrors
            return None
        if about is None or about != (
            about | {"part": part, "identity": self.identity, "inputs": inputs}
        ):
            return None
        return PartInfo(part, inputs, about["failures"])

    def _footer(self, part: int) -> dict[str, Any] | None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with (
                self._system.open_input_file(self.part_path(part)) as stream,
                pq.ParquetFile(stream) as file,
            ):
                rows, footer = file.metadata.num_rows, file.metadata.metadata or {}
        except (FileNotFoundError, pa.ArrowException):
            return None
        about: dict[str, Any] = json.loads(footer[FOOTER])
        return about if about["inputs"] == rows else None

    def _lines(self, part: int) -> dict[str, Any] | None:
        data = read(self._system, self.part_path(part))
        if data is None or (data and not data.endswith(b"\n")):
            return None
        # Lines say nothing of kinds: failures of a part that is found are of no known one.
        errors = [(json.loads(line)["error"], None) for line in data.splitlines()]
        failures = failures_of(errors)
        return {
            "part": part,
            "identity": self.identity,
            "inputs": len(errors),
            "failures": failures,
        }

    def _listing_path(self, part: int) -> str:
        return self.path("_listing", f"{part // _LISTED:05}.parquet")

    def summary_text(self, report: Report) -> str:
        """The summary of a run, for people."""
        seconds = f"{report.info['seconds']['total']:.1f} s in all"
        times = "" if report.finished_before else seconds
        return report.text(times, "their rows say", self._made(report.info))

    def _made(self, info: dict[str, Any]) -> str:
        parts, inputs = info["parts"], info["counts"]["inputs"]
        found = f", {parts['found']:,} of them found" if parts["found"] else ""
        count = parts["computed"] + parts["found"]
        return f"{self.output}: {inputs:,} rows in {count:,} part(s){found}"

    def _put(self, name: str, content: dict[str, Any]) -> None:
        data = json.dumps(content, indent=1).encode() + b"\n"
        with self._errors("written"):
            put(self._system, self.path(name), data)

    def _empty(self, folder: str) -> None:
        for name in names_in(self._system, self.path(folder)):
            remove(self._system, self.path(folder, name))

    def _retried(self, part: int, what: str, action: Callable[[], T]) -> T:
        """A file system far away may fail for a moment."""
        for attempt in range(1, _TRIES):
            try:
                return action()
            except OSError:
                time.sleep(2.0**attempt / 4)
        with self._errors(what, self.part_path(part)):
            return action()

    @contextmanager
    def _errors(self, what: str, path: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = one_line(error.strerror or str(error))
            raise ResnestError(f"{path or self.output}: cannot be {what}: {reason}") from error
