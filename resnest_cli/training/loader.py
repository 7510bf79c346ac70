"""Photos -> batches, prepared ahead by worker processes.

An order says which photos come when, see `order`; each is asked for by a key, so that workers carry
no state and their number changes nothing. Photos of files are read by the workers, or all of them
before, to be kept in memory (`--cache`); those of shards come with their keys, encoded, since the
main process reads shards. The processes are those of `workers`.

A photo that cannot be read any more, or decoded, is left out of its batch and travels back as a
`Lost`; it is never replaced by another. A shard that is damaged, or has other photos than it should
have, ends the run.

Small photos are decoded faster than they are found on a slow disk; kept, a pass over them costs no
reading at all. They are kept as Pillow holds them, four bytes a pixel, decoded before the processes
that load photos are forked, which share them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from resnest_cli.cpu import usable_cores
from resnest_cli.data.dataset import Sample, in_threads
from resnest_cli.data.shard_files import EncodedPhoto
from resnest_cli.errors import ImageError, ResnestError, limit_reached
from resnest_cli.images.decode import decode
from resnest_cli.images.preprocess import preprocess
from resnest_cli.model.variants import Preprocessing
from resnest_cli.progress import Progress
from resnest_cli.text import gigabytes
from resnest_cli.training.lost_photos import Lost
from resnest_cli.training.order import Draw, FolderOrder, Key, ShardOrder, ShardPhotos, sample_seed
from resnest_cli.training.workers import Failure, Workers, shared

if TYPE_CHECKING:
    from resnest_cli.training.augment import Augment

BYTES_PER_PIXEL = 4
_MEASURED = 512  # photos, from which the memory of all follows
_MOST = 0.8  # of the memory that is free
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


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


class _Prepared(NamedTuple):
    """A photo float32 (3, H, W), its label, and its place among the samples."""

    photo: Tensor
    label: int
    place: int


class Batches:
    """Batches of files or shards, in the order of `order`; processes stay from pass to pass.

    `prepare` is an augmentation, or how `resnest predict` prepares photos, bit for bit. `size` is
    the largest side in pixels, that of `prepare` unless given; `sizes`, picklable, gives the side
    in an epoch (from 0). `photos` are those of the samples, where they are in memory; see
    `read_all`. `workers` are processes; 0 prepares photos in this one. The rest: see `order.Draw`.
    """

    def __init__(
        self,
        samples: Sequence[Sample] | ShardPhotos,
        prepare: "Augment | Preprocessing",
        *,
        batch_size: int,
        workers: int,
        seed: int | None = None,
        size: int | None = None,
        sizes: Callable[[int], int] | None = None,
        photos: Sequence[Image.Image | ImageError] | None = None,
        balanced: bool = False,
        aug_repeats: int = 1,
        rank: int = 0,
        ranks: int = 1,
        accumulated: int = 1,
        pin_memory: bool = False,
    ) -> None:
        draw = Draw(batch_size, seed, balanced, aug_repeats, rank, ranks, accumulated)
        if size is None:
            assert isinstance(prepare, Preprocessing)
            size = prepare.size
        self._order: FolderOrder | ShardOrder
        if isinstance(samples, ShardPhotos):
            self._order, samples = ShardOrder(samples, draw), ()
        else:
            self._order = FolderOrder([sample.label for sample in samples], draw)
        self.photos = self._order.photos
        self._workers: Workers[Key, Batch] = Workers(
            _Photos(samples, seed or 0, prepare, sizes, photos),
            _collated,
            count=workers,
            pin_memory=pin_memory,
            batch_bytes=batch_size * 3 * size * size * 4,
        )

    def __len__(self) -> int:
        """Batches in an epoch, of the device that has the most."""
        return len(self._order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on."""
        with closing(self._order.batches(epoch, start)) as keys:
            yield from self._workers.batches(keys)

    def __iter__(self) -> Iterator[Batch]:
        """All batches, to validate with; raises as `epoch` does."""
        return self.epoch(0)

    def close(self) -> None:
        """Ends the workers."""
        self._workers.close()


@dataclass(frozen=True)
class _Photos(Dataset[Any]):
    """Reads and prepares one photo; lives in the workers."""

    samples: Sequence[Sample]
    seed: int
    prepare: "Augment | Preprocessing"
    sizes: Callable[[int], int] | None
    photos: Sequence[Image.Image | ImageError] | None

    def __getitem__(self, key: Key) -> _Prepared | Lost | Failure:
        epoch, index, _, encoded = key
        source = self.samples[index] if encoded is None else encoded
        try:
            image = photo_or_error(source) if self.photos is None else self.photos[index]
            if isinstance(image, ImageError):
                return Lost(index, source.label, source.name, str(image))
            if isinstance(self.prepare, Preprocessing):
                photo = torch.from_numpy(preprocess(image, self.prepare))
            else:
                size = () if self.sizes is None else (self.sizes(epoch),)
                photo = self.prepare(image, sample_seed(self.seed, key), *size)
        except ResnestError as error:
            return Failure(str(error))
        except MemoryError:
            return Failure(f"{_place(source)} does not fit into this machine's memory.")
        return _Prepared(photo, source.label, index)


def _collated(items: list[_Prepared | Lost | Failure]) -> Batch | Failure:
    """A batch of items; the first failure, if there is one."""
    for item in items:
        if isinstance(item, Failure):
            return item
    good = [item for item in items if isinstance(item, _Prepared)]
    lost = tuple(item for item in items if isinstance(item, Lost))
    if not good:
        return Batch(torch.empty(0), torch.empty(0, dtype=torch.int64), [], lost)
    photos = shared(torch.stack([item.photo for item in good]))
    labels = shared(torch.tensor([item.label for item in good], dtype=torch.int64))
    if isinstance(photos, Failure):
        return photos
    if isinstance(labels, Failure):
        return labels
    return Batch(photos, labels, [item.place for item in good], lost)


@contextmanager
def limits_apart(name: str) -> Iterator[None]:
    """A photo is not to blame for a machine that opens no more files or has no memory left."""
    try:
        yield
    except ImageError as error:
        if isinstance(error.__cause__, MemoryError):
            raise ResnestError(f"{name} {error}.") from error
        if (limit := limit_reached(error)) is not None:
            raise ResnestError(f"{name}: {limit}") from error
        raise
    except MemoryError as error:
        raise ResnestError(f"{name} does not fit into this machine's memory.") from error


def _place(source: Sample | EncodedPhoto) -> str:
    return source.name if isinstance(source, EncodedPhoto) else source.path


def photo_or_error(source: Sample | EncodedPhoto) -> Image.Image | ImageError:
    """The photo, upright, RGB; or why it cannot be read any more."""
    try:
        with limits_apart(_place(source)):
            return decode(source.data if isinstance(source, EncodedPhoto) else source.path)
    except ImageError as error:
        return error


def read_photo(sample: Sample) -> Image.Image:
    """The sample's photo: upright, RGB."""
    found = photo_or_error(sample)
    if isinstance(found, ImageError):
        raise ResnestError(
            f"{sample.path} {found}. It was readable before: was it changed?"
        ) from found
    return found


def read_all(
    samples: Sequence[Sample], progress: Progress, free: int | None = None
) -> list[Image.Image | ImageError]:
    """All of them, in order, decoded by as many threads as there are cores.

    In place of one that cannot be read any more stands the error that says why.
    `free` are the bytes that may be had; what the machine has free unless given.
    """
    free = free_memory() if free is None else free
    total, found, pixels = len(samples), list[Image.Image | ImageError](), list[int]()
    for _, image in in_threads(photo_or_error, samples, usable_cores(), progress):
        found.append(image)
        if isinstance(image, Image.Image) and len(found) <= _MEASURED:
            pixels.append(image.width * image.height)
        if free is not None and len(found) == min(total, _MEASURED):
            needed = BYTES_PER_PIXEL * sum(pixels) * total // max(1, len(pixels))
            if needed > _MOST * free:
                raise ResnestError(
                    f"--cache: {total:,} photos take about {gigabytes(needed)} of memory when "
                    f"decoded, and {gigabytes(free)} are free. Use --no-cache."
                )
    return found


def free_memory() -> int | None:
    """Bytes that this process may still take, from Linux and its control group; None elsewhere."""
    found = []
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        found += [1024 * int(at.split()[1]) for at in lines if at.startswith("MemAvailable:")]
    except OSError:
        pass
    try:  # what a container's limit leaves (control groups, version 2)
        most = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = (_CGROUP / "memory.current").read_text(encoding="ascii").strip()
        found.append(max(0, int(most) - int(used)))
    except (OSError, ValueError):  # no limit: "max"
        pass
    return min(found, default=None)
