"""What is to be done in a folder, written down there before anything is done.

`.resnest-sort-<number>.jsonl`, a new number for each run. Its lines, each a JSON object:

    {"version": 1, "asked": {...}}              what a run that goes on must have been asked, too
    {"record": {...}, "steps": [...], "stays"}  one for each input, in order
    {"state": "planned", "made": [...]}         all are there, synced; which folders did not exist
    {"state": "finished"}, "undoing", "undone"  how far the steps have come

Which steps are done is seen from the files themselves (`transfer`). A line that a kill cut off is
removed before others follow.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from resnest_cli.errors import ResnestError
from resnest_cli.files import append, atomic_file, reading, writing
from resnest_cli.inference.ranking import Prediction, Record
from resnest_cli.sorting.plan import Entry
from resnest_cli.sorting.transfer import Step

State = Literal["planning", "planned", "finished", "undoing", "undone"]

_VERSION = 1
_NAME = re.compile(r"\.resnest-sort-([0-9]+)\.jsonl")
_DAMAGE = (ValueError, KeyError, TypeError)  # what a disk may have made of JSON
_ENTRY = b'{"record"'


class Journal:
    """The journal of one run. The folder must be locked."""

    def __init__(self, path: Path) -> None:
        """Opens one that is there; see `begin` for a new one.

        Raises:
            ResnestError: it cannot be read, or a later version of the program wrote it.
        """
        self.path = path
        self.asked: dict[str, Any] = {}
        self.state: State = "planning"
        self.made: list[str] = []
        self.entries_there = 0
        self._file: BinaryIO | None = None
        if path.exists():
            with reading(path, damage=_DAMAGE):
                whole = self._look()
            with writing(path):
                os.truncate(path, whole)

    @classmethod
    def numbers(cls, folder: Path) -> list[int]:
        """Those of the journals in a folder, in order."""
        names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208
        return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))

    @classmethod
    def last(cls, folder: Path) -> Self | None:
        """The journal of the last run in a folder."""
        numbers = cls.numbers(folder)
        return cls(_path(folder, numbers[-1])) if numbers else None

    @classmethod
    def begin(cls, folder: Path, asked: dict[str, Any]) -> Self:
        """The journal of a new run; its file appears with the first input."""
        journal = cls(_path(folder, max(cls.numbers(folder), default=0) + 1))
        journal.asked = asked
        return journal

    def entries(self) -> Iterator[Entry]:
        """The inputs that were planned so far."""
        with reading(self.path, damage=_DAMAGE), self.path.open("rb") as file:
            for line in file:
                if line.startswith(_ENTRY):
                    yield _entry(json.loads(line))

    def add(self, entry: Entry) -> None:
        """One more input; after a kill it is there, after a power failure maybe not."""
        with writing(self.path):
            if not self.path.exists():
                with atomic_file(self.path) as first:
                    first.write(_line({"version": _VERSION, "asked": self.asked}))
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            values = {"record": asdict(entry.record), "steps": entry.steps, "stays": entry.stays}
            rest = memoryview(_line(values))
            while rest:
                rest = rest[self._file.write(rest) :]

    def cut(self, entries: int) -> None:
        """Forgets all but the first so many inputs."""
        with reading(self.path), self.path.open("rb") as file:
            for _ in range(entries + 1):
                file.readline()
            end = file.tell()
        with writing(self.path):
            os.truncate(self.path, end)

    def mark(self, state: State, **more: Any) -> None:
        """Writes how far the run has come; all that stands before is on the disk, too."""
        self.close()
        with writing(self.path):
            append(self.path, _line({"state": state, **more}))
        self.state = state
        self.made = more.get("made", self.made)

    def remove(self) -> None:
        """Forgets the run."""
        self.close()
        with writing(self.path):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """No inputs follow for now."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _look(self) -> int:
        """Reads how far the run has come; returns where the whole lines end."""
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"}\n"):
                    break
                if line.startswith(_ENTRY):
                    self.entries_there += 1
                elif number:
                    found = json.loads(line)
                    self.state = found["state"]
                    self.made = found.get("made", self.made)
                else:
                    self._take_first(json.loads(line))
                end += len(line)
        return end

    def _take_first(self, found: dict[str, Any]) -> None:
        if found.get("version") != _VERSION:
            raise ResnestError(f"{self.path} was written by another version of resnest: use that.")
        self.asked = found["asked"]


def _path(folder: Path, number: int) -> Path:
    return folder / f".resnest-sort-{number}.jsonl"


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _entry(values: dict[str, Any]) -> Entry:
    given = values["record"]
    given["predictions"] = tuple(Prediction(**one) for one in given["predictions"])
    given["sorted_to"] = tuple(given["sorted_to"])
    steps = tuple(Step(*step) for step in values["steps"])
    return Entry(Record(**given), steps, values["stays"])
