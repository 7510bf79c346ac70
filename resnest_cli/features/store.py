"""The folder of parts beside an output: what is done, committed so that no kill can damage it.

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
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from resnest_cli.errors import ResnestError
from resnest_cli.features.job import Mark
from resnest_cli.features.lines import Line, read_lines
from resnest_cli.files import append, atomic_file, sync_folder

FORMAT = 1
Kind = Literal["run", "retry", "merge"]

_OURS = re.compile(
    r"\d{6,}\.(rows|csv)(\.tmp)?|\.?(state\.json|index\.jsonl)(\..*)?|assembled\..*|lock"
)


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the index: inputs, rows and bytes of a part, and the list up to its end.

    `failures` counts errors by kind. `end` stands with the last one of all; then `skipped` counts
    files that are no images.
    """

    number: int
    inputs: int
    rows: int
    bytes: int
    line_bytes: int
    mark: Mark
    failures: dict[str, int]
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
        """A new folder of parts, in place of one that is there.

        Raises:
            OSError: it cannot be written.
        """
        folder = cls.folder_of(target)
        folder.mkdir(exist_ok=True)
        # The old state goes last, by being replaced: a kill leaves one that says what this was.
        _remove_ours(folder, but="state.json")
        store = cls(folder, kind, identity)
        state = {"format": FORMAT, "kind": kind, "identity": identity}
        _write_whole(folder / "state.json", json.dumps(state, indent=1).encode())
        return store

    @classmethod
    def load(cls, target: Path) -> "Store | None":
        """What an earlier run has left; None if that is nothing of use.

        Raises:
            ResnestError: it cannot be read, or is of a later version of this program.
        """
        folder = cls.folder_of(target)
        try:
            state = json.loads((folder / "state.json").read_text("utf-8"))
            if state["format"] > FORMAT:
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

    def lines(self) -> Iterator[Line]:
        """The lines of all parts."""
        for part in self.parts:
            if part.inputs:
                yield from self.lines_of(part)

    def lines_of(self, part: Part) -> Iterator[Line]:
        """The lines of one part that has inputs."""
        return read_lines(self.lines_path(part), header=False)

    def names_from(self, first: int) -> Iterator[str]:
        """The names of the inputs from number `first` on."""
        return (line.name for number, line in enumerate(self.lines()) if number >= first)

    def commit(self, part: Part) -> None:
        """Makes a part count whose files are written and synced under their temporary names.

        Raises:
            OSError: the disk is full, or another failure; the part does not count then.
        """
        if part.inputs:
            for path in (self.rows_path(part), self.lines_path(part)):
                temporary(path).replace(path)
            sync_folder(self.folder)
        self._append(asdict(part))
        self.parts.append(part)

    def publish(self) -> None:
        """Notes that the files of the output lie in the folder, whole."""
        sync_folder(self.folder)
        self._append({"published": True})
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

        Those are computed again; the number of their inputs. Rows may have gone to the output.

        Raises:
            OSError: the folder cannot be read or written.
        """
        moved = _row_bytes(self.folder / "assembled.npy") if self.complete else 0
        whole = 0
        for part in self.parts:
            if part.inputs and not self._is_whole(part, moved):
                break
            moved -= part.bytes
            whole += 1
        lost = self.parts[whole:]
        if lost:
            del self.parts[whole:]
            entries = [asdict(part) for part in self.parts]
            _write_whole(self._index, b"".join(map(_line, entries)))
        return sum(part.inputs for part in lost)

    def _is_whole(self, part: Part, moved: int) -> bool:
        """Whether its files are there; `moved` bytes of the output may hold the rows instead."""
        lines, rows = _size(self.lines_path(part)), _size(self.rows_path(part))
        gone = rows is None and self.complete and part.bytes <= moved
        return lines == part.line_bytes and (gone or rows == part.bytes)

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

    def _append(self, entry: dict[str, Any]) -> None:
        append(self._index, _line(entry))


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _size(path: Path) -> int | None:
    """The size of a file; None where there is none."""
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


def temporary(path: Path) -> Path:
    """Where a file is written before it counts."""
    return path.with_name(path.name + ".tmp")


def _write_whole(path: Path, data: bytes) -> None:
    """A small file, there as a whole or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def discard(folder: Path) -> None:
    """Removes a folder of parts, and what is in it if it is ours; its state first of all.

    Raises:
        OSError: the system refuses.
    """
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


def free_bytes(folder: Path) -> int:
    """Room that is left on the disk of a folder."""
    return shutil.disk_usage(folder).free
