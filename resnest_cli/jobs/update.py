"""`--update`: which inputs of a new list are new or changed, and which old ones are gone.

A merge-join of the old entries and the new list, both read one after another; only digests of names
are held. What comes of it is written down for each entry, in the order of the new output, so
that a run that was killed goes on without looking again.
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
from resnest_cli.jobs.listing import (
    NO_STAT,
    STAT_BYTES,
    Chain,
    Input,
    Mark,
    encoded,
    photo_stat,
)

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
    """What becomes of all entries, in a folder of parts; a file of records of 17 bytes.

    A step, and the size and time of the file of an input as `feats.stat` has them.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "plan"
        self.counts: Counter[int] = Counter()
        self.listing = self.final = Mark(0, "")  # ends of the new list, and of the new output's
        self.skipped = 0

    def make(
        self,
        target: Path,
        info: dict[str, Any],
        inputs: Callable[[SourceStats], Iterator[Input]],
        write: Callable[[Iterator[Input]], int],
        *,
        prune: bool,
    ) -> None:
        """Writes the plan; `write` lists what is to be computed, and `inputs` lists anew.

        Raises:
            ResnestError: nothing is named, or the list changes while it is read.
            UsageError: old inputs stand in another order in the new list.
        """
        first, chain, stats = Chain(), Chain(), SourceStats()
        new = {digest(item.name) for item in first(inputs(SourceStats()))}
        if not new:
            raise ResnestError("no photo found in what was named.")
        old = {digest(entry.name) for entry in list_of(target, info)}
        with self._path.open("wb", buffering=_BUFFER) as file:
            computed = self._joined(
                target, chain(inputs(stats)), list_of(target, info), old=old, new=new,
                gone=_PRUNED if prune else _GONE, file=file,
            )  # fmt: skip
            write(computed)
            file.flush()
            os.fsync(file.fileno())
        if chain.mark != first.mark:
            raise ResnestError("the list of inputs changes while it is read: try once more.")
        self.listing, self.skipped = chain.mark, stats.skipped

    def _joined(
        self,
        target: Path,
        inputs: Iterator[Input],
        entries: Iterator[Item],
        *,
        old: set[bytes],
        new: set[bytes],
        gone: int,
        file: BinaryIO,
    ) -> Iterator[Input]:
        """Gives the inputs that are computed, and writes down what becomes of all entries.

        `old` and `new` are digests of names; `gone` is what becomes of those not in `new`.
        """
        # To an output of an earlier version, what was modified after it was written has changed.
        since = target.with_suffix(".json").stat().st_mtime_ns
        chain = Chain()

        def note(step: int, name: str, stat: bytes) -> None:
            self.counts[step] += 1
            file.write(bytes((step,)) + stat)
            if step != _PRUNED:
                chain.add(name)

        def misplaced(name: str) -> UsageError:
            return UsageError(
                f"{name!r} stands at another place among the inputs than in {target}: name them "
                "in the same order, or compute all again with --overwrite."
            )

        def passed(entry: Item) -> None:
            if digest(entry.name) in new:
                raise misplaced(entry.name)
            note(gone, entry.name, entry.stat or NO_STAT)

        for item in inputs:
            stat, step = photo_stat(item), _NEW
            if digest(item.name) in old:
                for entry in entries:
                    if entry.name == item.name:
                        break
                    passed(entry)
                else:
                    raise misplaced(item.name)
                modified: int = struct.unpack("<qq", stat)[1]
                changed = modified > since if entry.stat is None else entry.stat != stat
                step = _CHANGED if changed else _KEPT
            note(step, item.name, stat)
            if step in _FRESH:
                yield item
        for entry in entries:
            passed(entry)
        self.final = chain.mark

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

    def _steps(self) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb", buffering=_BUFFER) as file:
            while record := file.read(1 + STAT_BYTES):
                yield record[0], record[1:]

    def listed(self, old: Iterable[Item], computed: Iterable[str]) -> Iterator[str]:
        """The names of the new list."""
        known, fresh = iter(old), iter(computed)
        for step, _ in self._steps():
            entry = next(known) if step in _OLD else None
            if step in _FRESH:
                yield next(fresh)
            elif step == _KEPT:
                assert entry is not None
                yield entry.name

    def entries(self, old: Iterable[Item], computed: Iterable[Item]) -> Iterator[Item]:
        """The entries of the new output, from those of the old one and the computed ones."""
        known, fresh = iter(old), iter(computed)
        for step, stat in self._steps():
            entry = next(known) if step in _OLD else None
            if step in _FRESH:
                entry = next(fresh)
            if step != _PRUNED:
                assert entry is not None
                yield entry._replace(stat=stat)
        for _ in known:  # to the end, where its reader sees whether all fits
            pass


def list_of(target: Path, info: dict[str, Any]) -> Iterator[Item]:
    """The entries of a finished output, without rows."""
    stats = read_stats(target, info["counts"]["inputs"])
    for line in read_lines(target.with_suffix(".csv")):
        yield line._replace(stat=next(stats, None))
