"""Samples -> batches, prepared ahead by worker processes.

Each item is asked for as (epoch, index, repeat), so that workers carry no state and their number
changes nothing: order and augmentation come from the seed, see `seeds`. The processes are those of
`workers`.

A photo that cannot be read any more is left out of its batch and travels back as a `Lost`; it is
never replaced by another.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.images.preprocess import preprocess
from resnest_cli.inference.cores import usable_cores
from resnest_cli.model.variants import Preprocessing
from resnest_cli.training.bounds import rank_bounds
from resnest_cli.training.lost_photos import Lost
from resnest_cli.training.photo_cache import photo_or_error
from resnest_cli.training.seeds import derived_seed
from resnest_cli.training.workers import Failure, Workers, shared

if TYPE_CHECKING:
    from resnest_cli.training.augment import Augment
    from resnest_cli.training.dataset import Sample

Key = tuple[int, int, int]  # epoch, index, how often the index came before in this epoch


class Batch(NamedTuple):
    """Photos float32 (B, 3, H, W), labels int64 (B,), and their indices among the samples.

    `lost` were meant to be in it and cannot be read; without any photo left the tensors are empty.
    """

    photos: Tensor
    labels: Tensor
    indices: list[int]
    lost: Sequence[Lost] = ()

    @property
    def too_few(self) -> bool:
        """Whether so much was lost that nothing can be learned: batch norm needs two photos."""
        return len(self.indices) < min(2, len(self.indices) + len(self.lost))


class Item(NamedTuple):
    """A prepared photo float32 (3, H, W), its label, and its place among the samples."""

    photo: Tensor
    label: int
    place: int


def default_workers(device: str, processes: int = 1) -> int:
    """Worker processes for a device; `processes` of this machine share its cores.

    On a CPU of one or two cores none: a worker there delays the network's threads, which wait for
    each other, by more than it saves (resnest14d at 64 pixels, 2 cores: 118 photos/s without, 98
    with one). With more cores, one for each four.
    """
    cores = max(1, usable_cores() // processes)
    return cores // 4 if device == "cpu" else min(8, cores)


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
    order = repeated(order, aug_repeats)
    return [(epoch, index, again) for index, again in zip(order, _repeats(order), strict=True)]


def sample_seed(seed: int, key: Key) -> int:
    """From which a photo's augmentation is drawn: another one each time it comes in an epoch."""
    epoch, index, repeat = key
    return derived_seed(seed, "sample", epoch, index, *((repeat,) if repeat else ()))


def _repeats(order: Sequence[int]) -> list[int]:
    """How often each index came before its place in the order."""
    seen: Counter[int] = Counter()
    repeats = []
    for index in order:
        repeats.append(seen[index])
        seen[index] += 1
    return repeats


class _Photos(Dataset[Any]):
    """Reads and prepares one photo; lives in the workers."""

    def __init__(
        self,
        samples: "Sequence[Sample]",
        seed: int,
        augment: "Augment | Preprocessing",
        sizes: Callable[[int], int] | None,
        photos: Sequence[Image.Image | ImageError] | None,
    ) -> None:
        self._samples, self._seed = samples, seed
        self._augment, self._sizes, self._photos = augment, sizes, photos

    def __getitem__(self, key: Key) -> Item | Lost | Failure:
        epoch, index, _ = key
        sample = self._samples[index]
        try:
            image = photo_or_error(sample) if self._photos is None else self._photos[index]
            if isinstance(image, ImageError):
                return Lost(index, sample.label, sample.name, str(image))
            if isinstance(self._augment, Preprocessing):
                photo = torch.from_numpy(preprocess(image, self._augment))
            else:
                size = () if self._sizes is None else (self._sizes(epoch),)
                photo = self._augment(image, sample_seed(self._seed, key), *size)
        except ResnestError as error:
            return Failure(str(error))
        except MemoryError:
            return Failure(f"{sample.path} does not fit into this machine's memory.")
        return Item(photo, sample.label, index)


def collated(items: list[Item | Lost | Failure]) -> Batch | Failure:
    """A batch of items; the first failure, if there is one."""
    for item in items:
        if isinstance(item, Failure):
            return item
    good = [item for item in items if isinstance(item, Item)]
    lost = tuple(item for item in items if isinstance(item, Lost))
    if not good:
        return Batch(torch.empty(0), torch.empty(0, dtype=torch.int64), [], lost)
    photos = shared(torch.stack([item.photo for item in good]))
    if isinstance(photos, Failure):
        return photos
    labels = shared(torch.tensor([item.label for item in good], dtype=torch.int64))
    if isinstance(labels, Failure):
        return labels
    return Batch(photos, labels, [item.place for item in good], lost)


class TrainBatches:
    """Augmented photos in batches, in another order in each epoch.

    Args:
        samples: all training photos.
        augment: varies each of them.
        size: the largest side of the photos in pixels.
        sizes: their side in an epoch (from 0); the augmentation's own unless given; picklable.
        photos: the samples' photos, where they are in memory; see `photo_cache.read_all`.
        batch_size: photos in a batch; see `batch_bounds`.
        rank, ranks: which of how many devices the batches are for; see `rank_bounds`.
        accumulated: batches of a device whose gradient makes a step.
        workers: processes; 0 prepares photos in this one.
        seed: of the run.
        balanced: see `epoch_order`.
        aug_repeats: see `repeated`.
        pin_memory: for copies to an accelerator.

    Raises:
        ResnestError: the machine's shared memory is too small for the workers.
    """

    def __init__(
        self,
        samples: "Sequence[Sample]",
        augment: "Augment",
        *,
        size: int,
        batch_size: int,
        workers: int,
        seed: int,
        balanced: bool = False,
        aug_repeats: int = 1,
        pin_memory: bool = False,
        sizes: Callable[[int], int] | None = None,
        photos: Sequence[Image.Image | ImageError] | None = None,
        rank: int = 0,
        ranks: int = 1,
        accumulated: int = 1,
    ) -> None:
        self._labels = [sample.label for sample in samples]
        self._seed, self._balanced, self._aug_repeats = seed, balanced, aug_repeats
        self.photos = len(samples)
        bounds = rank_bounds(self.photos, batch_size, ranks=ranks, accumulated=accumulated)
        self._bounds = bounds[rank::ranks]
        items = _Photos(samples, seed, augment, sizes, photos)
        self._workers: Workers[Key, Batch] = Workers(
            items,
            collated,
            count=workers,
            pin_memory=pin_memory,
            batch_bytes=batch_bytes(batch_size, size),
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._bounds)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on.

        Raises:
            ResnestError: a worker was killed, or the machine has no memory or open files left.
        """
        drawn = epoch_keys(
            self._labels,
            seed=self._seed,
            epoch=epoch,
            balanced=self._balanced,
            aug_repeats=self._aug_repeats,
        )
        yield from self._workers.batches([drawn[a:b] for a, b in self._bounds[start:]])

    def close(self) -> None:
        """Ends the workers."""
        self._workers.close()


class EvalBatches:
    """Photos as `resnest predict` prepares them, bit for bit, in order.

    Of several devices, `rank` of `ranks` has every `ranks`-th batch: each photo comes once.
    """

    def __init__(
        self,
        samples: "Sequence[Sample]",
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        workers: int,
        pin_memory: bool = False,
        photos: Sequence[Image.Image | ImageError] | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        count = len(samples)
        keys = [
            [(0, index, 0) for index in range(at, min(at + batch_size, count))]
            for at in range(0, count, batch_size)
        ]
        self._most, self._keys = -(-len(keys) // ranks), keys[rank::ranks]
        items = _Photos(samples, 0, preprocessing, None, photos)
        self._workers: Workers[Key, Batch] = Workers(
            items,
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
            ResnestError: a worker was killed, or the machine has no memory or open files left.
        """
        yield from self._workers.batches(self._keys)

    def close(self) -> None:
        """Ends the workers."""
        self._workers.close()


def batch_bytes(batch_size: int, size: int) -> int:
    """Bytes of a batch's photos."""
    return batch_size * 3 * size * size * 4
