"""`--teacher-crops`: a teacher is asked about a few crops of each photo, before the first epoch.

Crop k of a photo is what `order.FixedCrops` draws from the run's seed, the photo's content and k,
by the law of the run's other crops. The teacher sees it cut from the photo and resized to its own
size, through the fast engine; the student draws among the crops in every epoch, and only colours
and erasing still vary. So an epoch costs what it costs without a teacher.

The answers are kept in a folder that is named by their key, see `teacher_answers`: a digest of what
decides them, namely the teacher (its weights' hash, preprocessing and classes), its precision and
kind of device, the crops (seed, number, scale, ratio, mirror), and the photos in their order by
their content (the SHA-256 that the check of the photos has computed; names where it is unknown; of
shards their names, sizes and hashes). Another run with the same key, such as one of another network
on the same photos, computes nothing. The processor is not in the key: its answers differ from
another's by less than float16 rounds, so that a run that moves keeps what there is.

On several devices the first process asks, and the others wait. Photos are decoded once for all
their crops, in threads, while the teacher answers to others; batches keep their size, so that a
pass that was stopped goes on to the same bytes.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from resnest_cli.cpu import usable_cores
from resnest_cli.data.dataset import Sample
from resnest_cli.data.shard_files import EncodedPhoto
from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.files import BusyError, free_bytes, lock_file
from resnest_cli.images.batches import Prepared, prepared_batches
from resnest_cli.images.sources import Source
from resnest_cli.progress import Notify, Progress
from resnest_cli.text import megabytes
from resnest_cli.training.augment import RandomCrop
from resnest_cli.training.loader import photo_or_error
from resnest_cli.training.lost_photos import MOST_IN_A_ROW, DataLostError, LostPhoto
from resnest_cli.training.order import Draw, FixedCrops, FolderOrder, Key, ShardOrder, ShardPhotos
from resnest_cli.training.settings import Config
from resnest_cli.training.state import saving
from resnest_cli.training.teacher import Teacher
from resnest_cli.training.teacher_answers import TOP, Float32, Records, TeacherAnswers, packed

_CPU_BATCH, _GPU_BATCH = 8, 64  # crops, powers of two
_MOST_THREADS = 16  # that decode for a GPU
_FORMAT = 1
_TIMED, _TIMED_ENOUGH = 256, 2.0  # photos of an estimate, and seconds after which fewer do
_POLL = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class _Asked(Source):
    """A photo that the teacher is asked about, as the loader knows it."""

    known: Sample | EncodedPhoto | None = field(default=None, repr=False)


class Estimate(NamedTuple):
    """Photos that are still to be asked about, the seconds for it, and the bytes of all answers."""

    photos: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Questions:
    """What a teacher is to answer: crops of photos, of files in a list or in shards.

    The crops are those of a run with this `config`, resolved.
    """

    teacher: Teacher
    photos: Sequence[Sample] | ShardPhotos
    config: Config
    answers: TeacherAnswers

    @classmethod
    def of(
        cls,
        teacher: Teacher,
        photos: Sequence[Sample] | ShardPhotos,
        config: Config,
        folder: Path,
    ) -> Self:
        """Their answers lie in the folder of `folder` that is named by their key."""
        crops = FixedCrops(config.seed, config.teacher_crops)
        count = len(photos)
        if isinstance(photos, ShardPhotos):
            count = sum(shard.photos for shard in photos.shards)
        place = folder / _key(teacher, photos, config)
        answers = TeacherAnswers(place, count, len(teacher.columns), crops)
        return cls(teacher, photos, config, answers)

    def answer(self, progress: Progress, check: Callable[[], None], notify: Notify) -> None:
        """Has all that is missing answered; `check` may raise to stop, which loses a chunk at most.

        Another process that answers the same questions is waited for.

        Raises:
            ResnestError: the disk has no room for them, or the teacher gives no finite numbers.
            DataLostError: many photos, one after the other, cannot be read.
        """
        answers = self.answers
        with saving(answers.folder):
            answers.folder.mkdir(parents=True, exist_ok=True)
        with _held(answers.folder / "lock", check, notify):
            if missing := answers.missing():
                self.check_room()
                self._answer(missing, progress, check)

    def estimate(self) -> Estimate:
        """What `answer` has to do, timed on a few photos; what is there is not looked into."""
        missing = self.answers.missing(looked_into=False)
        photos, timed, begin = sum(map(self.answers.photos_of, missing)), 0, time.perf_counter()
        if not photos:
            return Estimate(0, 0.0, self.answers.size)
        with closing(self._groups(missing[0], missing[-1] + 1)) as groups:
            for number, group in enumerate(groups):
                self._records(group)
                now = time.perf_counter()
                if number == 0:  # also gets the teacher ready
                    begin = now
                    continue
                timed += len(group)
                if timed >= _TIMED or now - begin > _TIMED_ENOUGH:
                    break
        if not timed:
            begin, timed = time.perf_counter(), len(group)
            self._records(group)
        seconds = (time.perf_counter() - begin) / timed * photos
        return Estimate(photos, seconds, self.answers.size)

    def check_room(self) -> None:
        """Raises ResnestError where the disk has no room for what is missing."""
        folder = self.answers.folder
        path = folder / "answers"
        there = 512 * path.stat().st_blocks if path.exists() and os.name == "posix" else 0  # holes
        free = free_bytes(next(place for place in folder.parents if place.exists()))
        needed = self.answers.size - there
        if self.answers.missing(looked_into=False) and free is not None and free < needed:
            raise ResnestError(
                f"{folder}: the teacher's answers need {megabytes(needed)}, and the disk has "
                f"{megabytes(free)} left. Lower --teacher-crops, or give an --output elsewhere."
            )

    def _answer(
        self, missing: Sequence[int], progress: Progress, check: Callable[[], None]
    ) -> None:
        answers, failed, in_a_row = self.answers, 0, 0
        done = answers.photos - sum(map(answers.photos_of, missing))
        progress(done, answers.photos)
        for first, last in _stretches(missing):
            number, rows, whole = first, list[Records](), True
            for group in self._groups(first, last):
                rows.append(self._records(group))
                for item in group:
                    in_a_row = in_a_row + 1 if item.error else 0
                    failed += bool(item.error)
                    if in_a_row >= MOST_IN_A_ROW:
                        raise _gone(in_a_row, item)
                whole = whole and not any(item.error for item in group)
                done += len(group)
                if sum(map(len, rows)) == answers.photos_of(number) * answers.crops.count:
                    answers.write(number, np.concatenate(rows), finished=whole)
                    number, rows, whole = number + 1, [], True
                progress(done, answers.photos, failed=failed)
                check()

    def _groups(self, first: int, last: int) -> Generator[list[Prepared], None, None]:
        """The photos of chunks first .. last - 1, so many at a time as fill batches of crops, but
        none of two chunks.

        Of each the crops, uint8 (crops, size, size, 3); they are prepared while the teacher answers
        to others.
        """
        whole = self._batch // math.gcd(self._batch, self.answers.crops.count)
        size = min(whole, self.answers.chunk)
        workers = max(1, usable_cores() // 2)
        if self._batch == _GPU_BATCH:
            workers = min(_MOST_THREADS, usable_cores())
        draw = Draw(self.answers.chunk)
        order: FolderOrder | ShardOrder
        if isinstance(self.photos, ShardPhotos):
            order = ShardOrder(self.photos, draw)
        else:
            order = FolderOrder([sample.label for sample in self.photos], draw)
        with closing(order.batches(0, first)) as chunks:
            keys = (key for chunk in islice(chunks, last - first) for key in chunk)
            asked = map(self._asked, keys)
            ahead = 2 * size + workers
            yield from prepared_batches(
                asked, self._prepared, size=size, workers=workers, ahead=ahead
            )

    def _asked(self, key: Key) -> Source:
        if key.photo is not None:
            return _Asked(key.photo.name, data=key.photo.data, known=key.photo)
        assert not isinstance(self.photos, ShardPhotos)
        sample = self.photos[key.place]
        return _Asked(sample.name, path=sample.path, known=sample)

    def _prepared(self, source: Source) -> tuple[Any, None]:
        """The crops of a photo, uint8 (crops, size, size, 3)."""
        assert isinstance(source, _Asked)
        assert source.known is not None
        image, how = photo_or_error(source.known), self.teacher.preprocessing
        if isinstance(image, ImageError):
            raise image
        law, crops, seen = RandomCrop(self.config), self.answers.crops, []
        for number in range(crops.count):
            crop = law.drawn(image, crops.drawn_from(source.known, number))
            seen.append(np.asarray(crop.of(image, how, how.size)))
        return np.stack(seen), None

    def _records(self, group: Sequence[Prepared]) -> Records:
        """The answers to a group of photos; those of a photo that cannot be read are marked."""
        size, each = self.teacher.preprocessing.size, self.answers.crops.count
        # Batches keep their size, and the others their bits.
        nothing = np.zeros((each, size, size, 3), np.uint8)
        crops = np.concatenate([nothing if p.photo is None else p.photo for p in group])
        rows = []
        for start in range(0, len(crops), self._batch):
            part = crops[start : start + self._batch]
            rows.append(self._logits(part)[: len(part)])
        logits = np.concatenate(rows)
        for place, item in enumerate(group):
            if not np.isfinite(logits[place * each : (place + 1) * each]).all():
                raise ResnestError(
                    f"--teacher {self.teacher.name} answers {item.source.name} with numbers that "
                    "are not finite. Take another teacher, or --amp off."
                )
        records = packed(logits)
        for place, item in enumerate(group):
            if item.photo is None:
                records["rest"][place * each : (place + 1) * each] = np.nan
        return records

    def _logits(self, crops: NDArray[np.uint8]) -> Float32:
        """Crops (N, size, size, 3) -> the teacher's logits of the classes learned, for a batch."""
        batch = np.zeros((self._batch, *crops.shape[1:]), np.uint8)
        batch[: len(crops)] = crops
        device = self.config.device
        try:
            with torch.inference_mode():
                pixels = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2)
                logits = self.teacher.of_classes(self.teacher.logits(pixels.contiguous() / 255))
                found: Float32 = logits.float().cpu().numpy()
                return found
        except torch.OutOfMemoryError as error:
            raise ResnestError(
                f"--teacher {self.teacher.name}: {len(batch)} photos at once do not fit into the "
                f"memory of {device}. Free it, or take a smaller --teacher-size or --teacher."
            ) from error

    @property
    def _batch(self) -> int:
        """Crops in a batch."""
        return _CPU_BATCH if self.config.device == "cpu" else _GPU_BATCH


def _key(teacher: Teacher, photos: Sequence[Sample] | ShardPhotos, config: Config) -> str:
    """What tells these answers from others, as a name of a folder."""
    digest = hashlib.blake2b(digest_size=8)
    machine = config.device.partition(":")[0], config.amp
    crops = config.seed, config.teacher_crops, config.scale, config.ratio, config.hflip
    facts = [_FORMAT, TOP, teacher.digest, teacher.columns, machine, crops]
    digest.update(json.dumps(facts).encode())
    if isinstance(photos, ShardPhotos):
        for shard in photos.shards:
            row = [shard.name, shard.photos, shard.size, shard.sha256]
            digest.update(json.dumps(row).encode() + b"\0")
    else:
        for sample in photos:
            name = sample.name.encode("utf-8", "surrogateescape")
            digest.update((sample.digest or name) + b"\0")
    return digest.hexdigest()


def _stretches(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last + 1 of each stretch of ascending numbers without a gap."""
    first = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield numbers[first], numbers[place - 1] + 1
            first = place


def _gone(count: int, item: Prepared) -> DataLostError:
    source = item.source
    assert isinstance(source, _Asked)
    label = -1 if source.known is None else source.known.label
    example = LostPhoto("train", source.name, label, 1, item.error or "")
    return DataLostError(f"{count} training photos, one after the other,", example)


@contextmanager
def _held(file: Path, check: Callable[[], None], notify: Notify) -> Iterator[None]:
    """Holds the lock; another process that has it is waited for, and `check` may end that."""
    said = False
    with ExitStack() as stack:
        while True:
            try:
                with saving(file):
                    stack.enter_context(lock_file(file, wait=0))
                break
            except BusyError:
                if not said:
                    notify("Another run is asking the teacher about these photos; waiting for it.")
                said = True
            check()
            time.sleep(_POLL)
        yield
