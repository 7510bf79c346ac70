"""In which order an epoch reads shards: a pure function of seed, epoch and the shards' counts.

A stream cannot be shuffled as a list can. An epoch draws an order of the shards, which laid end to
end are its stream of photos. Each device has a section of that stream of its own, cut into windows
of so many photos, and the photos of a window come in a drawn order.

So the place of every photo in the epoch is known before a byte is read: a run that goes on in the
middle skips the shards before it, and reads again no more than one window. The price, against the
folder's permutation of all photos: what lies in one shard stays near in an epoch. `resnest pack`
shuffles the photos over all shards; shards of others should be mixed, too.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from resnest_cli.training.bounds import rank_bounds
from resnest_cli.training.seeds import derived_seed

WINDOW_BYTES = 256 * 2**20  # two windows are in memory: the one in use, and the next
MOST_PHOTOS = 16_384


class Stretch(NamedTuple):
    """The photos first .. last - 1 of a shard, in the order in which they lie there."""

    shard: int
    first: int
    last: int


class Section(NamedTuple):
    """Part of the stream: photos first .. last - 1, in windows of so many."""

    first: int
    last: int
    window: int


def window_photos(photos: int, size: int) -> int:
    """Photos of a window, from the number and the bytes of all: at least 1."""
    each = max(1, size // max(1, photos))
    return max(1, min(MOST_PHOTOS, WINDOW_BYTES // each))


def shard_order(shards: int, *, seed: int, epoch: int) -> list[int]:
    """The order of the shards in an epoch."""
    random = np.random.default_rng(derived_seed(seed, "order", epoch))
    return [int(index) for index in random.permutation(shards)]


def sections(
    photos: int, batch_size: int, *, ranks: int, accumulated: int, aug_repeats: int = 1
) -> list[tuple[int, int]]:
    """The section of each device: as many photos as its batches need; see `rank_bounds`.

    With repeated augmentation each photo serves so many times, and the end of the stream is not
    read.
    """
    bounds = rank_bounds(photos, batch_size, ranks=ranks, accumulated=accumulated)
    needed = [
        -(-sum(last - first for first, last in bounds[rank::ranks]) // aug_repeats)
        for rank in range(ranks)
    ]
    ends = list(accumulate(needed))
    return [(end - count, end) for end, count in zip(ends, needed, strict=True)]


class Stream:
    """The shards of an epoch laid end to end, in this order; `counts` are their photos."""

    def __init__(self, counts: Sequence[int], order: Sequence[int]) -> None:
        self._counts, self._order = counts, order
        self._ends = np.cumsum([counts[shard] for shard in order])

    def stretches(self, first: int, last: int) -> Iterator[Stretch]:
        """Where the photos first .. last - 1 of the stream lie."""
        place = int(np.searchsorted(self._ends, first, side="right"))
        while first < last:
            shard, end = self._order[place], int(self._ends[place])
            begin = end - self._counts[shard]
            stop = min(end, last)
            yield Stretch(shard, first - begin, stop - begin)
            first, place = stop, place + 1


def windows(section: Section, start: int = 0) -> Iterator[tuple[int, int, int]]:
    """Number, first and last + 1 of the section's windows, from that with photo `start` on."""
    first, last, window = section
    for number in range(start // window, -(-(last - first) // window)):
        at = first + number * window
        yield number, at, min(at + window, last)


def window_order(count: int, *, seed: int, epoch: int, first: int) -> list[int]:
    """The order of a window's photos; `first` is its place in the stream."""
    random = np.random.default_rng(derived_seed(seed, "window", epoch, first))
    return [int(place) for place in random.permutation(count)]
