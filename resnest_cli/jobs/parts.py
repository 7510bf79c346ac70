"""The folder of parts beside an output that is files, until they are assembled.

    feats.npy.parts/state.json       what was begun: what decides the bytes, which list, what for
                    listing.jsonl    the inputs that are computed, and listing.stat; see `listing`
                    plan             of an update: what becomes of each old and new input
                    000000.rows      rows of a part, as they will stand in the output
                    000000.csv       the lines of `feats.csv` for the same inputs, without rows
                    index.jsonl      a line for each part that is whole; nothing else counts

A part is written under a temporary name, synced, renamed, and only then entered in the index, which
is appended to and synced. So a kill at any moment leaves whole parts, and files that the index does
not know, which are removed on the next start. A last line of the index that was cut off counts as
not written; a part whose files are missing or damaged is computed again.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import append, atomic_file, sync_folder
from resnest_cli.jobs.formats import SUFFIXES, formatted, read_lines
from resnest_cli.jobs.job import Item, failures_of
from resnest_cli.jobs.listing import STAT_BYTES, Listing, Mark
from resnest_cli.jobs.run import Manifest

_FORMAT = 2
_BUFFER = 2**20
_OURS = re.compile(
    r"\d{6,}\.(rows|csv)(\.tmp)?|\.?(state\.json|index\.jsonl)(\..*)?|assembled\..*|lock"
    r"|listing\.(jsonl|stat)|plan(\.stat)?"
)
Kind = Literal["run", "retry", "update", "merge"]


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the index: inputs, rows and bytes of a part; failures by kind."""

    number: int
    inputs: int
    rows: int
    bytes: int
    line_bytes: int
    failures: dict[str, int] = field(default_factory=dict)


class Store:
    """The folder of parts of one output.

    A merge has no manifest. `final` is the end of the list of an updated output.
    """

    def __init__(
        self, folder: Path, kind: Kind, manifest: Manifest | None, final: Mark | None = None
    ) -> None:
        self.folder, self.kind, self.final = folder, kind, final
        self._manifest = manifest
        self.parts: dict[int, Part] = {}  # whole ones, by number
        self.published = False  # the files of the output are whole; only renaming is left
        self.listing = Listing(folder)

    @staticmethod
    def folder_of(target: Path) -> Path:
        """Where the parts of an output lie."""
        return target.with_name(target.name + ".parts")

    @classmethod
    def create(
        cls, target: Path, kind: Kind, manifest: Manifest | None, final: Mark | None = None
    ) -> "Store":
        """Notes what the folder is for; a listing is written already."""
        store = cls(cls.folder_of(target), kind, manifest, final)
        state: dict[str, Any] = {"format": _FORMAT, "kind": kind}
        if manifest is not None:
            state |= asdict(manifest) | {"listing": manifest.listing.about}
            del state["finished"]
        if final is not None:
            state["final"] = final.about
        with atomic_file(store.folder / "state.json") as file:
            file.write(json.dumps(state, indent=1).encode())
        return store

    @classmethod
    def load(cls, target: Path) -> "Store | None":
        """What an earlier run has left; None if that is nothing of use."""
        folder = cls.folder_of(target)
        try:
            state = json.loads((folder / "state.json").read_text("utf-8"))
            made, kind = state.pop("format"), state.pop("kind")
            if made > _FORMAT:
                raise ResnestError(f"{folder} was made by a later version of this program.")
            if made < _FORMAT:
                raise UsageError(
                    f"{folder} holds an unfinished run of an earlier version of this program: "
                    "finish it with that, or give --overwrite to start afresh."
                )
            final = Mark.of(state.pop("final")) if "final" in state else None
            if kind != "merge":
                manifest = Manifest(**(state | {"listing": Mark.of(state["listing"])}))
            store = cls(folder, kind, None if kind == "merge" else manifest, final)
            store._read_index()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResnestError(
                f"{folder}: cannot be read: {error}. --overwrite starts afresh."
            ) from error
        return store

    @property
    def manifest(self) -> Manifest:
        """What was begun, of anything but a merge."""
        assert self._manifest is not None
        return self._manifest

    @property
    def complete(self) -> bool:
        """Whether all parts are whole."""
        return len(self.parts) == len(self.manifest.sizes)

    @property
    def inputs(self) -> int:
        """Inputs that are done."""
        return sum(part.inputs for part in self.parts.values())

    @property
    def rows(self) -> int:
        """Rows that are there."""
        return sum(part.rows for part in self.parts.values())

    @property
    def in_order(self) -> list[Part]:
        """The whole parts by number."""
        return [self.parts[number] for number in sorted(self.parts)]

    def rows_path(self, number: int) -> Path:
        """Where the rows of a part lie, until they have been moved to the output."""
        return self.folder / f"{number:06}.rows"

    def lines_path(self, number: int) -> Path:
        """Where its lines lie."""
        return self.folder / f"{number:06}.csv"

    def lines(self) -> Iterator[Item]:
        """The inputs of all parts with their errors and stats, without rows."""
        with self.listing.stat_path.open("rb", buffering=_BUFFER) as stats:
            for part in self.in_order:
                for line in read_lines(self.lines_path(part.number), header=False):
                    yield line._replace(stat=stats.read(STAT_BYTES))

    def entries(self, row_bytes: int) -> Iterator[Item]:
        """The same with rows."""
        lines = self.lines()
        for part in self.in_order:
            with self.rows_path(part.number).open("rb", buffering=_BUFFER) as rows:
                for _ in range(part.inputs):
                    line = next(lines)
                    yield line._replace(row=rows.read(row_bytes) if line.error is None else None)

    def commit(self, number: int, items: list[Item]) -> Part:
        """Writes a part, whole or not at all; raises OSError."""
        rows, lines = (path(number) for path in (self.rows_path, self.lines_path))
        there = [item.row for item in items if item.row is not None]
        contents = {rows: there, lines: [formatted(item.name, None, item.error) for item in items]}
        temporary = {path: path.with_name(path.name + ".tmp") for path in contents}
        try:
            for path, content in contents.items():
                with temporary[path].open("wb", buffering=_BUFFER) as file:
                    file.writelines(content)
                    file.flush()
                    os.fsync(file.fileno())
            for path in contents:
                temporary[path].replace(path)
        except OSError:
            for path in (*contents, *temporary.values()):  # a full disk needs the room
                with suppress(OSError):
                    path.unlink()
            raise
        sync_folder(self.folder)
        failures = failures_of((item.error, item.kind) for item in items)
        size, line_size = (sum(map(len, content)) for content in contents.values())
        part = Part(number, len(items), len(there), size, line_size, failures)
        append(self._index, json.dumps(asdict(part)).encode() + b"\n")
        self.parts[number] = part
        return part

    def publish(self) -> None:
        """Notes that the files of the output lie in the folder, whole."""
        sync_folder(self.folder)
        append(self._index, b'{"published": true}\n')
        self.published = True

    def tidy(self) -> None:
        """Removes what a kill has left and the index does not know."""
        known = {path(n).name for n in self.parts for path in (self.rows_path, self.lines_path)}
        for path in self.folder.iterdir():
            foreign = path.name[0].isdigit() and path.name not in known
            if _OURS.fullmatch(path.name) and (foreign or path.name.endswith(".tmp")):
                path.unlink()

    def repair(self) -> int:
        """Forgets parts whose files are missing or of another size; returns how many inputs."""
        parts = self.in_order
        moved = _row_bytes(self.folder / "assembled.npy") if self.complete else -1
        ends = accumulate(part.bytes for part in parts)
        lost = []
        for part, end in zip(parts, ends, strict=True):
            rows, lines = _size(self.rows_path(part.number)), _size(self.lines_path(part.number))
            # The output may hold the rows instead.
            whole_rows = rows == part.bytes or (rows is None and end <= moved)
            if not (whole_rows and lines == part.line_bytes):
                lost.append(self.parts.pop(part.number))
        if lost:
            (self.folder / "assembled.npy").unlink(missing_ok=True)
            moved_ones = [n for n in self.parts if not self.rows_path(n).exists()]
            lost += [self.parts.pop(number) for number in moved_ones]
            with atomic_file(self._index) as file:
                for part in self.in_order:
                    file.write(json.dumps(asdict(part)).encode() + b"\n")
        return sum(part.inputs for part in lost)

    @property
    def _index(self) -> Path:
        return self.folder / "index.jsonl"

    def _read_index(self) -> None:
        """The parts up to the first line that a kill or a failing disk has left unreadable."""
        data = self._index.read_bytes() if self._index.exists() else b""
        end = 0
        with suppress(ValueError, KeyError, TypeError):
            for line in data.splitlines(keepends=True):
                entry = json.loads(line)
                if not line.endswith(b"\n"):
                    break
                if "published" in entry:
                    self.published = True
                else:
                    part = Part(**entry)
                    self.parts[part.number] = part
                end += len(line)
        if end < len(data):
            with self._index.open("rb+") as file:
                file.truncate(end)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _row_bytes(path: Path) -> int:
    """How many bytes of rows a file of numpy's format 1.0 holds; -1 where there is none."""
    try:
        with path.open("rb") as file:
            header = file.read(10)
        return max(0, path.stat().st_size - 10 - int.from_bytes(header[8:], "little"))
    except FileNotFoundError:
        return -1


def outputs(target: Path) -> list[Path]:
    """The files of an output, the one that is named last."""
    beside = [target.with_suffix(suffix) for suffix in (".csv", ".json", ".stat")]
    return [path for path in beside if path != target] + [target]


def publish(store: Store, target: Path) -> None:
    """Renames the files of the output into place, the matrix last, and removes the parts."""
    for path in outputs(target):
        made = store.folder / f"assembled{path.suffix.lower()}"
        if made.exists():  # else it was renamed before a kill
            made.replace(path)
    sync_folder(target.parent)
    discard(store.folder)


def discard(folder: Path) -> None:
    """Removes a folder of parts, and what is in it if it is ours; its state first of all."""
    with suppress(FileNotFoundError, NotADirectoryError):
        (folder / "state.json").unlink()
    if not folder.is_dir():
        return
    empty(folder)
    with suppress(OSError):  # something of the user's lies there
        folder.rmdir()


def empty(folder: Path, but: str = "") -> None:
    """Removes the files that are ours, the index first: without it no part counts."""
    (folder / "index.jsonl").unlink(missing_ok=True)
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.is_file() and path.name != but:
            path.unlink()


def check_others(target: Path) -> None:
    """Whether nothing of another format has, or will have, files of the same names."""
    lines, info = target.with_suffix(".csv"), target.with_suffix(".json")
    for suffix in SUFFIXES:
        other = target.with_suffix(suffix)
        if other.exists() and other not in outputs(target) and info.exists():
            raise UsageError(
                f"{other} is there: its {lines.name} and {info.name} would be replaced. Remove it, "
                "or give -o another name."
            )
        if other != target and (Store.folder_of(other) / "state.json").exists():
            raise UsageError(
                f"{Store.folder_of(other)} holds an unfinished run, which writes {info}, too: "
                f"finish that with -o {other} --resume, remove the folder, or give -o another name."
            )
