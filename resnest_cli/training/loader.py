"""Samples -> batches, prepared ahead by worker processes. Built on torch's DataLoader.

Each item is asked for as (epoch, index), so that workers carry no state and their number changes
nothing: order and augmentation come from the seed, see `seeds`. Workers are forked where that is
possible, so that the list of photos is shared with them. They leave signals to the main process,
and end by themselves within seconds when it is gone.

An unreadable photo travels back as an error that names it; it is never replaced by another.
"""

import multiprocessing
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.images.batches import Preparation
from resnest_cli.images.decode import decode
from resnest_cli.inference.cores import usable_cores
from resnest_cli.model.variants import Preprocessing
from resnest_cli.training.seeds import derived_seed

if TYPE_CHECKING:
    from resnest_cli.training.augment import Augment
    from resnest_cli.training.dataset import Sample

_AHEAD = 2  # batches that each worker prepares before they are asked for
_SHM = Path("/dev/shm")

Key = tuple[int, int]  # epoch, index


class Batch(NamedTuple):
    """Photos float32 (B, 3, H, W), labels int64 (B,), and their indices among the samples."""

    photos: Tensor
    labels: Tensor
    indices: list[int]


class _Item(NamedTuple):
    photo: Tensor
    label: int
    place: int


class _Failure(NamedTuple):
    """What went wrong in a worker: plain text crosses processes."""

    text: str


def default_workers(device: str) -> int:
    """Worker processes: on a CPU one, so that it does not take the cores from the network."""
    return 1 if device == "cpu" else min(8, usable_cores())


def batch_bounds(photos: int, batch_size: int) -> list[tuple[int, int]]:
    """First and last + 1 of each batch; a last batch of one joins the one before.

    Batch norm cannot learn from a single photo (the split attention sees 1 x 1 maps).
    """
    bounds = [(at, min(at + batch_size, photos)) for at in range(0, photos, batch_size)]
    if len(bounds) > 1 and batch_size > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds[-2:] = [(bounds[-2][0], photos)]
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


class _Photos(Dataset[Any]):
    """Reads and prepares one photo; lives in the workers."""

    def __init__(
        self,
        samples: "Sequence[Sample]",
        seed: int,
        augment: "Augment | None",
        preparation: Preparation | None,
    ) -> None:
        self._samples, self._seed = samples, seed
        self._augment, self._preparation = augment, preparation

    def __getitem__(self, key: Key) -> _Item | _Failure:
        epoch, index = key
        sample = self._samples[index]
        try:
            if self._augment is not None:
                seed = derived_seed(self._seed, "sample", epoch, index)
                photo = self._augment(decode(sample.path), seed)
            else:
                assert self._preparation is not None
                photo = torch.from_numpy(self._preparation(sample.path))
        except ImageError as error:
            return _Failure(f"{sample.path} {error}. It was readable before: was it changed?")
        except MemoryError:
            return _Failure(f"{sample.path} does not fit into this machine's memory.")
        return _Item(photo, sample.label, index)


class _Batches(Sampler[list[Key]]):
    """The keys of the batches that are wanted next."""

    def __init__(self) -> None:
        self.keys: list[list[Key]] = []

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _collated(items: list[_Item | _Failure]) -> Batch | _Failure:
    for item in items:
        if isinstance(item, _Failure):
            return item
    good = [item for item in items if isinstance(item, _Item)]
    labels = torch.tensor([item.label for item in good], dtype=torch.int64)
    return Batch(torch.stack([i.photo for i in good]), labels, [i.place for i in good])


def _quiet_worker(_: int) -> None:
    """Ctrl-C and SIGTERM are for the main process, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Loader:
    """A DataLoader whose batches are chosen anew for each pass; workers stay between passes."""

    def __init__(
        self, photos: _Photos, workers: int, pin_memory: bool, bytes_of_batch: int
    ) -> None:
        self._workers, self._batches = workers, _Batches()
        if workers:
            check_shared_memory(workers * _AHEAD * bytes_of_batch)
        methods = multiprocessing.get_all_start_methods()
        self._loader: DataLoader[Any] | None = DataLoader(
            photos,
            batch_sampler=self._batches,
            num_workers=workers,
            collate_fn=_collated,
            pin_memory=pin_memory,
            worker_init_fn=_quiet_worker,
            multiprocessing_context="fork" if workers and "fork" in methods else None,
            persistent_workers=workers > 0,
            prefetch_factor=_AHEAD if workers else None,
        )

    def batches(self, keys: list[list[Key]]) -> Iterator[Batch]:
        """The batches of these keys, in order.

        Raises:
            ResnestError: a photo cannot be read, or a worker was killed.
        """
        assert self._loader is not None
        self._batches.keys = keys
        if not keys:
            return
        try:
            for found in self._loader:
                if isinstance(found, _Failure):
                    raise ResnestError(found.text)
                # pin_memory rebuilds named tuples
                yield Batch(*found)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) and "shared memory" not in str(error):
                raise
            raise _killed(self._workers, str(error)) from error
        except OSError as error:  # such as no space left in shared memory
            if not self._workers:
                raise
            raise _killed(self._workers, str(error)) from error

    def close(self) -> None:
        """Ends the workers."""
        self._loader = None


def check_shared_memory(needed: int, folder: Path = _SHM) -> None:
    """Tells a shared memory that is too small for the batches that travel through it.

    Where it runs full, Linux kills a worker with a bus error.

    Raises:
        ResnestError: fewer than `needed` bytes are free.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # no such folder: another system, with another way
        return
    if free < needed:
        raise ResnestError(
            f"{folder} has {free / 1e6:,.0f} MB free, and the workers need {needed / 1e6:,.0f} MB "
            "for their batches. Use --workers 0 or a smaller --batch-size; in Docker give "
            "--shm-size 2g, or --ipc=host."
        )


def _killed(workers: int, reason: str) -> ResnestError:
    first = reason.splitlines()[0] if reason else "no reason given"
    return ResnestError(
        f"a process that loads photos has died ({first}). Memory may have run out: use --workers "
        f"{workers // 2}, a smaller --batch-size, or in Docker a larger --shm-size. With --resume "
        "the run goes on where its state was saved."
    )


class TrainBatches:
    """Augmented photos in batches, in another order in each epoch.

    Args:
        samples: all training photos.
        augment: varies each of them.
        batch_size: photos in a batch; see `batch_bounds`.
        workers: processes; 0 prepares photos in this one.
        seed: of the run.
        balanced: see `epoch_order`.
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
        pin_memory: bool = False,
    ) -> None:
        self._labels = [sample.label for sample in samples]
        self._seed, self._balanced = seed, balanced
        self.photos = len(samples)
        self._bounds = batch_bounds(self.photos, batch_size)
        photos = _Photos(samples, seed, augment, None)
        self._loader = _Loader(photos, workers, pin_memory, _bytes(batch_size, size))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._bounds)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on.

        Raises:
            ResnestError: a photo cannot be read any more, or a worker was killed.
        """
        order = epoch_order(self._labels, seed=self._seed, epoch=epoch, balanced=self._balanced)
        keys = [[(epoch, index) for index in order[a:b]] for a, b in self._bounds[start:]]
        yield from self._loader.batches(keys)

    def close(self) -> None:
        """Ends the workers."""
        self._loader.close()


class EvalBatches:
    """Photos as `resnest predict` prepares them, bit for bit, in order."""

    def __init__(
        self,
        samples: "Sequence[Sample]",
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        workers: int,
        pin_memory: bool = False,
    ) -> None:
        count = len(samples)
        self._keys = [
            [(0, index) for index in range(at, min(at + batch_size, count))]
            for at in range(0, count, batch_size)
        ]
        photos = _Photos(samples, 0, None, Preparation(preprocessing))
        size = _bytes(batch_size, preprocessing.size)
        self._loader = _Loader(photos, workers, pin_memory, size)

    def __len__(self) -> int:
        """Batches."""
        return len(self._keys)

    def __iter__(self) -> Iterator[Batch]:
        """All batches.

        Raises:
            ResnestError: a photo cannot be read any more, or a worker was killed.
        """
        yield from self._loader.batches(self._keys)

    def close(self) -> None:
        """Ends the workers."""
        self._loader.close()


def _bytes(batch_size: int, size: int) -> int:
    return batch_size * 3 * size * size * 4
