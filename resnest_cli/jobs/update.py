"""`--update`: which inputs of a new list are new or changed, and which old ones are gone.

The new output is in the order of the new list; what is gone, and kept, stays behind the entry that
it followed. What becomes of each entry is written down, so that a run that was killed goes on
without looking again. Of names only digests are held: for a million of old entries and a million of
inputs that takes about 300 MB.
"""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ResnestError, reason
from resnest_cli.images.folders import is_hidden
from resnest_cli.images.sources import SourceStats, is_photo
from resnest_cli.jobs.formats import EntriesByNumber, read_entries
from resnest_cli.jobs.job import Item
from resnest_cli.jobs.listing import (
    NO_STAT,
    STAT,
    STAT_BYTES,
    Chain,
    Input,
    Mark,
    encoded,
    photo_stat,
)
from resnest_cli.paths import is_http
from resnest_cli.text import count

Numbers = NDArray[np.int64]
Prune = Literal["photos", "folders"]  # what is dropped: with folders, what lay in such, too

_COMPUTED = -1
_RECORD = 8 + STAT_BYTES


def digest(name: str) -> bytes:
    """16 bytes that stand for a name."""
    return hashlib.blake2b(encoded(name), digest_size=16).digest()


class Plan:
    """Where the entries of the new output come from: a file in a folder of parts.

    Of each it has, as int64 little-endian, the number n of the old entry, -1 where it is computed,
    or -2 - n where that is not in the new list; and its stat as `feats.stat` has it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "plan"
        self.listing = Mark(0, "")  # end of the new list
        self.skipped = self.undated = 0  # `undated`: old entries whose size is not known
        self._new = self._changed = self._gone = self._kept = self._not_compared = 0
        self._prune = self.changes_nothing = False

    def make(
        self,
        target: Path,
        info: dict[str, Any],
        inputs: Callable[[SourceStats], Iterator[Input]],
        write: Callable[[Iterator[Input]], int],
        *,
        prune: Prune | None,
    ) -> None:
        """Writes the plan; `write` lists what is to be computed.

        Raises:
            ResnestError: nothing is named; with `prune`: what is named cannot be read, or a folder
                is empty or gone, unless such are dropped, too.
        """
        index: dict[bytes, int] = {}
        first = array("q")  # of each old entry, the first one of its name
        failed, stats = bytearray(), bytearray()
        for number, entry in enumerate(read_entries(target, info, rows=False)):
            stat = entry.stat or NO_STAT
            first.append(index.setdefault(digest(entry.name), number))
            failed.append(entry.error is not None)
            stats += stat
            self.undated += stat != NO_STAT and STAT.unpack(stat)[0] == -1
        places = array("q", [-1]) * len(first)  # of those first ones, in the new list
        origins, new_stats, folders = array("q"), bytearray(), set[str]()
        chain, found = Chain(), SourceStats()

        def computed() -> Iterator[Input]:
            for item in chain(inputs(found)):
                stat = photo_stat(item)
                if prune:
                    _check_is_there(item, stat)
                    folders.add(os.path.dirname(item.name))  # noqa: PTH120 - keeps odd bytes
                number = index.get(digest(item.name), -1)
                if number < 0:
                    self._new += 1
                else:
                    if places[number] < 0:
                        places[number] = len(origins)
                    then = bytes(stats[number * STAT_BYTES : (number + 1) * STAT_BYTES])
                    if _has_changed(item, stat, then, failed=bool(failed[number])):
                        self._changed += 1
                        number = _COMPUTED
                    else:
                        self._kept += 1
                        self._not_compared += stat == NO_STAT
                origins.append(number)
                new_stats.extend(stat)
                if number == _COMPUTED:
                    yield item

        write(computed())
        if not origins:
            raise ResnestError("no photo found in what was named.")
        if prune == "photos":
            old = enumerate(read_entries(target, info, rows=False))
            gone = (e.name for i, e in old if e.error is None and places[first[i]] < 0)
            _check_folders(gone, folders)
        self.listing, self.skipped, self._prune = chain.mark, found.skipped, bool(prune)
        self._write(
            np.array(first, np.int64), np.array(places, np.int64), _pairs(stats),
            np.array(origins, np.int64), _pairs(new_stats),
        )  # fmt: skip

    def _write(
        self, firsts: Numbers, places: Numbers, stats: Numbers, origins: Numbers, fresh: Numbers
    ) -> None:
        """Puts what is gone in its place; the first three are of the old entries."""
        named = places[firsts]
        gone = np.flatnonzero(named < 0)
        self._gone = len(gone)
        if self._prune:
            gone = gone[:0]
        # Where the last one stands that is named before each that is gone.
        before = np.concatenate(([-1], named[named >= 0]))[np.cumsum(named >= 0)[gone]]
        order = np.argsort(np.concatenate((np.arange(len(origins)), before)), kind="stable")
        numbers = np.concatenate((origins, gone))[order]
        self.changes_nothing = not self.computed and np.array_equal(firsts[numbers], firsts)
        records = np.empty((len(order), 3), "<i8")
        records[:, 0] = np.concatenate((origins, -2 - gone))[order]
        records[:, 1:] = np.concatenate((fresh, stats[gone]))[order]
        with self._path.open("wb") as file:
            file.write(records.data)
            file.flush()
            os.fsync(file.fileno())

    @property
    def computed(self) -> int:
        """How many inputs are computed."""
        return self._new + self._changed

    def __str__(self) -> str:
        gone, kept = f"{self._gone:,} gone", f"{self._kept:,} kept"
        if self._gone:
            gone += " (dropped)" if self._prune else " (kept; --prune drops them)"
        if self._not_compared:
            kept += f" ({self._not_compared:,} of them without a size and time to compare)"
        return f"{self._new:,} new, {self._changed:,} changed, {gone}, {kept}"

    def _records(self) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb", buffering=2**20) as file:
            while record := file.read(_RECORD):
                yield int.from_bytes(record[:8], "little", signed=True), record[8:]

    def listed(self, old: EntriesByNumber, computed: Iterable[str]) -> Iterator[str]:
        """The names of the new list."""
        fresh = iter(computed)
        for number, _ in self._records():
            if number >= _COMPUTED:
                yield next(fresh) if number == _COMPUTED else old[number].name

    def entries(self, old: EntriesByNumber, computed: Iterable[Item]) -> Iterator[Item]:
        """The entries of the new output, from those of the old one and the computed ones."""
        fresh = iter(computed)
        for number, stat in self._records():
            entry = next(fresh) if number == _COMPUTED else old[max(number, -2 - number)]
            yield entry._replace(stat=stat)


def _pairs(stats: bytearray) -> Numbers:
    return np.frombuffer(stats, "<i8").reshape(-1, 2)


def _has_changed(item: Input, now: bytes, then: bytes, *, failed: bool) -> bool:
    """Whether an input is computed again: whether its file is another one, as far as is known."""
    size, modified = STAT.unpack(then)
    if item.kind == "stdin":
        return True
    if size == -1 and now == NO_STAT:  # nothing to compare
        return item.is_error if not failed else not (item.is_error or item.is_local)
    if size == -1 and modified != -1:
        return bool(STAT.unpack(now)[1] > modified)
    return now != then


def _check_is_there(item: Input, stat: bytes) -> None:
    """Whether nothing of what is named is out of reach, so that what lies there were dropped."""
    missing = item.is_local and stat == NO_STAT and not is_photo(item.name)  # a folder, perhaps
    if item.is_error or missing:
        why = item.where if item.is_error else "does not exist"
        raise ResnestError(
            f"{item.name}: {why}: --prune would drop the rows of the photos there. Mend that, or "
            "leave out --prune."
        )


def _check_folders(gone: Iterable[str], there: set[str]) -> None:
    """Whether no folder of what is gone has vanished as a whole, as where a disk is not mounted.

    In those that are `there` photos have been found.
    """
    names = (name for name in gone if name != "-" and not is_http(name))
    for folder, inputs in Counter(map(os.path.dirname, names)).items():
        if folder in there:
            continue
        why = "is empty"
        try:
            with os.scandir(folder or os.curdir) as entries:
                if any(not is_hidden(entry.name) for entry in entries):
                    continue
        except OSError as error:
            why = reason(error)
        rows = f"the rows of {count(inputs, 'input')} that lay there"
        raise ResnestError(
            f"{folder or os.curdir}: {why}: --prune would drop {rows}. Is a disk not mounted? If "
            "not, --prune-folders drops them."
        )
