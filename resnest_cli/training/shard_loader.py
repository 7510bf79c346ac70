"""Shards -> batches: read in order by a thread, decoded and varied by the workers.

The main process reads; a worker is handed the bytes of its batch and carries no state, so that the
number of workers changes nothing, as with folders; see `loader`. Which photo comes when is that of
`shard_order`, and how it is varied follows from (seed, epoch, index, repeat) as ever: a resumed
run skips to its window and goes on with the same bits.

One thread reads for each device, so that more machines read more. The order is not that of folders,
and of N devices not that of one with N times as many batches in a step: each has shards of its own.

What cannot be decoded is left out as in folders, named by shard and key; a shard that is damaged,
or has other photos than it should have, ends the run.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import Dataset

from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.images.decode import decode
from resnest_cli.images.preprocess import preprocess
from resnest_cli.model.variants import Preprocessing
from resnest_cli.shards.index import Shard
from resnest_cli.shards.reading import RawPhoto
from resnest_cli.training.bounds import rank_bounds
from resnest_cli.training.loader import Batch, Item, batch_bytes, collated, sample_seed
from resnest_cli.training.lost_photos import Lost
from resnest_cli.training.photo_cache import limits_apart
from resnest_cli.training.shard_order import Section, sections, shard_order, window_order
from resnest_cli.training.shard_stream import ShardStream
from resnest_cli.training.workers import Failure, Workers

if TYPE_CHECKING:
    from resnest_cli.training.augment import Augment


class _Entry(NamedTuple):
    """A photo on its way to a worker: where it stands in the epoch, and its bytes."""

    epoch: int
    place: int
    repeat: int
    photo: RawPhoto


class _Decoded(Dataset[Any]):
    """Prepares one photo; lives in the workers."""

    def __init__(
        self,
        seed: int,
        augment: "Augment | Preprocessing",
        sizes: Callable[[int], int] | None = None,
    ) -> None:
        self._seed, self._augment, self._sizes = seed, augment, sizes

    def __getitem__(self, entry: _Entry) -> Item | Lost | Failure:
        epoch, place, repeat, raw = entry
        try:
            with limits_apart(raw.name):
                image = decode(raw.data)
            if isinstance(self._augment, Preprocessing):
                photo = torch.from_numpy(preprocess(image, self._augment))
            else:
                size = () if self._sizes is None else (self._sizes(epoch),)
                seed = sample_seed(self._seed, (epoch, place, repeat))
                photo = self._augment(image, seed, *size)
        except ImageError as error:
            return Lost(place, raw.label, raw.name, str(error))
        except ResnestError as error:
            return Failure(str(error))
        except MemoryError:
            return Failure(f"{raw.name} does not fit into this machine's memory.")
        return Item(photo, raw.label, place)


class ShardTrainBatches:
    """Augmented photos of shards in batches; see `loader.TrainBatches`, whose arguments it has.

    `shards` are those of training, `classes` is how many there are.

    Raises:
        ResnestError: the machine's shared memory is too small for the workers.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        classes: int,
        augment: "Augment",
        *,
        size: int,
        batch_size: int,
        workers: int,
        seed: int,
        aug_repeats: int = 1,
        pin_memory: bool = False,
        sizes: Callable[[int], int] | None = None,
        rank: int = 0,
        ranks: int = 1,
        accumulated: int = 1,
    ) -> None:
        self._side, self._seed, self._repeats = ShardStream(shards, classes), seed, aug_repeats
        self.photos = self._side.photos
        bounds = rank_bounds(self.photos, batch_size, ranks=ranks, accumulated=accumulated)
        self._sizes = [last - first for first, last in bounds[rank::ranks]]
        first, last = sections(
            self.photos, batch_size, ranks=ranks, accumulated=accumulated, aug_repeats=aug_repeats
        )[rank]
        self._section = Section(first, last, self._side.window)
        self._workers: Workers[_Entry, Batch] = Workers(
            _Decoded(seed, augment, sizes),
            collated,
            count=workers,
            pin_memory=pin_memory,
            batch_bytes=batch_bytes(batch_size, size),
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._sizes)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on.

        Raises:
            ResnestError: a shard is damaged or cannot be had, or a worker was killed.
        """
        with closing(self._keys(epoch, start)) as keys:
            yield from self._workers.batches(keys)

    def _keys(self, epoch: int, start: int) -> Generator[list[_Entry], None, None]:
        done = sum(self._sizes[:start])
        first, skipped = divmod(done, self._repeats)
        order = shard_order(len(self._side.shards), seed=self._seed, epoch=epoch)
        with closing(
            self._side.entries(
                order,
                self._section,
                start=first,
                shuffle=lambda count, at: window_order(
                    count, seed=self._seed, epoch=epoch, first=at
                ),
            )
        ) as found:
            every = (
                _Entry(epoch, index, repeat, photo)
                for index, photo in found
                for repeat in range(self._repeats)
            )
            entries = islice(every, skipped, None)
            for size in self._sizes[start:]:
                yield list(islice(entries, size))

    def close(self) -> None:
        """Ends the workers."""
        self._workers.close()


class ShardEvalBatches:
    """Photos of shards as `resnest predict` prepares them, bit for bit, in the shards' order.

    Of several devices, `rank` of `ranks` has a section of the batches: each photo comes once, and
    each shard is read by one device, or by two.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        classes: int,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        workers: int,
        pin_memory: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._side, self._batch_size = ShardStream(shards, classes), batch_size
        count = -(-self._side.photos // batch_size)
        cuts = [count * place // ranks for place in range(ranks + 1)]
        self._most = max(last - first for first, last in pairwise(cuts))
        first, last = (min(cut * batch_size, self._side.photos) for cut in cuts[rank : rank + 2])
        self._section = Section(first, last, self._side.window)
        self._workers: Workers[_Entry, Batch] = Workers(
            _Decoded(0, preprocessing),
            collated,
            count=workers,
            pin_memory=pin_memory,
            batch_bytes=batch_bytes(batch_size, preprocessing.size),
        )

    def __len__(self) -> int:
        """Batches of the device that has the most."""
        return self._most

    def __iter__(self) -> Iterator[Batch]:
        """All batches.

        Raises:
            ResnestError: as `ShardTrainBatches.epoch`.
        """
        with closing(self._keys()) as keys:
            yield from self._workers.batches(keys)

    def _keys(self) -> Generator[list[_Entry], None, None]:
        order = range(len(self._side.shards))
        with closing(self._side.entries(order, self._section)) as found:
            entries = (_Entry(0, index, 0, photo) for index, photo in found)
            while batch := list(islice(entries, self._batch_size)):
                yield batch

    def close(self) -> None:
        """Ends the workers."""
        self._workers.close()
