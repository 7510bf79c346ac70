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

import hashlib
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

from resnest_cli.data.dataset import Sample
from resnest_cli.data.seeds import Purpose, derived_seed, drawn
from resnest_cli.data.shard_files import EncodedPhoto, Files, Shard, read_photos
from resnest_cli.data.shards import photos as photos_of
from resnest_cli.model.training_photos import DIGEST_BYTES

WINDOW_BYTES = 256 * 2**20  # two windows are in memory: the one in use, and the next
MOST_PHOTOS = 16_384


class Key(NamedTuple):
    """A photo of an epoch: its place among the samples, or among the photos of all shards; how
    often it came before in this epoch; of a shard, its bytes.
    """

    epoch: int
    place: int
    repeat: int = 0
    photo: EncodedPhoto | None = None

    def seed(self, seed: int) -> int:
        """From which its augmentation is drawn: another one each time it comes in an epoch."""
        repeat = (self.repeat,) if self.repeat else ()
        return derived_seed(seed, "sample", self.epoch, self.place, *repeat)


@dataclass(frozen=True, slots=True)
class FixedCrops:
    """A photo is only ever seen in `count` crops, mirrored or not, which `seed`, the run's, draws.

    A crop follows from the seed, the photo's content (its name where that is unknown) and the
    crop's number alone, see `augment.RandomCrop.drawn`.
    """

    seed: int
    count: int

    def number(self, key: Key) -> int:
        """Which of the crops a photo of an epoch has."""
        return derived_seed(self.seed, "crop", key.epoch, key.place, key.repeat) % self.count

    def drawn_from(self, photo: Sample | EncodedPhoto, number: int) -> int:
        """The seed of a crop."""
        if isinstance(photo, EncodedPhoto):  # as the photo would have it as a file
            name = hashlib.sha256(photo.data).digest()[:DIGEST_BYTES].hex()
        else:
            name = photo.digest.hex() or photo.name
        return int.from_bytes(drawn(self.seed, "crop", name, str(number))[:8], "little") >> 1


@dataclass(frozen=True, slots=True)
class Draw:
    """How an epoch is drawn and cut into batches.

    `seed` is the run's; None takes the photos as they come, to validate. `balanced`: as many photos
    with equal shares of classes; `aug_repeats`: see `repeated`. `rank` says which of `ranks`
    devices the batches are for, `accumulated` how many of a device's batches make a step.
    """

    batch_size: int
    seed: int | None = None
    balanced: bool = False
    aug_repeats: int = 1
    rank: int = 0
    ranks: int = 1
    accumulated: int = 1

    def bounds(self, photos: int) -> list[tuple[int, int]]:
        """First and last + 1 of each batch of an epoch: the first of each device, the second, ...

        To learn from: the batches of one device that adds up the gradients of `ranks` times
        `accumulated` of them, but that a smaller last step is dealt out evenly, so that every
        device has as many. No batch has a single photo: what is too little for that joins the step
        before. `photos` are then at least 2 * `ranks`.
        """
        size, ranks = self.batch_size, self.ranks
        if self.seed is None:
            return [(at, min(at + size, photos)) for at in range(0, photos, size)]
        if ranks == 1:
            return batch_bounds(photos, size)
        step = ranks * self.accumulated * size
        whole = photos // step * step
        if 0 < photos - whole < 2 * ranks and whole:
            whole -= step
        bounds = [(at, at + size) for at in range(0, whole, size)]
        if rest := photos - whole:
            each = min(-(-rest // (ranks * size)), self.accumulated, rest // (2 * ranks))
            parts = ranks * max(1, each)
            bounds += pairwise(whole + rest * part // parts for part in range(parts + 1))
        return bounds


def batch_bounds(photos: int, batch_size: int) -> list[tuple[int, int]]:
    """First and last + 1 of each batch; a last batch of one joins the one before.

    Batch norm cannot learn from a single photo (the split attention sees 1 x 1 maps).
    """
    bounds = [(at, min(at + batch_size, photos)) for at in range(0, photos, batch_size)]
    if len(bounds) > 1 and batch_size > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds[-2:] = [(bounds[-2][0], photos)]
    return bounds


def permutation(count: int, seed: int, purpose: Purpose, *numbers: int) -> list[int]:
    """A drawn order of so many things."""
    drawn: list[int] = _random(seed, purpose, *numbers).permutation(count).tolist()
    return drawn


def _random(seed: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    return np.random.default_rng(derived_seed(seed, purpose, *numbers))


def balanced_order(labels: Sequence[int], seed: int, epoch: int) -> list[int]:
    """As many photos, with equal shares of classes, in a drawn order.

    A class with few photos has each of them several times, and of a class with many another
    selection comes in every epoch.
    """
    random, by_class = _random(seed, "order", epoch), np.asarray(labels)
    classes = random.permutation(np.unique(by_class))
    picks = []
    for place, label in enumerate(classes):
        wanted = len(labels) // len(classes) + (place < len(labels) % len(classes))
        members = np.flatnonzero(by_class == label)
        rounds = [random.permutation(members) for _ in range(-(-wanted // len(members)))]
        picks.append(np.concatenate([*rounds, members[:0]])[:wanted])
    order: list[int] = random.permutation(np.concatenate(picks)).tolist()
    return order


def repeated(order: Sequence[int], repeats: int) -> list[int]:
    """Repeated augmentation (arXiv 1902.05509): each photo `repeats` times, one after the other.

    As many in all as before, so that an epoch sees fewer photos. Follows timm's RepeatAugSampler in
    a single process, which however rounds an epoch of 256 photos or more down to a multiple of 256.
    """
    needed = -(-len(order) // repeats)
    return [index for index in order[:needed] for _ in range(repeats)][: len(order)]


class FolderOrder:
    """Photos that can be read in any order. Validating, each device has every `ranks`-th batch.

    As of `ShardOrder`, `len` is the number of batches of the device that has the most.
    """

    def __init__(self, labels: Sequence[int], draw: Draw) -> None:
        self._labels, self._draw = labels, draw
        every = draw.bounds(len(labels))
        self.bounds, self._length = every[draw.rank :: draw.ranks], -(-len(every) // draw.ranks)

    def __len__(self) -> int:
        return self._length

    def places(self, epoch: int) -> list[int]:
        """What an epoch brings, in its order, to all devices."""
        draw, count = self._draw, len(self._labels)
        if draw.seed is None:
            return list(range(count))
        if draw.balanced:
            order = balanced_order(self._labels, draw.seed, epoch)
        else:
            order = permutation(count, draw.seed, "order", epoch)
        return repeated(order, draw.aug_repeats)

    def keys(self, epoch: int) -> list[Key]:
        """The same, each place with its epoch and how often the epoch had it before."""
        seen, keys = Counter[int](), []
        for place in self.places(epoch):
            keys.append(Key(epoch, place, seen[place]))
            seen[place] += 1
        return keys

    def batches(self, epoch: int, start: int) -> Generator[list[Key], None, None]:
        """The keys of each batch of an epoch, from number `start` on."""
        keys = self.keys(epoch)
        for first, last in self.bounds[start:]:
            yield keys[first:last]


class ShardPhotos(NamedTuple):
    """The shards of a side; `classes` is how many there are."""

    shards: Sequence[Shard]
    classes: int


class ShardOrder:
    """Photos of shards, which a thread reads ahead; encoded, two windows of them are in memory.

    Within a window shards are read from one end to the other, so that a disk, or a server, is asked
    for long stretches. Validating, each device has a section of the batches: each photo comes once,
    and each shard is read by one device, or by two.
    """

    def __init__(self, side: ShardPhotos, draw: Draw) -> None:
        self._shards, self._classes, self._draw = side.shards, side.classes, draw
        self._counts, photos = [shard.photos for shard in side.shards], photos_of(side.shards)
        self._firsts = list(itertools.accumulate(self._counts, initial=0))  # index of each's first
        self._window = window_photos(photos, sum(shard.size for shard in side.shards))
        rank, ranks = draw.rank, draw.ranks
        bounds = draw.bounds(photos)
        self._length = -(-len(bounds) // ranks)
        if draw.seed is None:
            cuts = [len(bounds) * place // ranks for place in range(ranks + 1)]
            mine = bounds[cuts[rank] : cuts[rank + 1]]
            self._section = (mine[0][0], mine[-1][1]) if mine else (0, 0)
        else:
            mine, self._section = bounds[rank::ranks], sections(photos, draw)[rank]
        self._sizes = [last - first for first, last in mine]

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
        order = range(count) if seed is None else permutation(count, seed, "order", epoch)
        first, last = self._section
        number, skipped = divmod(start, window)
        first += number * window
        parts = stretches(self._counts, order, first, last)
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
                    places = permutation(len(found), seed, "window", epoch, at)
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
                    if place + 1 == self._counts[shard]:
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


def sections(photos: int, draw: Draw) -> list[tuple[int, int]]:
    """The section of each device, first and last + 1: as many photos as its batches need.

    With repeated augmentation each serves several times, and the stream is not read to its end.
    """
    bounds = draw.bounds(photos)
    needed = [
        -(-sum(last - first for first, last in bounds[rank :: draw.ranks]) // draw.aug_repeats)
        for rank in range(draw.ranks)
    ]
    return list(pairwise(itertools.accumulate(needed, initial=0)))
