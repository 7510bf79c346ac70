"""A folder of parts, on any file system: what both kinds of output are, until they are finished.

    _manifest.json          what decides the content; written when the listing is whole
    _listing/00000.jsonl    the inputs of 64 parts, a line for each
    part-00000.EXT          the rows of a part, and what says whose they are; see `part_files`
    _failures/00000.json    of a part in .jsonl with failures: how many there are of each kind

The inputs are written down once, cut into parts of a fixed number. Who computes a part reads its
line, so that nobody ever holds the list. Each file appears as a whole. A part that is whole, and of
this run, counts; nothing else is noted, so that a kill at any moment leaves nothing to mend.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import reading, writing
from resnest_cli.jobs.filesystems import names_in, opened, put, read, remove
from resnest_cli.jobs.job import failures_of
from resnest_cli.jobs.listing import Input, Mark, photo_stat
from resnest_cli.jobs.part_files import about_part, part_file

if TYPE_CHECKING:
    from resnest_cli.jobs.compute import Result

T = TypeVar("T")
Info = dict[str, Any]  # what an output says of itself: `feats.json`, `_summary.json`
Kind = Literal["run", "retry", "update", "merge"]

_FORMAT = 2  # 1 had the listing as Parquet
_LISTED = 64  # parts in a file of the listing
_AT_ONCE = 16  # parts that are looked at


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run was begun with.

    `listing` is the end of the whole list, `inputs` counts those of it that are computed here, in
    parts of `part_size` (0 where a finished output does not say); `skipped` counts files that are
    no images.
    """

    identity: dict[str, Any]
    listing: Mark
    part_size: int
    skipped: int
    inputs: int
    finished: bool = False
    kind: Kind = "run"

    @property
    def sizes(self) -> list[int]:
        """How many inputs each part has."""
        whole, rest = divmod(self.inputs, self.part_size)
        return [self.part_size] * whole + [rest] * (rest > 0)


@dataclass(frozen=True, slots=True)
class PartInfo:
    """A whole part: its number, its inputs, failures by kind; seconds by step if computed now."""

    part: int
    inputs: int
    failures: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Inputs that could not be read."""
        return sum(self.failures.values())


def content_of(manifest: Manifest) -> dict[str, Any]:
    """A manifest as `_manifest.json` holds it."""
    return {"format": _FORMAT} | asdict(manifest)


def manifest_of(content: dict[str, Any], *, finished: bool = False) -> Manifest:
    """The manifest out of `content_of`, or of one of format 1."""
    listing = Mark(**content["listing"])
    given = {"inputs": listing.inputs} | content | {"listing": listing, "finished": finished}
    for name in ("format", "final"):  # the second of earlier versions
        given.pop(name, None)
    return Manifest(**given)


def info_of(identity: dict[str, Any], mark: Mark, inputs: int, rows: int) -> Info:
    """What depends on the inputs alone, not on when or how often a run was started."""
    return identity | {
        "list": asdict(mark),
        "counts": {"inputs": inputs, "rows": rows, "failed": inputs - rows},
    }


class Parts:
    """A folder of parts in `suffix`: parquet, jsonl or rows. Runners use it with its `manifest`."""

    ours: ClassVar[re.Pattern[str]] = re.compile(
        r"\.?(part-\d{5,}\.(parquet|jsonl)|_manifest\.json|_summary\.json)(\.\w+\.tmp)?|\.lock"
    )
    tries: ClassVar[int] = 4  # at a file: one far away may fail for a moment

    def __init__(self, output: str, suffix: str, manifest: Manifest | None = None) -> None:
        self.output, self.suffix, self.manifest = output, suffix, manifest
        self._system, self.folder = opened(output)
        self._format = _FORMAT  # of the manifest that was read
        self.damaged = 0  # inputs of parts that are there and not whole

    @property
    def manifest(self) -> Manifest:
        """What was begun."""
        assert self._manifest is not None
        return self._manifest

    @manifest.setter
    def manifest(self, manifest: Manifest | None) -> None:
        self._manifest = manifest
        if manifest is not None:
            about = [manifest.identity, manifest.listing.sha256, manifest.part_size]
            text = json.dumps(about, sort_keys=True)
            # What a part must bear to be one of this run.
            self.identity = hashlib.sha256(text.encode()).hexdigest()[:16]

    def path(self, *names: str) -> str:
        """A path below the folder."""
        return "/".join((self.folder.rstrip("/"), *names))

    def part_path(self, part: int) -> str:
        """Where a part lies."""
        return self.path(f"part-{part:05}.{self.suffix}")

    def file_names(self) -> list[str]:
        """The names of the files in the folder itself."""
        with reading(self.output):
            return names_in(self._system, self.folder)

    def read_manifest(self) -> Manifest | None:
        """What was begun; None where that is nothing."""
        with reading(self.output):
            data = read(self._system, self.path("_manifest.json"))
        if data is None:
            return None
        path, then = f"{self.output}/_manifest.json", "--overwrite starts afresh."
        with reading(path, damage=(ValueError, KeyError, TypeError), then=then):
            content = json.loads(data)
            self._format = content["format"]
            self.manifest = manifest_of(content)
        if self._format > _FORMAT:
            raise ResnestError(f"{self.output} was made by a later version of this program.")
        return self.manifest

    def check_format(self, manifest: Manifest) -> None:
        """Whether parts of the run can be computed: not of one that an earlier version began."""
        if self._format < _FORMAT and not manifest.finished:
            raise earlier(self.output)

    def write_listing(self, inputs: Iterable[Input], part_size: int) -> int:
        """Makes room for a new run and writes its inputs down; returns how many there are."""
        self.clear()
        return self.write_inputs(inputs, part_size)

    def write_inputs(self, inputs: Iterable[Input], part_size: int) -> int:
        """The same in a folder that has been cleared."""
        count, waiting = 0, iter(inputs)
        with self.writing():
            self._system.create_dir(self.path("_listing"), recursive=True)
            lines: list[bytes] = []
            while part := list(islice(waiting, part_size)):
                lines.append(self._line(part))
                count += len(part)
                if len(lines) == _LISTED:
                    self._put_lines(count // part_size, lines)
                    lines = []
            if lines:
                self._put_lines(-(-count // part_size), lines)
        return count

    def _put_lines(self, parts: int, lines: list[bytes]) -> None:
        put(self._system, self._listing_path(parts - 1), b"".join(lines))

    def _line(self, part: list[Input]) -> bytes:
        """Inputs that are files of their own name by that alone; sizes and times where needed."""
        short = [
            i.name if i == Input(i.name, "file", i.name) else i[: 5 if i.offset or i.size else 3]
            for i in part
        ]
        stats = b"".join(map(photo_stat, part)) if self.suffix == "rows" else b""
        return json.dumps([short, stats.hex()]).encode("ascii") + b"\n"

    def _listing_path(self, part: int) -> str:
        return self.path("_listing", f"{part // _LISTED:05}.jsonl")

    def _listed(self, part: int) -> tuple[list[Input], bytes]:
        """The inputs of a part, with their sizes and times."""
        path = self._listing_path(part)
        with reading(path):
            data = self._retried(lambda: read(self._system, path))
        try:
            short, stats = json.loads((data or b"").splitlines()[part % _LISTED])
            inputs = [Input(i, "file", i) if isinstance(i, str) else Input(*i) for i in short]
            return inputs, bytes.fromhex(stats)
        except (ValueError, IndexError, TypeError) as error:
            what = (
                "does not exist"
                if data is None
                else "is cut off or damaged"
                if data
                else "is empty"
            )
            raise ResnestError(
                f"{path} {what}, so that the inputs of part {part} are not known any more: "
                "--overwrite starts afresh."
            ) from error

    def inputs_of(self, part: int) -> list[Input]:
        """The inputs of a part, in order."""
        return self._listed(part)[0]

    def names(self, manifest: Manifest) -> Iterator[str]:
        """The names of the inputs, in order."""
        for part in range(len(manifest.sizes)):
            if self._format < _FORMAT:
                yield from self._earlier_names(part)
            else:
                yield from (item.name for item in self.inputs_of(part))

    def _earlier_names(self, part: int) -> Iterator[str]:
        """Of a listing of format 1."""
        import pyarrow.parquet as pq

        path = self.path("_listing", f"{part // _LISTED:05}.parquet")
        with (
            reading(path),
            self._system.open_input_file(path) as stream,
            pq.ParquetFile(stream) as file,
        ):
            names = file.read_row_group(part % _LISTED, columns=["input"]).column(0).to_pylist()
        return (name.decode("utf-8", "surrogateescape") for name in names)

    def clear(self, keep: str = "") -> None:
        """Removes all that is ours, but for one file; first what says that there is something."""
        with self.writing():
            self._system.create_dir(self.folder, recursive=True)
            names = names_in(self._system, self.folder)
            for name in sorted(names, key=_removed_at):
                if self.ours.fullmatch(name) and name not in {keep, ".lock"}:
                    remove(self._system, self.path(name))
            # Earlier versions noted attempts at parts.
            for folder in ("_listing", "_failures", "_attempts"):
                with suppress(OSError):  # it was never there
                    self._system.delete_dir(self.path(folder))
        self.manifest = None

    def begin(self, manifest: Manifest) -> None:
        """Notes what is begun; the listing is written already."""
        self.put_json("_manifest.json", content_of(manifest))
        self.manifest, self._format = manifest, _FORMAT

    def put_json(self, name: str, content: dict[str, Any]) -> None:
        """Writes a small file."""
        with self.writing():
            put(self._system, self.path(name), json.dumps(content, indent=1).encode() + b"\n")

    def whole_parts(self, manifest: Manifest) -> list[PartInfo]:
        """The parts that are there and whole."""
        there = set(self.file_names())
        sizes = enumerate(manifest.sizes)
        wanted = [s for s in sizes if self.part_path(s[0]).rpartition("/")[2] in there]
        with reading(self.output), ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(lambda size: self._info(*size), wanted))
        self.damaged = sum(
            inputs for (_, inputs), info in zip(wanted, found, strict=True) if info is None
        )
        return [info for info in found if info is not None]

    def part(self, part: int, inputs: int) -> PartInfo | None:
        """A part of so many inputs, if it is there and whole."""
        with reading(self.part_path(part)):
            return self._retried(lambda: self._info(part, inputs))

    def _info(self, part: int, inputs: int) -> PartInfo | None:
        """What a part says of itself; None where it is not there, not whole, or another run's."""
        expected: dict[str, Any] = {
            "part": part, "identity": self.identity, "inputs": inputs
        }  # fmt: skip
        try:
            with self._system.open_input_file(self.part_path(part)) as file:
                about = about_part(file, self.suffix)
        except FileNotFoundError:
            return None
        if self.suffix == "jsonl" and about is not None:  # which says nothing of its run
            about = expected | about
            if about["failures"]:
                about["failures"] = self._noted_failures(part, about["failures"])
        if about is None or about != about | expected:
            return None
        return PartInfo(part, inputs, about["failures"])

    def commit(self, part: int, results: "Sequence[Result]") -> PartInfo:
        """Writes a part: entries for features, records for predictions."""
        failures = failures_of((result.error, result.kind) for result in results)
        about = {
            "part": part, "identity": self.identity, "inputs": len(results), "failures": failures
        }  # fmt: skip
        stats = self._listed(part)[1] if self.suffix == "rows" else b""
        data = part_file(results, self.suffix, self.manifest.identity, about, stats)
        path = self.part_path(part)
        if self.suffix == "jsonl" and failures:
            with self.writing():
                self._system.create_dir(self.path("_failures"), recursive=True)
            self.put_json(self._failures_name(part), failures)
        with self.writing(path):
            self._retried(lambda: put(self._system, path, data))
        return PartInfo(part, len(results), failures)

    @staticmethod
    def _failures_name(part: int) -> str:
        return f"_failures/{part:05}.json"

    def _noted_failures(self, part: int, found: dict[str, int]) -> dict[str, int]:
        """Those of a part in .jsonl with their kinds, if these were noted of as many."""
        data = read(self._system, self.path(self._failures_name(part)))
        with suppress(ValueError):
            noted: dict[str, int] = json.loads(data or b"{}")
            return noted if sum(noted.values()) == sum(found.values()) else found
        return found

    def remove_part(self, part: int) -> None:
        """Removes a part, so that it is missing."""
        with self.writing(self.part_path(part)):
            remove(self._system, self.part_path(part))

    def _retried(self, action: Callable[[], T]) -> T:
        for attempt in range(1, self.tries):
            try:
                return action()
            except OSError:
                time.sleep(2.0**attempt / 4)
        return action()

    def writing(self, path: str = "") -> AbstractContextManager[None]:
        """Says what cannot be written, and what is kept where the disk is full or fails."""
        return writing(path or self.output, then=self.kept())

    def kept(self) -> str:
        """What is there already, and how to go on; nothing where that need not be said."""
        return ""


def _removed_at(name: str) -> int:
    return 0 if name == "_manifest.json" else 2 if name.startswith(("part-", "_assembled")) else 1


def earlier(folder: object) -> UsageError:
    """What to say of a folder that this version cannot go on with."""
    return UsageError(
        f"{folder} holds an unfinished run of an earlier version of this program: finish it with "
        "that, or give --overwrite to start afresh."
    )
