"""`--resume`: what a run keeps of its settings and data, and finds again when it goes on.

`args.toml` has absolute paths, so that a run goes on from any folder. Data that were moved are
found again where `--resume DATA` names them, if they are the same: every photo of `split.csv` under
its name, with the content that it had; of shards all names, sizes and hashes.
"""

import hashlib
import os
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.cpu import usable_cores
from resnest_cli.data.dataset import (
    DataSet,
    Sample,
    in_threads,
    read_split,
    sharded_dataset,
    write_split,
)
from resnest_cli.data.photo_paths import base_place
from resnest_cli.data.shard_files import Shard
from resnest_cli.data.shards import SHARD_SIDES, find_shards, from_text, is_shards, to_text
from resnest_cli.errors import ResnestError, UnknownModelError, UsageError
from resnest_cli.files import reading, write_text, writing
from resnest_cli.images.sources import is_url
from resnest_cli.model.variants import find_variant
from resnest_cli.options import flag_of
from resnest_cli.progress import Progress
from resnest_cli.training import runs
from resnest_cli.training.distributed import World
from resnest_cli.training.lost_photos import LostPhoto, found_again
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.settings import Config, checked, differences, load_settings
from resnest_cli.training.setup import Ready, TrainingJob, check_batches, digest, get_ready
from resnest_cli.training.state import State, load_state
from resnest_cli.training.tensorboard import check_tensorboard

if TYPE_CHECKING:
    from resnest_cli.output.training import TrainingDisplay

# What a resumed run may change; everything else would change what it computes.
CHANGEABLE = (
    "epochs", "workers", "cache", "save_every", "keep_epochs", "time_budget", "tensorboard",
)  # fmt: skip
# Where something lies; the same may lie elsewhere now.
DATA_PLACES = ("data", "val_data", "base_folder")
PLACES = (*DATA_PLACES, "model", "weights", "class_weights")

_LOOKED_FOR = 1000  # photos, before a run goes on
_NAMED = 5  # that differ
_MISSING, _CHANGED = "is missing", "has another content"


def job_of_torchrun(job: TrainingJob, world: World) -> TrainingJob:
    """Goes on with the run that torchrun's job began, if there is one that is not finished.

    Processes that were started again are given the very settings of its folder.
    """
    run = runs.find_job(job.base, world.job) if world.job else None
    if run is None or job.find_lr or job.dry_run or job.run not in {None, run.path.name}:
        return job
    if run.record().finished and not world.restarted:
        return job
    job = replace(job, run=run.path.name, resume=True)
    if run.started and world.restarted:
        job = replace(job, flags={}, recipe=None, config=None)
    return job


def ready_again(
    job: TrainingJob, run: RunFolder, old: Config, display: "TrainingDisplay", world: World
) -> Ready | None:
    """The run with its settings and data of today, where they are the same; None if it is done."""
    _check_world(run, old, world)
    config, record = _agreed(job, run, old), run.record()
    dataset = _data_again(run, config, anchored(old), record.lost, display)
    done = record.epoch
    assert config.epochs is not None
    if record.finished and config.epochs <= max(done, old.epochs or 0):
        display.message(
            f"{run.path} is finished: {done} epochs. To train longer: --resume --epochs N; for a "
            "new run leave out --resume."
        )
        return None
    if config.epochs < done:
        raise UsageError(f"--epochs {config.epochs}: {run.path} has done {done} epochs already.")
    check_tensorboard(config)
    try:
        ready = get_ready(config, dataset, job.access)
    except UnknownModelError as error:
        raise UsageError(f"{error} Say with --model where the same weights lie now.") from error
    check_batches(ready)
    if not ready.cached:  # features that are computed need no photos
        _check_there(dataset, config, run)
    if config.epochs != old.epochs:
        display.message(
            f"{config.epochs} epochs instead of {old.epochs}: the learning rate follows the longer "
            "schedule from here on."
        )
    return ready


def _check_world(run: RunFolder, old: Config, world: World) -> None:
    """Raises UsageError for another number of devices: they would have other batches, and the
    outcome would not be that of the run's settings.
    """
    if old.devices == world.size:
        world.device(old.device)
        return
    how = f"--devices {old.devices}" if old.devices > 1 else "no --devices"
    many = f", or torchrun with {old.devices} processes in all" if old.devices > 1 else ""
    raise UsageError(
        f"{run.path} was trained on {old.devices} device(s) and goes on with as many, not "
        f"{world.size}: give {how}{many}."
    )


def _agreed(job: TrainingJob, run: RunFolder, old: Config) -> Config:
    """The run's settings, with those given now that may change.

    Paths are absolute. Data and weights may lie elsewhere: whether they are the same is checked by
    their content, see `_check_same` and `RunRecord.origin`.
    """
    old = anchored(old)
    given = {key: checked(flag_of(key), key, value) for key, value in job.flags.items()}
    given.pop("devices", None)  # checked before
    if job.recipe is not None and job.recipe != old.recipe:
        given["recipe"] = job.recipe
    base = old
    if job.config is not None:
        base = load_settings(job.command, data=job.data or old.data, config=job.config)
    elif job.data is not None:
        given["data"] = job.data
        given.setdefault("base_folder", _moved_along(old, job.data))
    new = anchored(replace(base, **given))
    moved = [name for name in PLACES if _moved(getattr(old, name), getattr(new, name))]
    free = (*CHANGEABLE, *moved)
    found = differences(old, replace(new, **{name: getattr(old, name) for name in free}))
    if found:
        raise UsageError(
            f"{run.path} cannot be resumed with other settings: {'; '.join(found)}.\nLeave them "
            "out to go on as it began (--epochs and --workers may change), or start a new run "
            "without --resume."
        )
    changed = {name: getattr(new, name) for name in free}
    return replace(old, **{name: value for name, value in changed.items() if value is not None})


def _moved_along(old: Config, data: str) -> str | None:
    """The base folder of a table that lies in another place now: beside it, if it was so before."""
    beside = Path(old.data).parent
    if old.base_folder is None or not Path(old.base_folder).is_relative_to(beside):
        return old.base_folder
    return str(Path(data).parent / Path(old.base_folder).relative_to(beside))


def _moved(old: str | None, new: str | None) -> bool:
    """Whether a setting names another place, and not something else."""
    places = [place for place in (old, new) if place is not None]
    if old == new or len(places) < 2:
        return False
    return all(Path(place).is_absolute() or is_url(place) for place in places)


def _data_again(
    run: RunFolder, config: Config, old: Config, lost: list[LostPhoto], display: "TrainingDisplay"
) -> DataSet:
    dataset = _read_data(run, config)
    if all(getattr(config, name) == getattr(old, name) for name in DATA_PLACES):
        return dataset
    with display.showing("Checking photos") as scanned:
        if dataset.shards is not None:
            return _moved_shards(dataset, config, run, scanned)
        _check_same(dataset, config, run, {photo.name for photo in lost}, scanned)
    return dataset


def last_state(run: RunFolder, ready: Ready, display: "TrainingDisplay") -> State | None:
    """What a run goes on from; None at its beginning."""
    state = load_state(run.states, display.message)
    if state is None:
        return None
    if state.record.origin != ready.origin:
        raise UsageError(
            f"{ready.config.model}: these are not the weights that {run.path} began with. Give the "
            "same ones, or start a new run without --resume."
        )
    began = state.record.class_weights  # "" of an earlier version
    if began and began != digest(ready.class_weights):
        raise UsageError(
            f"--class-weights {ready.config.class_weights}: these are not the weights of classes "
            f"that {run.path} began with. Give the same ones, or start a new run without --resume."
        )
    if found := found_again(state.record.lost, ready.dataset):
        display.message(f"{found:,} photo(s) that were lost are back.")
    return state


def write_data(run: RunFolder, dataset: DataSet) -> None:
    """Keeps in a run's folder what it learns from: `split.csv`, or `shards.json`."""
    if dataset.shards is None:
        write_split(run.split, dataset)
        return
    train, val = (
        tuple(replace(shard, place=_absolute(shard.place)) for shard in dataset.shards.side(side))
        for side in SHARD_SIDES
    )
    index = replace(dataset.shards, class_names=dataset.class_names, train=train, val=val)
    with writing(run.shards):
        write_text(run.shards, to_text(index))


def _read_data(run: RunFolder, config: Config) -> DataSet:
    """The data set that `write_data` kept; `config` says where photos of folders lie."""
    if not run.shards.exists():
        return read_split(run.split, config.data, config.base_folder)
    with reading(run.shards):
        text = run.shards.read_bytes()
    index = from_text(text, str(run.shards))
    if index is None:
        raise ResnestError(f"{run.shards}: is no list of shards. Start a new run without --resume.")
    return sharded_dataset(index)


def anchored(config: Config) -> Config:
    """The settings with absolute paths in place of those that are relative to this folder."""
    changes: dict[str, Any] = {
        name: place if place is None else _absolute(place)
        for name in ("data", "val_data")
        for place in [getattr(config, name)]
    }
    if config.base_folder is not None:
        changes["base_folder"] = _absolute(base_place(config.base_folder, Path(config.data)))
    files = ["weights", "class_names", "class_weights"]
    files += [] if find_variant(config.model) else ["model"]
    for name in files:  # words that name no file stay
        place = getattr(config, name)
        if place is not None and os.path.exists(place):  # noqa: PTH110
            changes[name] = _absolute(place)
    return replace(config, **changes)


def _absolute(place: str) -> str:
    return place if is_url(place) else os.path.abspath(place)  # noqa: PTH100


def _check_there(dataset: DataSet, config: Config, run: RunFolder) -> None:
    """Raises UsageError for data that are all gone, before a run goes on without them.

    Of the photos, or of a thousand spread over them, none is there; or no shard.
    """
    paths = [sample.path for sample in (*dataset.train, *dataset.val)]
    if dataset.shards is not None:
        shards = (*dataset.shards.train, *dataset.shards.val)
        paths = [shard.place for shard in shards if not shard.remote]
    looked_for = paths[:: max(1, len(paths) // _LOOKED_FOR)]
    if looked_for and not any(map(os.path.exists, looked_for)):
        what = "photos" if dataset.shards is None else "shards"
        flag = "DATA" if config.base_folder is None else "--base-folder DIR"
        raise UsageError(
            f"{run.path}: its {what} are not in {config.base_folder or config.data} any more. Say "
            f"where they lie now: --resume {flag}."
        )


def _check_same(
    dataset: DataSet, config: Config, run: RunFolder, lost: set[str], progress: Progress
) -> None:
    """Compares the photos in a new place with those that a run began with.

    `lost` are names of photos that were not there any more in the old place.
    """
    samples, wrong = [*dataset.train, *dataset.val], []
    for sample, error in in_threads(_difference, samples, usable_cores(), progress):
        if error is not None and not (error == _MISSING and sample.name in lost):
            wrong.append(f"{sample.name} {error}")
    if wrong:
        more = f"; and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        also = "" if config.base_folder is None else ", or the --base-folder,"
        raise UsageError(
            f"{config.base_folder or config.data}: these are not the photos that {run.path} began "
            f"with. Of {len(samples):,}, {len(wrong):,} differ: {'; '.join(wrong[:_NAMED])}{more}. "
            f"Name the folder or the CSV{also} that holds the same photos, or start a new run "
            "without --resume."
        )


def _difference(sample: Sample) -> str | None:
    if not Path(sample.path).is_file():
        return _MISSING
    if not sample.digest:  # a run of an earlier version knows names alone
        return None
    try:
        with Path(sample.path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        return f"cannot be read ({(error.strerror or str(error)).lower()})"
    return None if digest.startswith(sample.digest) else _CHANGED


def _moved_shards(dataset: DataSet, config: Config, run: RunFolder, progress: Progress) -> DataSet:
    """The shards of a run where `config` says that they lie now."""
    assert dataset.shards is not None
    if not is_shards(config.data):
        raise UsageError(f"{config.data}: {run.path} learns from shards, and these are none.")
    found = find_shards(config.data, val_data=config.val_data, classes=None, progress=progress)
    for side in SHARD_SIDES:
        there, here = (list(map(_facts, one.side(side))) for one in (dataset.shards, found))
        differing = next((a or b for a, b in zip_longest(there, here) if a != b), None)
        if differing is not None:
            raise UsageError(
                f"{config.data}: these are not the shards that {run.path} began with: "
                f"{differing[0]} differs, or is only in one of the two. Name the folder that holds "
                "the same ones, or start a new run without --resume."
            )
    return sharded_dataset(replace(found, class_names=dataset.class_names))


def _facts(shard: Shard) -> tuple[str, int, int, str]:
    return shard.name, shard.photos, shard.size, shard.sha256
