"""`--resume`: what a run keeps of its settings and data, and finds again when it goes on.

`args.toml` has absolute paths, so that a run goes on from any folder. Data that were moved are
found again where `--resume DATA` names them, if they are the same: every photo of `split.csv` under
its name, with the content that it had; of shards all names, sizes and hashes.
"""

import os
from dataclasses import replace
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any

from resnest_cli.cpu import usable_cores
from resnest_cli.data.dataset import (
    DataSet,
    Sample,
    in_threads,
    read_split,
    sharded_dataset,
    write_split,
)
from resnest_cli.data.exclusion import digest_of_list
from resnest_cli.data.photo_paths import base_place
from resnest_cli.data.shards import SHARD_SIDES, find_shards, from_text, is_shards, to_text
from resnest_cli.errors import ResnestError, UnknownModelError, UsageError, reason
from resnest_cli.files import reading, write_text, writing
from resnest_cli.model.training_photos import digest_of
from resnest_cli.model.variants import find_variant
from resnest_cli.output.training import TrainingDisplay
from resnest_cli.paths import is_http
from resnest_cli.progress import Progress
from resnest_cli.text import count
from resnest_cli.training import runs
from resnest_cli.training.class_weights import weights_digest
from resnest_cli.training.distributed import World
from resnest_cli.training.lost_photos import LostPhoto, found_again
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.settings import Config, TrainingJob, given_settings, load_settings
from resnest_cli.training.setup import Ready, get_ready
from resnest_cli.training.state import RunRecord, State, load_state
from resnest_cli.training.tensorboard import check_tensorboard

# What a resumed run may change; everything else would change what it computes.
CHANGEABLE = (
    "epochs", "workers", "cache", "save_every", "keep_epochs", "time_budget", "tensorboard",
)  # fmt: skip
# Where something lies; the same may lie elsewhere now.
DATA_PLACES = ("data", "val_data", "base_folder", "unlabelled")
PLACES = (
    *DATA_PLACES, "model", "weights", "class_weights", "exclude", "teacher", "teacher_labels",
)  # fmt: skip

_LOOKED_FOR = 1000  # photos, before a run goes on
_NAMED = 5  # that differ
_MISSING = "is missing"


def job_of_torchrun(job: TrainingJob, world: World) -> TrainingJob:
    """Goes on with the run that torchrun's job began, if there is one that is not finished."""
    run = runs.find_job(job.base, world.job) if world.job else None
    if run is None or job.find_lr or job.dry_run or job.run not in {None, run.path.name}:
        return job
    if run.record().finished and not world.restarted:
        return job
    job = replace(job, run=run.path.name, resume=True)
    if run.started and world.restarted:  # the very settings of its folder
        job = replace(job, flags={}, recipe=None, config=None)
    return job


def kept_settings(job: TrainingJob, run: RunFolder) -> Config:
    """Those that the run began with, with absolute paths."""
    return anchored(load_settings(TrainingJob(command=job.command, config=run.args)))


def ready_again(
    job: TrainingJob, run: RunFolder, display: TrainingDisplay, world: World
) -> Ready | None:
    """The run with its settings and data of today, where they are the same; None if it is done."""
    old, record = kept_settings(job, run), run.record()
    _check_world(run, old, world)
    config = _agreed(job, run, old)
    dataset = _data_again(run, config, old, record.lost, display)
    done, epochs = record.epoch, config.epochs or 0
    if record.finished and epochs <= max(done, old.epochs or 0):
        longer = "" if old.folds is not None else " To train longer: --resume --epochs N;"
        display.message(
            f"{run.path} is finished: {done} epochs.{longer} For a new run leave out --resume."
        )
        return None
    if old.folds is not None and epochs != old.epochs:
        raise UsageError(
            f"--epochs {epochs}: the folds of {run.path} are of {old.epochs} epochs, and so is its "
            "last fit. Start a new run without --resume."
        )
    if epochs < done:
        raise UsageError(f"--epochs {epochs}: {run.path} has done {done} epochs already.")
    check_tensorboard(config)
    try:
        ready = get_ready(config, dataset, job.access)
    except UnknownModelError as error:
        flag = "--model" if config.teacher is None else "--model or --teacher"
        raise UsageError(f"{error} Say with {flag} where the same weights lie now.") from error
    if not ready.config.cached:  # features that are computed need no photos
        _check_there(dataset, config, run)
    if epochs != old.epochs:
        display.message(
            f"{epochs} epochs instead of {old.epochs}: the learning rate follows the longer "
            "schedule from here on."
        )
    return ready


def _check_world(run: RunFolder, old: Config, world: World) -> None:
    """Raises UsageError for another number of devices, which would have other batches."""
    if old.devices == world.size:
        world.device(old.device)
        return
    how = f"--devices {old.devices}" if old.devices > 1 else "no --devices"
    many = f", or torchrun with {old.devices} processes in all" if old.devices > 1 else ""
    raise UsageError(
        f"{run.path} was trained on {count(old.devices, 'device')} and goes on with as many, not "
        f"{world.size}: give {how}{many}."
    )


def _agreed(job: TrainingJob, run: RunFolder, old: Config) -> Config:
    """The run's settings, with those given now that may change.

    What is not named now, by a flag or in a file, stays as it was. What is named may be what was
    asked for at the start, such as `auto`, or what became of it. Data and weights may lie
    elsewhere: whether they are the same is checked by their content, see `_check_same` and
    `RunRecord.origin`.
    """
    given = given_settings(job)
    given.pop("devices", None)  # checked before
    if job.data is not None:
        given.setdefault("base_folder", _moved_along(old, job.data))
    new, asked, free, others = anchored(replace(old, **given)), old, {}, []
    if run.asked.exists():  # not in a run of an earlier version
        asked = load_settings(TrainingJob(command=job.command, config=run.asked))
    for name in given:
        there, now = getattr(old, name), getattr(new, name)
        if name in CHANGEABLE or (name in PLACES and _moved(there, now)):
            free[name] = now
        elif now not in {there, getattr(asked, name)}:
            others.append(f"{name}: {there} there, {now} now")
    if others:
        raise UsageError(
            f"{run.path} cannot be resumed with other settings: {'; '.join(others)}.\nLeave them "
            "out to go on as it began (--epochs and --workers may change), or start a new run "
            "without --resume."
        )
    return replace(old, **free)


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
    return all(Path(place).is_absolute() or is_http(place) for place in places)


def _data_again(
    run: RunFolder, config: Config, old: Config, lost: list[LostPhoto], display: TrainingDisplay
) -> DataSet:
    dataset = _read_data(run, config)
    if all(getattr(config, name) == getattr(old, name) for name in DATA_PLACES):
        return dataset
    with display.showing("Checking photos") as progress:
        if dataset.shards is not None:
            return _moved_shards(dataset, config, run, progress)
        _check_same(dataset, config, run, {photo.name for photo in lost}, progress)
    return dataset


def _others(given: str, what: str, run: RunFolder, which: str = "Give the same ones") -> UsageError:
    """The error of something that is not what the run began with."""
    return UsageError(
        f"{given}: these are not the {what} that {run.path} began with. {which}, or start a new "
        "run without --resume."
    )


def last_state(run: RunFolder, ready: Ready, display: TrainingDisplay) -> State | None:
    """What a run goes on from; None at its beginning."""
    state = load_state(run.states, display.message)
    if state is not None or run.started:
        _check_origins(run, run.record() if state is None else state.record, ready)
    if state is not None and (found := found_again(state.record.lost, ready.dataset)):
        display.message(f"{count(found, 'photo')} that were lost are back.")
    return state


def note_origins(record: RunRecord, ready: Ready) -> RunRecord:
    """Puts into a record, by their hashes, what the run rests on beside its settings and photos."""
    record.origin, record.class_weights = ready.origin, weights_digest(ready.class_weights)
    record.teacher = ready.teacher.digest if ready.teacher is not None else ""
    record.exclude = digest_of_list(ready.config.exclude) or record.exclude
    return record


def _check_origins(run: RunFolder, record: RunRecord, ready: Ready) -> None:
    """Raises UsageError where any of it is not what it was."""
    config = ready.config
    if record.origin != ready.origin:
        raise _others(config.model, "weights", run)
    weights = weights_digest(ready.class_weights)
    if record.class_weights not in {"", weights}:  # "" of an earlier version
        raise _others(f"--class-weights {config.class_weights}", "weights of classes", run)
    if record.teacher not in {"", ready.teacher.digest if ready.teacher is not None else ""}:
        raise _others(f"--teacher {config.teacher}", "teacher's weights and classes", run)
    now = digest_of_list(config.exclude)
    if now and record.exclude not in {"", now}:
        raise _others(f"--exclude {config.exclude}", "photos to leave out", run)


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
        return read_split(run.split, config.data, config.base_folder, config.unlabelled)
    with reading(run.shards):
        text = run.shards.read_bytes()
    index = from_text(text, str(run.shards))
    if index is None:
        raise ResnestError(f"{run.shards}: is no list of shards. Start a new run without --resume.")
    return sharded_dataset(index)


def anchored(config: Config) -> Config:
    """The settings with absolute paths in place of those that are relative to this folder."""
    # Words that name no file stay.
    perhaps = ["weights", "class_names", "class_weights", "exclude", "teacher_labels"]
    perhaps += [n for n in ("model", "teacher") if not find_variant(getattr(config, n) or "")]
    places = {n: getattr(config, n) for n in ("data", "val_data", "unlabelled", *perhaps)}
    changes: dict[str, Any] = {
        name: _absolute(place)
        for name, place in places.items()
        if place and (name not in perhaps or os.path.exists(place))  # noqa: PTH110
    }
    if config.base_folder is not None:
        changes["base_folder"] = _absolute(base_place(config.base_folder, Path(config.data)))
    return replace(config, **changes)


def _absolute(place: str) -> str:
    return place if is_http(place) else os.path.abspath(place)  # noqa: PTH100


def _check_there(dataset: DataSet, config: Config, run: RunFolder) -> None:
    """Raises UsageError where no shard is there, or none of the photos, or of many of them."""
    what, paths = "photos", [sample.path for sample in (*dataset.learned, *dataset.val)]
    if dataset.shards is not None:
        what = "shards"
        shards = (*dataset.shards.train, *dataset.shards.val)
        paths = [shard.place for shard in shards if not shard.remote]
    looked_for = paths[:: max(1, len(paths) // _LOOKED_FOR)]
    if looked_for and not any(map(os.path.exists, looked_for)):
        flag = "DATA" if config.base_folder is None else "--base-folder DIR"
        flag = flag if config.data else "--unlabelled DIR"
        raise UsageError(
            f"{run.path}: its {what} are not in {_place(config)} any more. Say where they lie now: "
            f"--resume {flag}."
        )


def _place(config: Config) -> str:
    """Where the photos are said to lie; those without labels may lie elsewhere."""
    return config.base_folder or config.data or config.unlabelled or ""


def _check_same(
    dataset: DataSet, config: Config, run: RunFolder, lost: set[str], progress: Progress
) -> None:
    """Compares the photos in a new place with those of the run; `lost` were gone in the old one."""
    samples, wrong = [*dataset.learned, *dataset.val], []
    for sample, error in in_threads(_difference, samples, usable_cores(), progress):
        if error is not None and not (error == _MISSING and sample.name in lost):
            wrong.append(f"{sample.name} {error}")
    if wrong:
        more = f"; and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        also = "" if config.base_folder is None else ", or the --base-folder,"
        raise _others(
            _place(config),
            "photos",
            run,
            f"Of {len(samples):,}, {len(wrong):,} differ: {'; '.join(wrong[:_NAMED])}{more}. Name "
            f"the folder or the CSV{also} that holds the same photos",
        )


def _difference(sample: Sample) -> str | None:
    if not Path(sample.path).is_file():
        return _MISSING
    try:  # a run of an earlier version knows names alone
        same = not sample.digest or digest_of(sample.path).startswith(sample.digest)
    except OSError as error:
        return f"cannot be read ({reason(error).lower()})"
    return None if same else "has another content"


def _moved_shards(dataset: DataSet, config: Config, run: RunFolder, progress: Progress) -> DataSet:
    """The shards of a run where `config` says that they lie now."""
    assert dataset.shards is not None
    if not is_shards(config.data):
        raise UsageError(f"{config.data}: {run.path} learns from shards, and these are none.")
    found = find_shards(config.data, val_data=config.val_data, classes=None, progress=progress)
    facts = attrgetter("name", "photos", "size", "sha256")
    for side in SHARD_SIDES:
        there, here = (list(map(facts, one.side(side))) for one in (dataset.shards, found))
        differing = next((a or b for a, b in zip_longest(there, here) if a != b), None)
        if differing is not None:
            which = f"{differing[0]} differs, or is only in one of the two. Name the folder that"
            raise _others(config.data, "shards", run, f"{which} holds the same ones")
    return sharded_dataset(replace(found, class_names=dataset.class_names))
