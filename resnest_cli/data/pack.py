"""What `resnest pack` does, apart from its command line: a checked data set -> tar shards.

    layout: which photo goes into which shard, under which key, from data and seed alone
    -> shards, several at a time: written, read back, compared -> index.json

The photos of a side are shuffled over all its shards, so that each shard is a mix of the classes;
see `training.order` for why that matters. webdataset's TarWriter writes; with a fixed time and no
owner the bytes follow from the photos alone. A file is on the disk before it is read back: count,
classes and the SHA-256 of every photo must be those that were read from the sources.

A shard has its name only when it is whole, and the index comes last: a run that was killed leaves
whole shards and hidden temporary files. The same command removes these, verifies the shards, and
writes the others.
"""

import hashlib
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from resnest_cli.data.dataset import DataSet, Sample
from resnest_cli.data.seeds import derived_seed
from resnest_cli.data.shard_files import LABEL, PHOTOS, Shard, read_photos, tar_iterators
from resnest_cli.data.shards import (
    INDEX,
    SHARD_SIDES,
    Index,
    ShardSide,
    class_counts,
    from_text,
    to_text,
)
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import atomic_file, free_bytes, locked, remove_leftovers, write_text, writing
from resnest_cli.progress import Progress
from resnest_cli.text import megabytes

Job = TypeVar("Job")
Result = TypeVar("Result")
PhotoDone = Callable[[], None]  # after each photo; raises to stop

_BLOCK, _RECORD = 512, 10_240  # bytes: tar pads each member and the file to whole ones
_MOST_PHOTO = 8 * 2**30 - 1  # bytes; what a plain tar header can say
_DIGITS, _LETTERS = 9, 40  # of a key
_PAUSE = 0.1  # seconds between two looks at what is done


@dataclass(frozen=True, slots=True, kw_only=True)
class PackJob:
    """What was asked for: see the options of the command. `shard_bytes` is the most of a shard."""

    output: Path
    val_split: float
    seed: int
    shard_bytes: int
    photos_per_shard: int | None
    workers: int
    overwrite: bool

    @property
    def made(self) -> dict[str, Any]:
        """What decides the layout, for the index."""
        size = {"photos_per_shard": self.photos_per_shard}
        if self.photos_per_shard is None:
            size = {"shard_bytes": self.shard_bytes}
        return {"seed": self.seed, "val_split": self.val_split, **size}


class PlannedPhoto(NamedTuple):
    """A photo of a shard: where it is, its key and extension there, its class, and its bytes."""

    path: str
    key: str
    extension: str
    label: int
    size: int

    @property
    def tar_bytes(self) -> int:
        """With its class: two headers, each content filled up to whole blocks."""
        return 3 * _BLOCK + -(-self.size // _BLOCK) * _BLOCK


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard to be written: its name, its side, its photos in order."""

    name: str
    side: ShardSide
    photos: tuple[PlannedPhoto, ...]

    @property
    def tar_bytes(self) -> int:
        """The size of the file."""
        content = sum(photo.tar_bytes for photo in self.photos) + 2 * _BLOCK
        return -(-content // _RECORD) * _RECORD


@dataclass(frozen=True, slots=True)
class Packed:
    """What is there in the end; `kept` shards were there before."""

    index: Index
    kept: int


def pack(job: PackJob, dataset: DataSet, progress: Progress, check: Callable[[], None]) -> Packed:
    """Writes what is missing of the shards of these data.

    `check` may raise to stop.

    Raises:
        UsageError: the folder holds other shards, and `overwrite` is not set.
        ResnestError: the disk is full or cannot be written, a photo is gone, or a shard did not
            come back as it was written.
    """
    tar_iterators()
    plan = layout(dataset, job)
    with writing(job.output):
        job.output.mkdir(parents=True, exist_ok=True)
        with locked(folder=job.output):
            _tidy(job, plan)
            return _pack(job, dataset, plan, progress, check)


def _pack(
    job: PackJob,
    dataset: DataSet,
    plan: Sequence[PlannedShard],
    progress: Progress,
    check: Callable[[], None],
) -> Packed:
    folder, classes = job.output, len(dataset.class_ids)

    def each(
        work: Callable[[PlannedShard, PhotoDone], Result], shards: list[PlannedShard], title: str
    ) -> dict[str, Result]:
        """`work` of each shard, by its name."""
        show = partial(progress, total=sum(len(shard.photos) for shard in shards), title=title)
        results = run(work, shards, workers=job.workers, progress=show, check=check)
        return dict(zip([shard.name for shard in shards], results, strict=True))

    there = [shard for shard in plan if (folder / shard.name).exists()]
    records = each(partial(is_whole, folder), there, "Verifying photos") if there else {}
    found = {name: record for name, record in records.items() if record is not None}
    if len(found) < len(there) and not job.overwrite:
        raise _others(folder / min(records.keys() - found.keys()))
    kept = len(found)
    if missing := [shard for shard in plan if shard.name not in found]:
        (folder / INDEX).unlink(missing_ok=True)  # it says that the folder is whole
        _check_room(folder, missing)
        found |= each(partial(write_shard, folder, classes), missing, "Packing photos")
    train, val = (tuple(found[s.name] for s in plan if s.side == side) for side in SHARD_SIDES)
    index = Index(
        dataset.class_ids,
        dataset.class_names,
        train,
        val,
        class_counts(train, classes),
        class_counts(val, classes),
        left_out=tuple((p.name, p.label, p.error) for p in chain(*dataset.not_used)),
        made=job.made,
    )
    write_text(folder / INDEX, to_text(index))
    return Packed(index, kept)


def _tidy(job: PackJob, plan: Sequence[PlannedShard]) -> None:
    """Removes what a kill has left, and with `overwrite` shards that the plan does not have."""
    folder, names = job.output, {shard.name for shard in plan}
    for name in ("*.tar", INDEX):
        remove_leftovers(folder / name)
    there = [path for side in SHARD_SIDES for path in sorted(folder.glob(f"{side}-*.tar"))]
    others = [path for path in there if path.name not in names]
    if job.overwrite:
        for path in others:
            path.unlink()
        return
    if others:
        raise _others(others[0])
    index = folder / INDEX
    if index.exists():
        known = from_text(index.read_bytes(), str(index))
        if known is None:
            raise UsageError(f"{index}: is no index of shards. Give another folder with -o.")
        if dict(known.made) != job.made:
            raise _others(index)


def _others(path: Path) -> UsageError:
    return UsageError(
        f"{path}: is not what these data and options give. --overwrite replaces it; -o names "
        "another folder."
    )


def _check_room(folder: Path, missing: Sequence[PlannedShard]) -> None:
    """Raises ResnestError for a disk that is too small, before it is full."""
    needed = sum(shard.tar_bytes for shard in missing)
    replaced = (folder / shard.name for shard in missing)
    needed -= sum(path.stat().st_size for path in replaced if path.exists())
    free = free_bytes(folder)
    if free is not None and needed > free:
        raise ResnestError(
            f"{folder}: the shards need {megabytes(needed)}, and {megabytes(free)} are free. Make "
            "room, or give another folder with -o."
        )


def layout(dataset: DataSet, job: PackJob) -> list[PlannedShard]:
    """The shards of both sides, a pure function of data and options.

    A photo that is larger than `shard_bytes` has a shard of its own.
    """
    found = []
    for number, side in enumerate(SHARD_SIDES):
        samples = dataset.train if side == "train" else dataset.val
        # Sorted: how their folder lists them changes nothing.
        ordered = sorted(samples, key=lambda sample: (sample.label, sample.name))
        random = np.random.default_rng(derived_seed(job.seed, "pack", number))
        photos = [
            _planned(ordered[int(index)], place, dataset.class_ids)
            for place, index in enumerate(random.permutation(len(ordered)))
        ]
        found += [
            PlannedShard(f"{side}-{place:06d}.tar", side, part)
            for place, part in enumerate(_cut(photos, job))
        ]
    return found


def _planned(sample: Sample, number: int, ids: Sequence[str]) -> PlannedPhoto:
    try:
        size = Path(sample.path).stat().st_size
    except OSError as error:
        raise _gone(sample.path, error) from error
    if size > _MOST_PHOTO:
        raise UsageError(f"{sample.path}: is larger than 8 GiB, which tar shards cannot hold.")
    # A key has the class in plain letters, and no dot, with which an extension begins.
    word = re.sub(r"[^A-Za-z0-9_-]+", "-", ids[sample.label]).strip("-")[:_LETTERS]
    key = f"{number:0{_DIGITS}d}" + (f"_{word}" if word else "")
    suffix = PurePath(sample.path).suffix.lower()[1:]
    extension = suffix if suffix in PHOTOS else "jpg"  # a table may list files of any name
    return PlannedPhoto(sample.path, key, extension, sample.label, size)


def _cut(photos: Sequence[PlannedPhoto], job: PackJob) -> list[tuple[PlannedPhoto, ...]]:
    if job.photos_per_shard is not None:
        starts = range(0, len(photos), job.photos_per_shard)
        return [tuple(photos[at : at + job.photos_per_shard]) for at in starts]
    parts: list[list[PlannedPhoto]] = []
    size = 0
    for photo in photos:
        if not parts or size + photo.tar_bytes > job.shard_bytes:
            parts.append([])
            size = 2 * _BLOCK
        parts[-1].append(photo)
        size += photo.tar_bytes
    return [tuple(part) for part in parts]


def _gone(path: str, error: OSError) -> ResnestError:
    return ResnestError(
        f"{path}: cannot be read: {error.strerror or error}. It could be before: was it moved? Run "
        "the same command again."
    )


def write_shard(folder: Path, classes: int, planned: PlannedShard, photo_done: PhotoDone) -> Shard:
    """Writes and verifies a shard; its record."""
    path = folder / planned.name
    then = "The same command goes on with what is there."
    with writing(path, then=then), atomic_file(path) as file:
        digests = list(_write(file, planned, photo_done))
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # to be read back from the disk, not from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        shard = _record(planned, Path(file.name))
        _verify(Path(file.name), path, shard, planned, digests, classes)
    return shard


def is_whole(folder: Path, planned: PlannedShard, photo_done: PhotoDone) -> Shard | None:
    """The record of a shard that is there, if its bytes are those that would be written."""
    path = folder / planned.name
    if path.stat().st_size != planned.tar_bytes:
        return None
    wanted = _Hash()
    for _ in _write(wanted, planned, photo_done):
        pass
    shard = _record(planned, path)
    return shard if shard.sha256 == wanted.digest.hexdigest() else None


class _Hash:
    """A file that only counts in its SHA-256."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return len(data)


def _write(file: BinaryIO | _Hash, planned: PlannedShard, photo_done: PhotoDone) -> Iterator[bytes]:
    """Writes the shard; the SHA-256 of each photo as it was read."""
    from webdataset import TarWriter

    settings: dict[str, Any] = {"user": "", "group": "", "mtime": 0, "mode": 0o444}
    with TarWriter(file, encoder=False, compress=False, **settings) as tar:
        for photo in planned.photos:
            try:
                data = Path(photo.path).read_bytes()
            except OSError as error:
                raise _gone(photo.path, error) from error
            if len(data) != photo.size:
                raise ResnestError(
                    f"{photo.path}: has {len(data):,} bytes, and had {photo.size:,} a moment ago. "
                    "Run the same command again when nobody writes there."
                )
            label = str(photo.label).encode()
            tar.write({"__key__": photo.key, LABEL: label, photo.extension: data})
            photo_done()
            yield hashlib.sha256(data).digest()


def _record(planned: PlannedShard, path: Path) -> Shard:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    classes = Counter(photo.label for photo in planned.photos)
    return Shard(planned.name, len(planned.photos), size, digest, tuple(sorted(classes.items())))


def _verify(
    file: Path, path: Path, shard: Shard, planned: PlannedShard, digests: list[bytes], classes: int
) -> None:
    """Raises ResnestError where what was read back is not what was written."""
    try:
        with file.open("rb") as stream:
            photos = read_photos(shard, stream, classes)
            for wanted, digest, photo in zip(planned.photos, digests, photos, strict=True):
                same = photo.name == f"{shard.place}: {wanted.key}.{wanted.extension}"
                same = same and photo.label == wanted.label
                if not (same and hashlib.sha256(photo.data).digest() == digest):
                    raise ResnestError(  # noqa: TRY301 - to say that it was read back
                        f"{wanted.path} came back changed. The disk or the memory of this machine "
                        f"is at fault; nothing was left under the name {path.name}."
                    )
    except ResnestError as error:
        raise ResnestError(
            f"{path}: what was read back is not what was written: {error}"
        ) from error


class _StoppedError(Exception):
    """Another shard has failed, or the user stops."""


def run(
    work: Callable[[Job, PhotoDone], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    progress: Progress,
    check: Callable[[], None],
) -> list[Result]:
    """`work` of each job, in order, in threads: reading, hashing and writing leave others running.

    When one fails or `check` raises, the others stop at their next photo. `progress` is called with
    the number of photos done.
    """
    lock, stop = threading.Lock(), threading.Event()
    photos = 0

    def photo_done() -> None:
        nonlocal photos
        with lock:
            photos += 1
        if stop.is_set():
            raise _StoppedError

    with ThreadPoolExecutor(workers, thread_name_prefix="pack") as pool:
        try:
            futures = [pool.submit(work, job, photo_done) for job in jobs]
            pending = set(futures)
            while pending:
                done, pending = wait(pending, _PAUSE, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                check()
                progress(photos)
            return [future.result() for future in futures]
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
