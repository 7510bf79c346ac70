"""`--update`: which inputs of a new list are new or changed, and which old ones are gone.

A merge-join of the old entries and the new list, both read one after another; only digests of names
are held. What comes of it is written down: a byte for each entry, in the order of the new output,
so that a run that was killed goes on without looking again.
"""

import hashlib
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images.sources import SourceStats
from resnest_cli.jobs.formats import read_lines, read_stats
from resnest_cli.jobs.job import Item
from resnest_cli.jobs.listing import STAT_BYTES, Chain, Input, Listing, Mark, encoded, photo_stat

# What becomes of an entry: an old one stays, a new one comes, a changed one is computed again; one
# that is no longer named stays or, with --prune, goes.
_KEPT, _NEW, _CHANGED, _GONE, _PRUNED = b"kncgp"
_OLD = frozenset((_KEPT, _CHANGED, _GONE, _PRUNED))  # those that were there before
_FRESH = frozenset((_NEW, _CHANGED))  # those that are computed
_BUFFER = 2**20


def digest(name: str) -> bytes:
    """16 bytes that stand for a name."""
    return hashlib.blake2b(encoded(name), digest_size=16).digest()


class Plan:
    """What becomes of all entries, in a folder of parts."""

    def __init__(self, folder: Path) -> None:
        self._path, self._stat_path = folder / "plan", folder / "plan.stat"
        self._listing = Listing(folder)
        self.counts: Counter[int] = Counter()
        self.listing = self.final = Mark(0, "")  # ends of the new list, and of the new output's
        self.skipped = 0

    def make(
        self,
        target: Path,
        info: dict[str, Any],
        inputs: Callable[[SourceStats], Iterator[Input]],
        part_size: int,
        *,
        prune: bool,
    ) -> None:
        """Writes the plan and the listing of what is to be computed; `inputs` lists anew.

        Raises:
            ResnestError: nothing is named, or the list changes while it is read.
            UsageError: old inputs stand in another order in the new list.
        """
        first, chain, stats = Chain(), Chain(), SourceStats()
        new = {digest(item.name) for item in first(inputs(SourceStats()))}
        if not new:
            raise ResnestError("no photo found in what was named.")
        entries = list_of(target, info)
        old = {digest(entry.name) for entry in list_of(target, info)}
        # To an output of an earlier version, what was modified after it was written has changed.
        since = target.with_suffix(".json").stat().st_mtime_ns
        with (
            self._path.open("wb", buffering=_BUFFER) as file,
            self._stat_path.open("wb", buffering=_BUFFER) as times,
        ):
            joined = _Join(target, entries, old, new, since, prune)
            computed = joined.run(chain(inputs(stats)), file, times)
            self._listing.write(computed, part_size)
            for one in (file, times):
                one.flush()
                os.fsync(one.fileno())
        if chain.mark != first.mark:
            raise ResnestError("the list of inputs changes while it is read: try once more.")
        self.counts, self.listing, self.final = joined.counts, chain.mark, joined.chain.mark
        self.skipped = stats.skipped

    @property
    def computed(self) -> int:
        """How many inputs are computed."""
        return self.counts[_NEW] + self.counts[_CHANGED]

    @property
    def changes_nothing(self) -> bool:
        """Whether the new output is the old one."""
        return not self.computed and not self.counts[_PRUNED]

    def __str__(self) -> str:
        counts = self.counts
        gone = "0 gone"
        if counts[_PRUNED]:
            gone = f"{counts[_PRUNED]:,} gone (dropped)"
        elif counts[_GONE]:
            gone = f"{counts[_GONE]:,} gone (kept; --prune drops them)"
        return f"{counts[_NEW]:,} new, {counts[_CHANGED]:,} changed, {gone}, {counts[_KEPT]:,} kept"

    def _steps(self) -> Iterator[int]:
        with self._path.open("rb", buffering=_BUFFER) as file:
            while chunk := file.read(_BUFFER):
                yield from chunk

    def listed(self, old: Iterable[Item], computed: Iterable[Input]) -> Iterator[str]:
        """The names of the new list."""
        known, fresh = iter(old), iter(computed)
        for step in self._steps():
            entry = next(known) if step in _OLD else None
            if step in _FRESH:
                yield next(fresh).name
            elif step == _KEPT:
                assert entry is not None
                yield entry.name

    def entries(self, old: Iterable[Item], computed: Iterable[Item]) -> Iterator[Item]:
        """The entries of the new output, from those of the old one and the computed ones."""
        known, fresh = iter(old), iter(computed)
        with self._stat_path.open("rb", buffering=_BUFFER) as times:
            for step in self._steps():
                entry = next(known) if step in _OLD else None
                if step in _FRESH:
                    entry = next(fresh)
                if step != _PRUNED:
                    assert entry is not None
                    yield entry._replace(stat=times.read(STAT_BYTES))
        for _ in known:  # to the end, where its reader sees whether all fits
            pass


def list_of(target: Path, info: dict[str, Any]) -> Iterator[Item]:
    """The entries of a finished output, without rows."""
    stats = read_stats(target, info["counts"]["inputs"])
    for line in read_lines(target.with_suffix(".csv"), header=True):
        yield line._replace(stat=next(stats, None))


class _Join:
    """Old entries and new inputs, side by side."""

    def __init__(
        self,
        target: Path,
        entries: Iterator[Item],
        old: set[bytes],
        new: set[bytes],
        since: int,
        prune: bool,
    ) -> None:
        self._target, self._entries, self._old, self._new = target, entries, old, new
        self._since, self._gone = since, _PRUNED if prune else _GONE
        self.counts: Counter[int] = Counter()
        self.chain = Chain()  # of the new output

    def run(self, inputs: Iterator[Input], file: BinaryIO, times: BinaryIO) -> Iterator[Input]:
        """Gives the inputs that are to be computed, and writes down what becomes of all."""

        def note(step: int, name: str, stat: bytes) -> None:
            self.counts[step] += 1
            file.write(bytes((step,)))
            if step != _PRUNED:
                times.write(stat)
                self.chain.add(name)

        entry = next(self._entries, None)
        for item in inputs:
            stat, step = photo_stat(item), _NEW
            if digest(item.name) in self._old:
                while entry is not None and entry.name != item.name:
                    note(self._passed(entry), entry.name, entry.stat or photo_stat(_NOWHERE))
                    entry = next(self._entries, None)
                if entry is None:
                    raise self._disordered(item.name)
                step = _CHANGED if self._is_changed(entry, stat) else _KEPT
                entry = next(self._entries, None)
            note(step, item.name, stat)
            if step in _FRESH:
                yield item
        while entry is not None:
            note(self._passed(entry), entry.name, entry.stat or photo_stat(_NOWHERE))
            entry = next(self._entries, None)

    def _is_changed(self, entry: Item, stat: bytes) -> bool:
        if entry.stat is not None:
            return entry.stat != stat
        modified: int = struct.unpack("<qq", stat)[1]
        return modified > self._since

    def _passed(self, entry: Item) -> int:
        """What becomes of an old entry that the new list has not at this place."""
        if digest(entry.name) in self._new:
            raise self._disordered(entry.name)
        return self._gone

    def _disordered(self, name: str) -> UsageError:
        return UsageError(
            f"{name!r} stands at another place among the inputs than in {self._target}: name them "
            "in the same order, or compute all again with --overwrite."
        )


_NOWHERE = Input("", "missing", "")
