"""What an epoch brings: which photos in which order, and in which batches. Pure, but for shards.

Everything follows from the run's seed, the epoch and the number of photos: a resumed run, or
another number of workers, changes nothing.

    FolderOrder   files, which can be read in any order: a permutation of all photos
    ShardOrder    tar shards, which are read from one end to the other

A stream of shards cannot be shuffled as a list can. An epoch draws an order of the shards, which
laid end to end are its stream of photos. Each device has a section of that stream of its own, cut
into windows of so many photos, and the photos of a window come in a drawn order. So the place of
every photo is known before a byte is read: a run that goes on in the middle skips the shards before
it, and reads again no more than one window. The price, against a permutation of all photos: what
lies in one shard stays near in an epoch. `resnest pack` shuffles the photos over all shards; shards
of others should be mixed, too. The order is not that of folders, and of N devices not that of one
with N times as many batches in a step.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

from resnest_cli.data.seeds import derived_seed
from resnest_cli.data.shard_files import EncodedPhoto, Files, Shard, read_photos
from resnest_cli.data.shards import photos as photos_of

WINDOW_BYTES = 256 * 2**20  # two windows are in memory: the one in use, and the next
MOST_PHOTOS = 16_384


class Key(NamedTuple):
    """A photo of an epoch: its place among the samples, or among the photos of all shards; how
    often it came before in this epoch; of a shard, its bytes.
    """

    epoch: int
    place: int
    repeat: int
    photo: EncodedPhoto | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """How an epoch is drawn and cut into batches.

    `seed` is the run's; None takes the photos as they come, to validate. `rank` says which of
    `ranks` devices the batches are for, `accumulated` how many of a device's batches make a step.
    `balanced`: see `epoch_order`; `aug_repeats`: see `repeated`.
    """

    batch_size: int
    seed: int | None = None
    balanced: bool = False
    aug_repeats: int = 1
    rank: int = 0
    ranks: int = 1
    accumulated: int = 1

    def bounds(self, photos: int) -> list[tuple[int, int]]:
        """First and last + 1 of each batch of an epoch of training; see `rank_bounds`."""
        return rank_bounds(photos, self.batch_size, ranks=self.ranks, accumulated=self.accumulated)


class ShardPhotos(NamedTuple):
    """The shards of a side; `classes` is how many there are."""

    shards: Sequence[Shard]
    classes: int


class FolderOrder:
    """Photos that can be read in any order. Validating, each device has every `ranks`-th batch.

    As of `ShardOrder`, `len` is the number of batches of the device that has the most.
    """

    def __init__(self, labels: Sequence[int], draw: Draw) -> None:
        self._labels, self._draw, self.photos = labels, draw, len(labels)
        every, size = draw.bounds(self.photos), draw.batch_size
        if draw.seed is None:
            every = [(at, min(at + size, self.photos)) for at in range(0, self.photos, size)]
        self._most, self.bounds = -(-len(every) // draw.ranks), every[draw.rank :: draw.ranks]

    def __len__(self) -> int:
        return len(self.bounds) if self._draw.seed is not None else self._most

    def batches(self, epoch: int, start: int) -> Generator[list[Key], None, None]:
        """The keys of each batch of an epoch, from number `start` on."""
        draw = self._draw
        if draw.seed is None:
            keys = [Key(epoch, index, 0) for index in range(self.photos)]
        else:
            keys = epoch_keys(
                self._labels,
                seed=draw.seed,
                epoch=epoch,
                balanced=draw.balanced,
                aug_repeats=draw.aug_repeats,
            )
        for first, last in self.bounds[start:]:
            yield keys[first:last]


def batch_bounds(photos: int, batch_size: int) -> list[tuple[int, int]]:
    """First and last + 1 of each batch; a last batch of one joins the one before.

    Batch norm cannot learn from a single photo (the split attention sees 1 x 1 maps).
    """
    bounds = [(at, min(at + batch_size, photos)) for at in range(0, photos, batch_size)]
    if len(bounds) > 1 and batch_size > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds[-2:] = [(bounds[-2][0], photos)]
    return bounds


def rank_bounds(
    photos: int, batch_size: int, *, ranks: int, accumulated: int = 1
) -> list[tuple[int, int]]:
    """The batches of an epoch for so many devices: the first of each, the second of each, ...

    The same batches as for one device that adds up the gradients of `ranks` times `accumulated` of
    them, but that a smaller last step is dealt out evenly, so that every device has as many
    batches. No batch has a single photo: what is too little for that joins the step before.

    `photos` are at least 2 * `ranks`.
    """
    if ranks == 1:
        return batch_bounds(photos, batch_size)
    step = ranks * accumulated * batch_size
    whole = photos // step * step
    if 0 < photos - whole < 2 * ranks and whole:
        whole -= step
    bounds = [(at, at + batch_size) for at in range(0, whole, batch_size)]
    rest = photos - whole
    if rest:
        each = min(-(-rest // (ranks * batch_size)), accumulated, rest // (2 * ranks))
        parts = ranks * max(1, each)
        cuts = [whole + rest * part // parts for part in range(parts + 1)]
        bounds += list(pairwise(cuts))
    return bounds


def epoch_order(
    labels: Sequence[int], *, seed: int, epoch: int, balanced: bool = False
) -> list[int]:
    """The order of an epoch: a permutation; balanced, as many photos with equal shares of classes.

    Balanced, a class with few photos has each of them several times, and of a class with many
    another selection comes in every epoch.
    """
    random = np.random.default_rng(derived_seed(seed, "order", epoch))
    count = len(labels)
    if not balanced:
        return [int(index) for index in random.permutation(count)]
    by_class = np.asarray(labels)
    classes = random.permutation(np.unique(by_class))
    picks = []
    for place, label in enumerate(classes):
        wanted = count // len(classes) + (place < count % len(classes))
        members = np.flatnonzero(by_class == label)
        rounds = [random.permutation(members) for _ in range(-(-wanted // len(members)))]
        picks.append(np.concatenate([*rounds, members[:0]])[:wanted])
    return [int(index) for index in random.permutation(np.concatenate(picks))]


def repeated(order: Sequence[int], repeats: int) -> list[int]:
    """Repeated augmentation (arXiv 1902.05509): each photo `repeats` times, one after the other.

    As many in all as before, so that an epoch sees fewer photos. Follows timm's RepeatAugSampler in
    a single process, which however rounds an epoch of 256 photos or more down to a multiple of 256.
    """
    needed = -(-len(order) // repeats)
    return [index for index in order[:needed] for _ in range(repeats)][: len(order)]


def epoch_keys(
    labels: Sequence[int], *, seed: int, epoch: int, balanced: bool = False, aug_repeats: int = 1
) -> list[Key]:
    """What an epoch draws, in its order; see `epoch_order` and `repeated`."""
    order = epoch_order(labels, seed=seed, epoch=epoch, balanced=balanced)
    seen: Counter[int] = Counter()
    keys = []
    for index in repeated(order, aug_repeats):
        keys.append(Key(epoch, index, seen[index]))
        seen[index] += 1
    return keys


def sample_seed(seed: int, key: tuple[int, int, int] | Key) -> int:
    """From which a photo's augmentation is drawn: another one each time it comes in an epoch."""
    epoch, place, repeat = key[:3]
    return derived_seed(seed, "sample", epoch, place, *((repeat,) if repeat else ()))


class ShardOrder:
    """Photos of shards, which a thread reads ahead; encoded, two windows of them are in memory.

    Within a window shards are read from one end to the other, so that a disk, or a server, is asked
    for long stretches. Validating, each device has a section of the batches: each photo comes once,
    and each shard is read by one device, or by two.
    """

    def __init__(self, side: ShardPhotos, draw: Draw) -> None:
        self._shards, self._classes, self._draw = side.shards, side.classes, draw
        counts = [shard.photos for shard in self._shards]
        self.photos = photos_of(self._shards)
        self._firsts = list(itertools.accumulate(counts, initial=0))  # index of each one's first
        self._window = window_photos(self.photos, sum(shard.size for shard in self._shards))
        size, rank, ranks = draw.batch_size, draw.rank, draw.ranks
        if draw.seed is None:
            batches = -(-self.photos // size)
            cuts = [batches * place // ranks for place in range(ranks + 1)]
            first, last = (min(cut * size, self.photos) for cut in cuts[rank : rank + 2])
            self._sizes = [min(size, last - at) for at in range(first, last, size)]
            self._length = max(end - begin for begin, end in pairwise(cuts))
        else:
            first, last = sections(self.photos, draw)[rank]
            self._sizes = [end - begin for begin, end in draw.bounds(self.photos)[rank::ranks]]
            self._length = len(self._sizes)
        self._section = first, last

    def __len__(self) -> int:
        return self._length

    def batches(self, epoch: int, start: int) -> Generator[list[Key], None, None]:
        """The keys of each batch of an epoch, from number `start` on, with the photos."""
        repeats = self._draw.aug_repeats
        first, skipped = divmod(sum(self._sizes[:start]), repeats)
        with closing(self._photos(epoch, first)) as found:
            every = (
                Key(epoch, index, repeat, photo)
                for index, photo in found
                for repeat in range(repeats)
            )
            keys = islice(every, skipped, None)
            for size in self._sizes[start:]:
                yield list(islice(keys, size))

    def _photos(self, epoch: int, start: int) -> Generator[tuple[int, EncodedPhoto], None, None]:
        """Index and photo, from the section's photo `start` on."""
        seed, count, window = self._draw.seed, len(self._shards), self._window
        order = range(count) if seed is None else shard_order(count, seed=seed, epoch=epoch)
        first, last = self._section
        number, skipped = divmod(start, window)
        first += number * window
        parts = stretches([shard.photos for shard in self._shards], order, first, last)
        files, stop = Files([self._shards[part.shard] for part in parts]), threading.Event()
        stream = self._read(parts, files, stop)

        def read(at: int) -> list[tuple[int, EncodedPhoto]]:
            return list(islice(stream, max(0, min(window, last - at))))

        pool = ThreadPoolExecutor(1, thread_name_prefix="shards")
        try:
            coming = pool.submit(read, first)
            for at in range(first, last, window):
                found = coming.result()
                coming = pool.submit(read, at + window)
                if seed is not None:
                    places = window_order(len(found), seed=seed, epoch=epoch, first=at)
                    found = [found[place] for place in places]
                yield from found[skipped:]
                skipped = 0
        finally:
            stop.set()
            files.give_up()
            pool.shutdown(wait=True, cancel_futures=True)
            stream.close()
            files.close()

    def _read(
        self, parts: Sequence["Stretch"], files: Files, stop: threading.Event
    ) -> Generator[tuple[int, EncodedPhoto], None, None]:
        """Index and photo of each part, shard after shard."""
        for number, (shard, first, last) in enumerate(parts):
            with files.open(number) as file:
                photos = read_photos(self._shards[shard], file, self._classes)
                for place, photo in enumerate(islice(photos, first, last), start=first):
                    if stop.is_set():
                        return
                    if place + 1 == self._shards[shard].photos:
                        next(photos, None)  # raises for a shard that has more
                    yield self._firsts[shard] + place, photo


class Stretch(NamedTuple):
    """The photos first .. last - 1 of a shard, in the order in which they lie there."""

    shard: int
    first: int
    last: int


def stretches(counts: Sequence[int], order: Sequence[int], first: int, last: int) -> list[Stretch]:
    """Where photos first .. last - 1 lie in shards laid end to end; `counts` are their photos."""
    begins = itertools.accumulate((counts[shard] for shard in order), initial=0)
    found = (
        Stretch(shard, max(first - begin, 0), min(last - begin, counts[shard]))
        for shard, begin in zip(order, begins, strict=False)
    )
    return [stretch for stretch in found if stretch.first < stretch.last]


def window_photos(photos: int, size: int) -> int:
    """Photos of a window, from the number and the bytes of all: at least 1."""
    each = max(1, size // max(1, photos))
    return max(1, min(MOST_PHOTOS, WINDOW_BYTES // each))


def shard_order(shards: int, *, seed: int, epoch: int) -> list[int]:
    """The order of the shards in an epoch."""
    random = np.random.default_rng(derived_seed(seed, "order", epoch))
    return [int(index) for index in random.permutation(shards)]


def sections(photos: int, draw: Draw) -> list[tuple[int, int]]:
    """The section of each device, first and last + 1: as many photos as its batches need.

    With repeated augmentation each photo serves so many times, and the end of the stream is not
    read.
    """
    bounds = draw.bounds(photos)
    needed = [
        -(-sum(last - first for first, last in bounds[rank :: draw.ranks]) // draw.aug_repeats)
        for rank in range(draw.ranks)
    ]
    return list(pairwise(itertools.accumulate(needed, initial=0)))


def window_order(count: int, *, seed: int, epoch: int, first: int) -> list[int]:
    """The order of a window's photos; `first` is its place in the stream."""
    random = np.random.default_rng(derived_seed(seed, "window", epoch, first))
    return [int(place) for place in random.permutation(count)]
