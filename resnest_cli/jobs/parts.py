"""What is there under the name of an output: the folder of parts beside it, and finished files.

    feats.npy.parts/state.json     what decides the bytes of the output, and what the parts are for
                    000000.rows    rows, one after another, as they will stand in the output
                    000000.csv     the lines of `feats.csv` for the same inputs
                    index.jsonl    a line for each part that is whole; nothing else counts

A part is written under a temporary name, synced, renamed, and only then entered in the index, which
is appended to and synced. So a kill at any moment leaves whole parts, and files that the index does
not know, which are removed on the next start. A last line of the index that was cut off counts as
not written; parts whose files are missing or damaged are computed again, with all after them. How
the work is cut into parts has no influence on the output.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import append, atomic_file, locked, sync_folder, writing
from resnest_cli.jobs.formats import SUFFIXES, formatted, read_info, read_lines
from resnest_cli.jobs.job import NO_MARK, Item, refused
from resnest_cli.jobs.listing import Mark
from resnest_cli.paths import check_place

# A kill loses what is not committed: at most so many seconds of work. In bytes, a part is what the
# disk needs as room beside the output while that is assembled.
MOST_SECONDS = 20.0
MOST_BYTES = 64 * 2**20
MOST_INPUTS = 2**16

_FORMAT = 1
_BUFFER = 2**20
_OURS = re.compile(
    r"\d{6,}\.(rows|csv)(\.tmp)?|\.?(state\.json|index\.jsonl)(\..*)?|assembled\..*|lock"
)
Kind = Literal["run", "retry", "merge"]


@dataclass(slots=True)
class Part:
    """One line of the index: inputs, rows and bytes of a part, and the list up to its end.

    `failures` counts errors by kind. `end` stands with the last one of all; then `skipped` counts
    files that are no images.
    """

    number: int
    inputs: int = 0
    rows: int = 0
    bytes: int = 0
    line_bytes: int = 0
    mark: Mark = NO_MARK
    failures: dict[str, int] = field(default_factory=dict)
    end: bool = False
    skipped: int = 0


class Store:
    """The folder of parts of one output."""

    def __init__(self, folder: Path, kind: Kind, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.kind = kind
        self.identity = identity
        self.parts: list[Part] = []
        self.published = False  # the files of the output are whole; only renaming is left

    @staticmethod
    def folder_of(target: Path) -> Path:
        """Where the parts of an output lie."""
        return target.with_name(target.name + ".parts")

    @classmethod
    def create(cls, target: Path, kind: Kind, identity: dict[str, Any]) -> "Store":
        """A new folder of parts, in place of one that is there."""
        folder = cls.folder_of(target)
        folder.mkdir(exist_ok=True)
        # The old state goes last, by being replaced: a kill leaves one that says what this was.
        _remove_ours(folder, but="state.json")
        state = {"format": _FORMAT, "kind": kind, "identity": identity}
        with atomic_file(folder / "state.json") as file:
            file.write(json.dumps(state, indent=1).encode())
        return cls(folder, kind, identity)

    @classmethod
    def load(cls, target: Path) -> "Store | None":
        """What an earlier run has left; None if that is nothing of use."""
        folder = cls.folder_of(target)
        try:
            state = json.loads((folder / "state.json").read_text("utf-8"))
            if state["format"] > _FORMAT:
                raise ResnestError(f"{folder} was made by a later version of this program.")
            store = cls(folder, state["kind"], state["identity"])
            store._read_index()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResnestError(
                f"{folder}: cannot be read: {error}. --overwrite starts afresh."
            ) from error
        return store

    @property
    def complete(self) -> bool:
        """Whether all inputs are done."""
        return bool(self.parts) and self.parts[-1].end

    @property
    def inputs(self) -> int:
        """Inputs that are done."""
        return sum(part.inputs for part in self.parts)

    @property
    def rows(self) -> int:
        """Rows that are there."""
        return sum(part.rows for part in self.parts)

    def rows_path(self, part: Part) -> Path:
        """Where the rows of a part lie, until they have been moved to the output."""
        return self.folder / f"{part.number:06}.rows"

    def lines_path(self, part: Part) -> Path:
        """Where its lines lie."""
        return self.folder / f"{part.number:06}.csv"

    def lines(self) -> Iterator[Item]:
        """The lines of all parts."""
        for part in self.parts:
            if part.inputs:
                yield from self.lines_of(part)

    def lines_of(self, part: Part) -> Iterator[Item]:
        """The lines of one part that has inputs."""
        return read_lines(self.lines_path(part), header=False)

    def commit(self, part: Part) -> None:
        """Makes a part count whose files are written and synced under their temporary names."""
        if part.inputs:
            for path in (self.rows_path(part), self.lines_path(part)):
                _temporary(path).replace(path)
            sync_folder(self.folder)
        append(self._index, json.dumps(asdict(part)).encode() + b"\n")
        self.parts.append(part)

    def publish(self) -> None:
        """Notes that the files of the output lie in the folder, whole."""
        sync_folder(self.folder)
        append(self._index, b'{"published": true}\n')
        self.published = True

    def tidy(self) -> None:
        """Removes what a kill has left and the index does not know."""
        known = {path.name for p in self.parts for path in (self.rows_path(p), self.lines_path(p))}
        for path in self.folder.iterdir():
            foreign = path.name[0].isdigit() and path.name not in known
            if _OURS.fullmatch(path.name) and (foreign or path.name.endswith(".tmp")):
                path.unlink()

    def repair(self) -> int:
        """Forgets the parts from the first one on whose files are missing or of another size.

        Those are computed again; returns the number of their inputs.
        """
        moved = _row_bytes(self.folder / "assembled.npy") if self.complete else 0
        whole = 0
        for part in self.parts:
            gone = self.complete and part.bytes <= moved  # the output may hold the rows instead
            rows, lines = _size(self.rows_path(part)), _size(self.lines_path(part))
            whole_rows = rows == part.bytes or (rows is None and gone)
            if part.inputs and not (whole_rows and lines == part.line_bytes):
                break
            moved -= part.bytes
            whole += 1
        lost = self.parts[whole:]
        if lost:
            del self.parts[whole:]
            with atomic_file(self._index) as file:
                for part in self.parts:
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
                    self.parts.append(Part(**(entry | {"mark": Mark(**entry["mark"])})))
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
    """How many bytes of rows a file of numpy's format 1.0 holds; 0 where there is none."""
    try:
        with path.open("rb") as file:
            header = file.read(10)
        return max(0, path.stat().st_size - 10 - int.from_bytes(header[8:], "little"))
    except FileNotFoundError:
        return 0


def _temporary(path: Path) -> Path:
    """Where a file is written before it counts."""
    return path.with_name(path.name + ".tmp")


def discard(folder: Path) -> None:
    """Removes a folder of parts, and what is in it if it is ours; its state first of all."""
    with suppress(FileNotFoundError, NotADirectoryError):
        (folder / "state.json").unlink()
    if not folder.is_dir():
        return
    _remove_ours(folder)
    with suppress(OSError):  # something of the user's lies there
        folder.rmdir()


def _remove_ours(folder: Path, but: str = "") -> None:
    """Removes the files that are ours, the index first: without it no part counts."""
    (folder / "index.jsonl").unlink(missing_ok=True)
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.is_file() and path.name != but:
            path.unlink()


class PartWriter:
    """Writes items to the parts of a store; only whole batches are ever committed.

    A part is committed in a thread while the next one is filled: the working process sends through
    a pipe that holds a few rows, so who reads it must not wait while 64 MB are synced. All methods
    raise OSError where the disk is full or fails; what was committed stays valid.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._row = store.rows
        self._now = Part(store.parts[-1].number + 1 if store.parts else 0)
        self._marked: Part | None = None  # as it was at the end of the last whole batch
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        self._begun = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._pending: Future[float] | None = None
        self.seconds = 0.0  # that were spent writing, in both threads

    def add(self, item: Item) -> None:
        """One more input."""
        start = time.perf_counter()
        rows, lines = self._files or self._open()
        now, row = self._now, None
        if item.row is None:
            kind = item.kind or "other"
            now.failures[kind] = now.failures.get(kind, 0) + 1
        else:
            row = self._row
            self._row += 1
            now.rows += 1
            now.bytes += rows.write(item.row)
        now.line_bytes += lines.write(formatted(item.name, row, item.error))
        now.inputs += 1
        self.seconds += time.perf_counter() - start

    def reached(self, mark: Mark, *, commit: bool = False) -> None:
        """A batch is whole; the part is committed if it is due, or if that is asked for."""
        now = self._now
        now.mark = mark
        self._marked = replace(now, failures=dict(now.failures))
        late = time.monotonic() - self._begun > MOST_SECONDS
        if commit or late or now.bytes >= MOST_BYTES or now.inputs >= MOST_INPUTS:
            self._hand_over()
        if commit:
            self._wait()

    def finish(self, mark: Mark, skipped: int) -> None:
        """All inputs are done: commits what is left, with the end."""
        self._now.mark, self._now.end, self._now.skipped = mark, True, skipped
        if self._files is not None:
            self._hand_over()
            self._wait()
        else:
            self._wait()
            self._store.commit(self._now)

    def salvage(self) -> None:
        """Commits the batches that are whole; the rest of an interrupted one is dropped."""
        if self._files is None or self._marked is None:
            return
        self._now = self._marked
        sizes = (self._now.bytes, self._now.line_bytes)
        for file, size in zip(self._files, sizes, strict=True):
            file.flush()
            os.ftruncate(file.fileno(), size)
        self._hand_over()
        self._wait()

    def close(self) -> None:
        """Drops what is not committed; never raises."""
        for file in self._files or ():
            with suppress(OSError):
                file.close()
        self._files = None
        self._thread.shutdown(wait=True)
        with suppress(OSError):
            self._store.tidy()  # a full disk needs the room

    def _open(self) -> tuple[BinaryIO, BinaryIO]:
        paths = self._store.rows_path(self._now), self._store.lines_path(self._now)
        rows, lines = (_temporary(path).open("wb", buffering=_BUFFER) for path in paths)
        self._files = rows, lines
        self._begun = time.monotonic()
        return self._files

    def _hand_over(self) -> None:
        """Has the part committed in the background, once the one before is."""
        self._wait()
        assert self._files is not None
        files, self._files = self._files, None
        part, self._now, self._marked = self._now, Part(self._now.number + 1), None
        self._pending = self._thread.submit(self._commit, files, part)

    def _commit(self, files: tuple[BinaryIO, BinaryIO], part: Part) -> float:
        """The seconds that it took."""
        start = time.perf_counter()
        try:
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        finally:
            for file in files:
                with suppress(OSError):
                    file.close()
        self._store.commit(part)
        return time.perf_counter() - start

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self.seconds += pending.result()


@dataclass(frozen=True, slots=True)
class State:
    """An unfinished run's `store`, a finished output's `info`; both where failed rows are retried.

    Neither: there is nothing, or nothing that counts. `published`: a killed run had done all but
    the last renaming, so that it ends only now. `damaged` counts inputs to be computed again.
    """

    store: Store | None = None
    info: dict[str, Any] | None = None
    published: bool = False
    damaged: int = 0

    @property
    def identity(self) -> dict[str, Any] | None:
        """What an unfinished or finished run says of itself."""
        return self.store.identity if self.store else self.info


def outputs(target: Path) -> list[Path]:
    """The files of an output, the one that is named last."""
    beside = [target.with_suffix(suffix) for suffix in (".csv", ".json")]
    return [path for path in beside if path != target] + [target]


def publish(store: Store, target: Path) -> None:
    """Renames the files of the output into place, the matrix last, and removes the parts."""
    for path in outputs(target):
        made = store.folder / f"assembled{path.suffix.lower()}"
        if made.exists():  # else it was renamed before a kill
            made.replace(path)
    sync_folder(target.parent)
    discard(store.folder)


def check_name(target: Path) -> None:
    """Whether an output can have this name, before the work begins.

    Raises:
        UsageError: another extension than those of SUFFIXES.
        ResnestError: it is a folder, there is no folder for it, or its library is missing.
    """
    if target.suffix not in SUFFIXES:
        raise UsageError(f"{target}: the extension says the format: use {', '.join(SUFFIXES)}.")
    for path in (target, *outputs(target)):
        check_place(path)
    # Not imported: its threads would be in the way of the fork that starts the work.
    if target.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ResnestError('.parquet needs pyarrow. Run: pip install "resnest-cli[parquet]"')


@contextmanager
def held(target: Path) -> Iterator[None]:
    """Holds all files of an output, and makes its folder of parts, which goes if it has no use."""
    folder = Store.folder_of(target)
    with locked(*outputs(target)):
        with writing(target):
            folder.mkdir(exist_ok=True)
        try:
            yield
        finally:
            if not (folder / "state.json").exists():
                with suppress(OSError):
                    discard(folder)


def look(target: Path, *, resume: bool, overwrite: bool) -> State:
    """What there is to go on with; finishes the renaming that a kill has interrupted."""
    store = None if overwrite else Store.load(target)
    existing = [] if overwrite else [path for path in outputs(target) if path.exists()]
    if store is None and not existing:
        check_others(target)
        return State()
    if not resume and store is not None:
        done = f" ({store.inputs:,} inputs are done)"
        raise refused(store.folder, unfinished=True, done=done)
    if not resume:
        raise refused(existing[0], unfinished=False)
    if store is None:
        # Whoever made the output was killed while it removed the parts.
        left = any(Store.folder_of(target).glob("[0-9]*"))
        return State(info=read_info(target), published=left)
    if store.kind == "merge":
        raise UsageError(f"{store.folder} holds an unfinished merge: run `resnest merge` again.")
    if store.published:
        with writing(target):
            publish(store, target)
        return State(info=read_info(target), published=True)
    with writing(store.folder):
        damaged = store.repair()
        store.tidy()
    return State(store, read_info(target) if store.kind == "retry" else None, damaged=damaged)


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
