"""What `resnest pack` does, apart from its command line; free of Typer.

    data, checked and split as for training -> layout -> shards, several at a time -> index.json

A shard has its name only when it is whole, and the index comes last: a run that was killed leaves
whole shards and hidden temporary files. The same command removes these, verifies the shards, and
writes the others.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from resnest_cli.errors import ResnestError, UsageError, cannot_write
from resnest_cli.files import remove_leftovers, write_text
from resnest_cli.packing.layout import Planned, planned
from resnest_cli.packing.parallel import Tell, run
from resnest_cli.packing.writing import is_whole, write_shard
from resnest_cli.shards.index import NAME, SIDES, Index, Shard, class_counts, from_text, to_text
from resnest_cli.shards.reading import tar_iterators
from resnest_cli.training.dataset import DataSet

Progress = Callable[[int, int | None], None]
Result = TypeVar("Result")

_PATIENCE = 5.0  # seconds; workers of a run that was killed end within one


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


@dataclass(frozen=True, slots=True)
class Packed:
    """What is there in the end; `kept` shards were there before."""

    index: Index
    kept: int


def pack(
    job: PackJob,
    dataset: DataSet,
    progress: Callable[[str], Progress],
    check: Callable[[], None],
) -> Packed:
    """Writes what is missing of the shards of these data.

    `progress` gives what is told of so many photos of a step with this title; `check` may raise to
    stop.

    Raises:
        UsageError: the folder holds other shards, and `overwrite` is not set.
        ResnestError: the disk is full or cannot be written, a photo is gone, or a shard did not
            come back as it was written.
    """
    tar_iterators()
    plan = planned(
        dataset,
        seed=job.seed,
        shard_bytes=job.shard_bytes,
        photos_per_shard=job.photos_per_shard,
    )
    folder = job.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=_PATIENCE):
            return _pack(job, dataset, plan, progress, check)
    except Timeout:
        raise ResnestError(f"{folder}: another `resnest pack` is writing there.") from None
    except OSError as error:
        raise ResnestError(cannot_write(folder, error)) from error


def _pack(
    job: PackJob,
    dataset: DataSet,
    plan: Sequence[Planned],
    progress: Callable[[str], Progress],
    check: Callable[[], None],
) -> Packed:
    folder, classes = job.output, len(dataset.class_ids)
    _tidy(job, plan)
    found: dict[str, Shard] = {}
    there = [shard for shard in plan if (folder / shard.name).exists()]
    if there:
        work = partial(is_whole, folder)
        for shard, record in zip(there, _run(job, work, there, progress("Verifying photos"), check),
                                 strict=True):  # fmt: skip
            if record is not None:
                found[shard.name] = record
            elif not job.overwrite:
                raise _others(folder / shard.name)
    kept = len(found)
    missing = [shard for shard in plan if shard.name not in found]
    if missing:
        (folder / NAME).unlink(missing_ok=True)  # it says that the folder is whole
        _check_room(folder, missing)
        write = partial(_written, folder, classes)
        records = _run(job, write, missing, progress("Packing photos"), check)
        found |= {shard.name: record for shard, record in zip(missing, records, strict=True)}
    index = _index(job, dataset, plan, found)
    write_text(folder / NAME, to_text(index))
    return Packed(index, kept)


def _written(folder: Path, classes: int, shard: Planned, tell: Tell) -> Shard:
    return write_shard(folder, shard, classes, tell)


def _tidy(job: PackJob, plan: Sequence[Planned]) -> None:
    """Removes what a kill has left, and with `overwrite` shards that the plan does not have.

    Raises:
        UsageError: there are shards of other data or options, and `overwrite` is not set.
    """
    folder, names = job.output, {shard.name for shard in plan}
    for name in ("*.tar", NAME):
        remove_leftovers(folder / name)
    others = [
        path
        for side in SIDES
        for path in sorted(folder.glob(f"{side}-*.tar"))
        if path.name not in names
    ]
    index = folder / NAME
    if job.overwrite:
        for path in others:
            path.unlink()
        return
    if others:
        raise _others(others[0])
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


def _check_room(folder: Path, missing: Sequence[Planned]) -> None:
    """Tells a disk that is too small before it is full."""
    needed = sum(shard.tar_bytes for shard in missing)
    needed -= sum(
        path.stat().st_size for shard in missing if (path := folder / shard.name).exists()
    )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResnestError(
            f"{folder}: the shards need {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free. "
            "Make room, or give another folder with -o."
        )


def _run(
    job: PackJob,
    work: Callable[[Planned, Tell], Result],
    shards: Sequence[Planned],
    progress: Progress,
    check: Callable[[], None],
) -> list[Result]:
    """`work` of each shard, several at a time."""
    total = sum(len(shard.entries) for shard in shards)
    return run(
        work,
        shards,
        workers=job.workers,
        progress=lambda done: progress(done, total),
        check=check,
    )


def _index(
    job: PackJob, dataset: DataSet, plan: Sequence[Planned], found: dict[str, Shard]
) -> Index:
    train, val = (
        tuple(found[shard.name] for shard in plan if shard.side == side) for side in SIDES
    )
    classes = len(dataset.class_ids)
    bad = [*dataset.bad, *dataset.left_out]
    return Index(
        dataset.class_ids,
        dataset.class_names,
        train,
        val,
        class_counts(train, classes),
        class_counts(val, classes),
        left_out=tuple((photo.name, photo.label, photo.error) for photo in bad),
        made=job.made,
    )
