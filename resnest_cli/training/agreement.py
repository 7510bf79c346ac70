"""What a run has to agree on: with the folder that it goes on from, and with torchrun."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.errors import UsageError
from resnest_cli.shards.index import is_remote
from resnest_cli.training import runs
from resnest_cli.training.checks import checked, flag
from resnest_cli.training.config import Config
from resnest_cli.training.distributed import World
from resnest_cli.training.loader import default_workers
from resnest_cli.training.moved_data import anchored
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.settings import differences, load_settings

if TYPE_CHECKING:
    from resnest_cli.training.job import TrainingJob

# What a resumed run may change; everything else would change what it computes.
CHANGEABLE = (
    "epochs", "workers", "cache", "save_every", "keep_epochs", "time_budget", "tensorboard",
)  # fmt: skip
# Where something lies; the same may lie elsewhere now.
DATA_PLACES = ("data", "val_data", "base_folder")
PLACES = (*DATA_PLACES, "model", "weights", "class_weights")


def agreed(job: "TrainingJob", run: RunFolder, old: Config) -> Config:
    """The run's settings, with those given now that may change.

    Paths are absolute. Data and weights may lie elsewhere: whether they are the same is checked by
    their content, see `moved_data` and `Progress.origin`.

    Raises:
        UsageError: others differ; names them.
    """
    old = anchored(old)
    given = {key: checked(flag(key), key, value) for key, value in job.flags.items()}
    given.pop("devices", None)  # checked before
    if job.recipe is not None and job.recipe != old.recipe:
        given["recipe"] = job.recipe
    if job.config is not None:
        whole = load_settings(
            job.command, data=job.data or old.data, recipe=None, config=job.config, flags={}
        )
        return _without_changes(run, old, replace(whole, **given))
    if job.data is not None:
        given["data"] = job.data
        given.setdefault("base_folder", _moved_along(old, job.data))
    return _without_changes(run, old, replace(old, **given))


def _without_changes(run: RunFolder, old: Config, new: Config) -> Config:
    new = anchored(new)
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
    return old != new and all(
        place is not None and (Path(place).is_absolute() or is_remote(place))
        for place in (old, new)
    )


def same_job(job: "TrainingJob", world: World) -> "TrainingJob":
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


def settled(config: Config, world: World) -> Config:
    """The settings with this world's devices.

    Raises:
        UsageError: another number was asked for, or there is no device for each process.
    """
    if config.devices not in {1, world.size}:
        raise UsageError(
            f"--devices {config.devices}, but {world.size} process(es) were started. Leave it out: "
            "torchrun says how many there are."
        )
    device, workers = world.device(config.device), config.workers
    if workers is None and world.local_size > 1:
        workers = default_workers(device, world.local_size)
    return replace(config, devices=world.size, device=device, workers=workers)


def check_world(run: RunFolder, old: Config, world: World) -> None:
    """Tells a run that would go on with another number of devices.

    They would have other batches, and what came out would not be what the run's settings say.

    Raises:
        UsageError: it would, or there is no device for each process.
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
