"""A record -> the steps that sort its photo and its sidecars. Reads the disk, changes nothing.

A photo goes to the folder of its best class; to `unsure` where the answer was refused, or where
--threshold leaves no class. Of a model that gives several labels: copies and links go to the folder
of each that is selected, a move goes to the most probable of them, and a photo without any to
`no label`.

Sidecars take the photo's new name: `x.jpg.xmp`, `x.xmp` where no other file is called x, and the
`x.mov` of a live photo where that is asked for. Names are new in their folder, without case; a
photo finds `x-2.jpg` where `x.jpg` is taken.
"""

import filecmp
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from resnest_cli.inference.ranking import Prediction, Record
from resnest_cli.options import How
from resnest_cli.sorting.folder_names import NO_LABEL, UNSURE, alike, folder_names
from resnest_cli.sorting.transfer import Step, link_text

# Why a photo stays where it is; nothing is said of one that is sorted.
Stays = Literal["", "error", "no file", "sorted before", "named twice", "there already"]


class Entry(NamedTuple):
    """An input of a plan: its record, what is to be done, and why nothing is."""

    record: Record
    steps: tuple[Step, ...] = ()
    stays: Stays = ""


class Planner:
    """Plans one record after another. Names given out are kept in a database on the disk."""

    def __init__(
        self, folder: Path, how: How, class_names: Sequence[str], *, live_photos: bool = False
    ) -> None:
        self._folder, self._how = folder, how
        self._names = folder_names(class_names)
        self._sidecars = (".xmp", ".mov") if live_photos else (".xmp",)
        self._sorted = {os.path.realpath(folder / n) for n in (*self._names, UNSURE, NO_LABEL)}
        self._taken = sqlite3.connect("")
        self._taken.execute("CREATE TABLE taken (name BLOB PRIMARY KEY) WITHOUT ROWID")

    def plan(self, record: Record) -> Entry:
        """What is to be done with the photo of a record, which gets `sorted_to`."""
        source, stays = self._source(record)
        with suppress(OSError):  # it is gone since, or its folder cannot be read
            return self._planned(record, source) if not stays else _kept(record, stays)
        return _kept(record, "no file")

    def _planned(self, record: Record, source: str) -> Entry:
        group = [source, *self._beside(source)]
        steps, targets = list[Step](), list[str]()
        for name in self._folders(record):
            found = list(self._steps(group, name))
            targets.append(found[0].target)
            steps += found if not self._is_there(found[0]) else []
        record = replace(record, sorted_to=tuple(targets))
        return Entry(record, tuple(steps), "" if steps else "there already")

    def remember(self, entry: Entry) -> None:
        """Takes the names of what was planned by a run that was killed."""
        self._source(entry.record)
        for target in (*(entry.record.sorted_to or ()), *(step.target for step in entry.steps)):
            self._take(alike(target))

    def _source(self, record: Record) -> tuple[str, Stays]:
        """The absolute path of a photo, or why it stays."""
        if record.error is not None:
            return "", "error"
        # Of an address, a member of an archive or a frame this is the name of no file.
        if record.input == "-" or not os.path.isfile(record.input):  # noqa: PTH113
            return "", "no file"
        folder, name = os.path.split(os.path.abspath(record.input))  # noqa: PTH100
        real = _real(folder)
        if not self._sorted.isdisjoint((real, *map(str, Path(real).parents))):
            return "", "sorted before"
        if not self._take(f"\0{os.path.join(real, name)}"):  # noqa: PTH118
            return "", "named twice"
        return os.path.join(folder, name), ""  # noqa: PTH118

    def _take(self, name: str) -> bool:
        """Whether nobody had the name; now somebody has."""
        done = self._taken.execute(
            "INSERT OR IGNORE INTO taken VALUES (?)", (name.encode("utf-8", "surrogatepass"),)
        )
        return done.rowcount == 1

    def _has(self, name: str) -> bool:
        found = self._taken.execute(
            "SELECT 1 FROM taken WHERE name = ?", (name.encode("utf-8", "surrogatepass"),)
        )
        return found.fetchone() is not None

    def _folders(self, record: Record) -> list[str]:
        """The folders that the photo of a record goes to."""
        chosen: list[Prediction] = [*record.predictions[:1]]
        if record.verdict or not (chosen or record.several):
            return [UNSURE]
        if record.several:
            chosen = [one for one in record.predictions if one.selected]
            if self._how == "move":
                chosen = chosen[:1]
        return [self._names[one.index] for one in chosen] or [NO_LABEL]

    def _beside(self, source: str) -> Iterator[str]:
        """The sidecars of a photo."""
        folder, name = os.path.split(source)
        stem = os.path.splitext(name)[0]  # noqa: PTH122
        for extension in self._sidecars:
            for beside in dict.fromkeys((name + extension, stem + extension)):
                for path in (beside, beside[: -len(extension)] + extension.upper()):
                    whole = os.path.join(folder, path)  # noqa: PTH118
                    own = beside != stem + extension or _alone(folder, stem, name)
                    if os.path.isfile(whole) and own:  # noqa: PTH113
                        yield whole
                        break

    def _steps(self, group: list[str], folder: str) -> Iterator[Step]:
        """Steps of a photo and its sidecars, to the first names that are free for all of them."""
        stem = os.path.splitext(os.path.basename(group[0]))[0]  # noqa: PTH119, PTH122
        ends = [os.path.basename(path)[len(stem) :] for path in group]  # noqa: PTH119
        number = 1
        while True:
            new = stem if number == 1 else f"{stem}-{number}"
            targets = [f"{folder}/{new}{end}" for end in ends]
            steps = [self._step(*pair) for pair in zip(group, targets, strict=True)]
            if not any(self._has(alike(target)) for target in targets) and (
                self._is_there(steps[0])
                or not any(os.path.lexists(self._folder / target) for target in targets)
            ):
                break
            number += 1
        for target in targets:
            self._take(alike(target))
        return iter(steps)

    def _step(self, source: str, target: str) -> Step:
        found = os.stat(source)  # noqa: PTH116
        link = link_text(Path(source)) if self._how == "move" else None
        return Step(source, target, found.st_size, found.st_mtime_ns, link)

    def _is_there(self, step: Step) -> bool:
        """Whether an earlier run has copied or linked this very photo to this place."""
        target = self._folder / step.target
        if self._how == "link":
            return link_text(target) == step.source
        if self._how == "move" or target.is_symlink() or not target.is_file():
            return False
        return target.stat().st_size == step.size and filecmp.cmp(
            target, step.source, shallow=False
        )


def _kept(record: Record, stays: Stays) -> Entry:
    return Entry(replace(record, sorted_to=()), (), stays)


@lru_cache(64)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _alone(folder: str, stem: str, name: str) -> bool:
    """Whether no other file in the photo's folder is called so: a sidecar is that one's, too."""
    return _stems(folder).get(stem, set()) <= {name}


@lru_cache(1)  # photos come folder by folder
def _stems(folder: str) -> dict[str, set[str]]:
    """Names by their stem, but those of sidecars."""
    found: dict[str, set[str]] = {}
    for name in os.listdir(folder or os.curdir):  # noqa: PTH208
        stem, extension = os.path.splitext(name)  # noqa: PTH122
        if extension.lower() not in {".xmp", ".mov"}:
            found.setdefault(stem, set()).add(name)
    return found
