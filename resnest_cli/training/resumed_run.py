"""`--resume`: what a run that goes on has to agree on with its folder, and with torchrun."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.data.dataset import DataSet
from resnest_cli.data.tar import is_remote
from resnest_cli.errors import UnknownModelError, UsageError
from resnest_cli.options import flag_of
from resnest_cli.training import runs
from resnest_cli.training.distributed import World
from resnest_cli.training.lost_photos import found_again
from resnest_cli.training.run_data import anchored, check_same, check_there, moved_shards, read_data
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.settings import Config, checked, differences, load_settings
from resnest_cli.training.setup import Ready, TrainingJob, check_batches, digest, get_ready
from resnest_cli.training.state import Progress, State, load_state
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


def job_of_torchrun(job: TrainingJob, world: World) -> TrainingJob:
    """Goes on with the run that torchrun's job began, if there is one that is not finished.

    Processes that were started again are given the very settings of its folder.
    """
    run = runs.find_job(job.base, world.job) if world.job else None
    if run is None or job.find_lr or job.dry_run or job.run not in {None, run.path.name}:
        return job
    progress = run.progress()
    if progress is not None and progress.finished and not world.restarted:
        return job
    job = replace(job, run=run.path.name, resume=True)
    if run.started and world.restarted:
        job = replace(job, flags={}, recipe=None, config=None)
    return job


def ready_again(
    job: TrainingJob, run: RunFolder, old: Config, display: "TrainingDisplay", world: World
) -> Ready | None:
    """The run with its settings and data of today, where they are the same; None if it is done.

    Raises:
        UsageError: other settings, devices, data or weights than it began with.
    """
    _check_world(run, old, world)
    config, progress = _agreed(job, run, old), run.progress()
    dataset = _data_again(run, config, anchored(old), progress, display)
    done = progress.epoch if progress is not None else 0
    assert config.epochs is not None
    if progress is not None and progress.finished and config.epochs <= max(done, old.epochs or 0):
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
        check_there(dataset, config, run)
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
    their content, see `moved_data` and `Progress.origin`.

    Raises:
        UsageError: others differ; names them.
    """
    old = anchored(old)
    given = {key: checked(flag_of(key), key, value) for key, value in job.flags.items()}
    given.pop("devices", None)  # checked before
    if job.recipe is not None and job.recipe != old.recipe:
        given["recipe"] = job.recipe
    base = old
    if job.config is not None:
        data = job.data or old.data
        base = load_settings(job.command, data=data, recipe=None, config=job.config, flags={})
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
    return all(Path(place).is_absolute() or is_remote(place) for place in places)


def _data_again(
    run: RunFolder,
    config: Config,
    old: Config,
    progress: Progress | None,
    display: "TrainingDisplay",
) -> DataSet:
    """The data that the run began with, from where they lie now."""
    dataset = read_data(run, config)
    if all(getattr(config, name) == getattr(old, name) for name in DATA_PLACES):
        return dataset
    with display.showing("Checking photos") as scanned:
        if dataset.shards is not None:
            return moved_shards(dataset, config, run, scanned)
        lost = [photo.name for photo in progress.lost] if progress is not None else []
        check_same(dataset, config, run, lost, scanned)
    return dataset


def last_state(run: RunFolder, ready: Ready, display: "TrainingDisplay") -> State | None:
    """What a run goes on from; None at its beginning.

    Raises:
        UsageError: it began with other weights, or with other weights of its classes.
    """
    state = load_state(run.states, display.message)
    if state is None:
        return None
    if state.progress.origin != ready.origin:
        raise UsageError(
            f"{ready.config.model}: these are not the weights that {run.path} began with. Give the "
            "same ones, or start a new run without --resume."
        )
    began = state.progress.class_weights  # "" of an earlier version
    if began and began != digest(ready.class_weights):
        raise UsageError(
            f"--class-weights {ready.config.class_weights}: these are not the weights of classes "
            f"that {run.path} began with. Give the same ones, or start a new run without --resume."
        )
    if found := found_again(state.progress.lost, ready.dataset):
        display.message(f"{found:,} photo(s) that were lost are back.")
    return state
