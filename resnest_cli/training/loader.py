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

from collections.abc import Iterator, Sequence
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
from resnest_cli.training.order import (
    Draw,
    FixedCrops,
    FolderOrder,
    Key,
    ShardOrder,
    ShardPhotos,
)
from resnest_cli.training.workers import Failure, Workers, share

if TYPE_CHECKING:
    from resnest_cli.training.augment import Augment
    from resnest_cli.training.teacher_answers import TeacherAnswers

BYTES_PER_PIXEL = 4
_MEASURED = 512  # photos, from which the memory of all follows
_MOST = 0.8  # of the memory that is free
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_UNANSWERED = "could not be read when the teacher was asked about it"


class Batch(NamedTuple):
    """Photos float32 (B, C, H, W), labels int64 (B,), and their indices among the samples.

    A photo that only the teacher labels has the label -1. Where a photo may have several labels
    they are float32 (B, num_classes) of 0 and 1. `lost` were meant to be in it and cannot
    be read; without any photo left the tensors are empty. `answers` are a teacher's where they were
    computed before: logits of the classes that are learned, float32 (B, num_classes).
    """

    photos: Tensor
    labels: Tensor
    indices: list[int]
    lost: Sequence[Lost] = ()
    answers: Tensor | None = None

    @property
    def too_few(self) -> bool:
        """Whether so much was lost that nothing can be learned: batch norm needs two photos."""
        return len(self.indices) < min(2, len(self.indices) + len(self.lost))


class _Prepared(NamedTuple):
    """A photo float32 (C, H, W), its labels as a part of a `Batch`'s, and its place.

    `answer` is the teacher's, float32 (classes,), where there are such.
    """

    photo: Tensor
    labels: Tensor
    place: int
    answer: Tensor | None = None


class Batches:
    """Batches of files or shards, in the order of `order`; processes stay from pass to pass.

    `prepare` is an augmentation, or how `resnest predict` prepares photos, bit for bit. `photos`
    are those of the samples, where they are in memory (`read_all`). With a teacher's `answers` only
    the crops that it has answered to come, each with its answer. `classes` is their number where a
    photo may have several labels, else 0. `grey` prepares for one channel, where no augmentation
    decides that. `workers` are processes; 0
    prepares photos in this one.
    """

    def __init__(
        self,
        samples: Sequence[Sample] | ShardPhotos,
        prepare: "Augment | Preprocessing",
        draw: Draw,
        *,
        workers: int = 0,
        photos: Sequence[Image.Image | ImageError] = (),
        answers: "TeacherAnswers | None" = None,
        classes: int = 0,
        grey: bool = False,
        pin_memory: bool = False,
    ) -> None:
        self._order: FolderOrder | ShardOrder
        if isinstance(samples, ShardPhotos):
            self._order, samples = ShardOrder(samples, draw), ()
        else:
            self._order = FolderOrder([sample.label for sample in samples], draw)
        crops, numbers = (None, 0) if answers is None else (answers.crops, answers.classes)
        self._workers: Workers[Key, Batch] = Workers(
            _Photos(samples, prepare, draw.seed or 0, photos, crops, answers, classes, grey),
            _collated,
            count=workers,
            pin_memory=pin_memory,
            batch_bytes=draw.batch_size * 4 * (3 * prepare.size**2 + numbers),
        )

    def __len__(self) -> int:
        """Batches in an epoch, of the device that has the most."""
        return len(self._order)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on."""
        with closing(self._order.batches(epoch, start)) as keys:
            yield from self._workers.batches(keys)

    def close(self) -> None:
        """Ends the workers."""
        self._workers.close()


@dataclass(frozen=True)
class _Photos(Dataset[Any]):
    """Reads and prepares one photo; lives in the workers."""

    samples: Sequence[Sample]
    prepare: "Augment | Preprocessing"
    seed: int
    photos: Sequence[Image.Image | ImageError] = ()
    crops: FixedCrops | None = None
    answers: "TeacherAnswers | None" = None
    classes: int = 0
    grey: bool = False

    def __getitem__(self, key: Key) -> _Prepared | Lost | Failure:
        index = key.place
        source = self.samples[index] if key.photo is None else key.photo
        try:
            image = self.photos[index] if self.photos else photo_or_error(source)
            if isinstance(image, ImageError):
                return Lost(index, source.label, source.name, str(image))
            crop, answer = None, None
            if self.crops is not None:
                number = self.crops.number(key)
                crop = self.crops.drawn_from(source, number)
                if self.answers is not None:
                    answer = self.answers.of(index, number)
                    if answer is None:
                        return Lost(index, source.label, source.name, _UNANSWERED)
            with limits_apart(_place(source)):
                if isinstance(self.prepare, Preprocessing):
                    photo = torch.from_numpy(preprocess(image, self.prepare, grey=self.grey))
                else:
                    photo = self.prepare(image, key.seed(self.seed), key.epoch, crop)
        except ResnestError as error:
            return Failure(str(error))
        labels = source.labels if isinstance(source, Sample) else ()
        return _Prepared(photo, labels_of(source.label, labels, self.classes), index, answer)


def labels_of(label: int, labels: Sequence[int], classes: int) -> Tensor:
    """A photo's part of a batch's labels: int64 (), or float32 (classes,) if it may have several.

    `classes` is 0 where it may not.
    """
    if not classes:
        return torch.tensor(label, dtype=torch.int64)
    found = torch.zeros(classes)
    found[list(labels)] = 1.0
    return found


def _collated(items: list[_Prepared | Lost | Failure]) -> Batch | Failure:
    """A batch of items; the first failure, if there is one."""
    for item in items:
        if isinstance(item, Failure):
            return item
    good = [item for item in items if isinstance(item, _Prepared)]
    lost = tuple(item for item in items if isinstance(item, Lost))
    if not good:
        return Batch(torch.empty(0), torch.empty(0, dtype=torch.int64), [], lost)
    photos = torch.stack([item.photo for item in good])
    labels = torch.stack([item.labels for item in good])
    rows = [item.answer for item in good if item.answer is not None]
    answers = torch.stack(rows) if rows else None
    if (failure := share(photos, labels, *([] if answers is None else [answers]))) is not None:
        return failure
    return Batch(photos, labels, [item.place for item in good], lost, answers)


def batch_of(
    samples: Sequence[Sample],
    prepare: "Augment | Preprocessing",
    keys: Sequence[Key],
    seed: int = 0,
    crops: FixedCrops | None = None,
    classes: int = 0,
    *,
    grey: bool = False,
) -> Batch:
    """The photos of these keys as a batch of their own."""
    photos = _Photos(samples, prepare, seed, crops=crops, classes=classes, grey=grey)
    found = _collated([photos[key] for key in keys])
    if isinstance(found, Failure):
        raise ResnestError(found.text)
    return found


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


def read_all(
    samples: Sequence[Sample], progress: Progress, free: int | None = None
) -> list[Image.Image | ImageError]:
    """All of them, in order, or why one cannot be read any more.

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
