"""What `resnest train` and `resnest finetune` do, apart from their command lines; free of Typer.

    settings -> data -> network -> plan -> run folder -> loop -> pictures

A resumed run takes the settings and the split from its folder and everything else from its state.
On several devices the first process does all of it, and the others join it in the loop.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import ResnestError, UnknownModelError, UsageError
from resnest_cli.model.weights import Access
from resnest_cli.training import runs
from resnest_cli.training.agreement import (
    DATA_PLACES,
    PLACES,
    agreed,
    check_world,
    same_job,
    settled,
)
from resnest_cli.training.allocator import keep_memory
from resnest_cli.training.budget import fitted
from resnest_cli.training.class_weights import digest
from resnest_cli.training.config import Command, Config
from resnest_cli.training.dataset import DataSet
from resnest_cli.training.distributed import World
from resnest_cli.training.endings import last_good, out_of_time, summarize, tell_stop
from resnest_cli.training.finding import find_learning_rate
from resnest_cli.training.loop import DivergedError, Trainer
from resnest_cli.training.lost_photos import found_again
from resnest_cli.training.moved_data import anchored, check_same, check_there, moved_shards
from resnest_cli.training.pictures import final_pictures, picture_of_training
from resnest_cli.training.plan import Estimate
from resnest_cli.training.planning import estimated, lines_of_the_rest, plan_lines
from resnest_cli.training.resume import Progress, State, load_state
from resnest_cli.training.runs import NoKeeper, RunFolder, RunKeeper
from resnest_cli.training.settings import (
    load_settings,
    named,
    without_effect,
    write_args,
)
from resnest_cli.training.setup import Ready, check_batches, get_ready
from resnest_cli.training.sharded import load_data, read_data, write_data
from resnest_cli.training.stopping import BudgetUsedError, StoppedError, StopRequest
from resnest_cli.training.tensorboard import check_tensorboard, logged

if TYPE_CHECKING:
    from resnest_cli.output.training import TrainingDisplay


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """What was asked for. `flags` are the settings given on the command line, by `Config`'s names.

    `output` is the folder of run folders, `run` a run's name. `find_lr` looks for a learning rate
    and trains nothing else. `began` is when the program did, monotonic, for the time budget.
    """

    command: Command
    data: str | None
    recipe: str | None = None
    config: Path | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    output: Path = Path("runs")
    run: str | None = None
    resume: bool = False
    dry_run: bool = False
    find_lr: bool = False
    access: Access = field(default_factory=Access)
    began: float = field(default_factory=time.monotonic)

    @property
    def base(self) -> Path:
        """Where this command's runs lie."""
        return self.output / self.command


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `exit_code` is 0, 130, 143 or 129."""

    exit_code: int
    run: RunFolder | None = None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the first of several processes tells the others."""

    path: Path
    config: Config
    dataset: DataSet
    state: State | None


def run_job(job: TrainingJob, display: "TrainingDisplay", world: World | None = None) -> Outcome:
    """Trains as asked, or goes on with what was interrupted; on several devices with `follow_job`.

    Raises:
        UsageError: settings, data or a run that do not fit together.
        ResnestError: the data, the weights, memory or the disk give no way to go on.
    """
    world = world or World()
    code = ResnestError.exit_code
    try:
        outcome = _run(job, display, world)
        code = outcome.exit_code
    except ResnestError as error:
        code = error.exit_code
        raise
    finally:
        world.dismiss(code)  # those who still wait for a plan
    return outcome


def _run(job: TrainingJob, display: "TrainingDisplay", world: World) -> Outcome:
    runs.check_run_name(job.run)
    keep_memory()
    if job.find_lr and job.resume:
        raise UsageError("--find-lr starts from the beginning; leave out --resume.")
    job = same_job(job, world)
    if job.resume:
        found = runs.find_run(job.base, job.run)
        if found is not None and job.dry_run:
            return _planned(job, found, display)
        if found is not None:
            with found.locked():
                return _resumed(job, found, display, world)
        display.message(f"Nothing to resume in {job.base / (job.run or '')}; starting afresh.")
    return _started(job, display, world)


def follow_job(job: TrainingJob, display: "TrainingDisplay", world: World) -> Outcome:
    """What a process that is not the first does: waits for that one, and trains with it.

    Raises:
        ResnestError: as `run_job`, for what goes wrong here.
    """
    keep_memory()
    code, plan = world.await_main()
    if plan is None:
        return Outcome(code)
    world.device(plan.config.device)
    ready = get_ready(plan.config, plan.dataset, job.access)
    return _train(job, RunFolder(plan.path), ready, display, world, plan.state)


def _started(job: TrainingJob, display: "TrainingDisplay", world: World) -> Outcome:
    config = load_settings(
        job.command, data=job.data, recipe=job.recipe, config=job.config, flags=job.flags
    )
    if not (job.dry_run and world.size == 1):  # a plan for several devices needs only one
        config = settled(config, world)
    if job.find_lr and world.size > 1:
        raise UsageError("--find-lr: looks on one device; leave out --devices.")
    if not job.dry_run and job.run is not None and not job.resume:
        runs.check_free(job.base / job.run)
    with display.scanning() as progress:
        dataset = load_data(config, progress)
    ready = get_ready(config, dataset, job.access)
    check_batches(ready)
    display.data(dataset)
    measured = _measured(job, ready)
    display.plan(plan_lines(ready, measured))
    for text in without_effect(job.flags, ready.config):
        display.message(text)
    if job.dry_run:
        return Outcome(0)
    check_tensorboard(ready.config)
    if job.find_lr:
        found = find_learning_rate(job.base, job.run, ready, display)
        return Outcome(found.exit_code, found.run)
    run = _folder(job)
    with run.locked():
        run.note_job(world.job)
        write_data(run, dataset)
        write_args(run.args, anchored(ready.config))
        display.message(f"Run folder: {run.path}")
        picture_of_training(run.path, ready, display.message)
        return _train(job, run, ready, display, world, _state(run, ready, display))


def _measured(job: TrainingJob, ready: Ready) -> Estimate:
    """What the run will cost. Epochs that were not asked for are cut to the time budget."""
    found = estimated(ready)
    asked = "epochs" in job.flags or (job.config is not None and "epochs" in named(job.config))
    if asked:
        return found
    ready.config = fitted(ready.config, found.epoch_seconds, time.monotonic() - job.began)
    assert ready.config.epochs is not None
    total = found.total_seconds
    if found.epoch_seconds:
        total = found.epoch_seconds * ready.config.epochs
    return replace(found, total_seconds=total)


def _folder(job: TrainingJob) -> RunFolder:
    """A new run folder; with --resume, that of a run that was killed before it saved anything."""
    if job.resume and job.run is not None and (job.base / job.run).is_dir():
        return RunFolder(job.base / job.run)
    return runs.new_run(job.base, job.run)


def _resumed(job: TrainingJob, run: RunFolder, display: "TrainingDisplay", world: World) -> Outcome:
    old = load_settings(job.command, data=None, recipe=None, config=run.args, flags={})
    progress = run.progress()
    ready = _ready_again(job, run, old, progress, display, world)
    if ready is None:
        return Outcome(0, run, progress)
    state = _state(run, ready, display)
    kept = anchored(old)
    if any(getattr(ready.config, name) != getattr(kept, name) for name in ("epochs", *PLACES)):
        if ready.dataset.shards is not None:
            write_data(run, ready.dataset)
        write_args(run.args, anchored(ready.config))
    run.note_job(world.job)
    display.message(f"Going on with {run.path}.")
    return _train(job, run, ready, display, world, state)


def _planned(job: TrainingJob, run: RunFolder, display: "TrainingDisplay") -> Outcome:
    """`--resume --dry-run`: what is left of a run; nothing is written."""
    old = load_settings(job.command, data=None, recipe=None, config=run.args, flags={})
    progress = run.progress()
    devices = int(job.flags.get("devices") or 1)
    ready = _ready_again(job, run, old, progress, display, World(size=devices))
    if ready is not None:
        progress = progress or Progress()
        _state(run, ready, display)
        display.plan(lines_of_the_rest(run, ready, progress))
    return Outcome(0, run, progress)


def _ready_again(
    job: TrainingJob,
    run: RunFolder,
    old: Config,
    progress: Progress | None,
    display: "TrainingDisplay",
    world: World,
) -> Ready | None:
    """The run with its settings and data of today, where they are the same; None if it is done."""
    check_world(run, old, world)
    config = agreed(job, run, old)
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
    with display.scanning() as scanned:
        if dataset.shards is not None:
            return moved_shards(dataset, config, run, scanned)
        lost = [photo.name for photo in progress.lost] if progress is not None else []
        check_same(dataset, config, run, lost, scanned)
    return dataset


def _state(run: RunFolder, ready: Ready, display: "TrainingDisplay") -> State | None:
    """What a run goes on from; None at its beginning."""
    state = load_state(run.states, display.message)
    if state is not None and state.progress.origin != ready.origin:
        raise UsageError(
            f"{ready.config.model}: these are not the weights that {run.path} began with. Give the "
            "same ones, or start a new run without --resume."
        )
    if state is not None:
        began = state.progress.class_weights  # "" of an earlier version
        if began and began != digest(ready.class_weights):
            raise UsageError(
                f"--class-weights {ready.config.class_weights}: these are not the weights of "
                f"classes that {run.path} began with. Give the same ones, or start a new run "
                "without --resume."
            )
        found = found_again(state.progress.lost, ready.dataset)
        if found:
            display.message(f"{found:,} photo(s) that were lost are back.")
    return state


def _train(
    job: TrainingJob,
    run: RunFolder,
    ready: Ready,
    display: "TrainingDisplay",
    world: World,
    state: State | None,
) -> Outcome:
    if world.main:
        world.begin(_Plan(run.path, ready.config, ready.dataset, state))
    with StopRequest() as stop, display:
        try:
            task = ready.task(run.states, stop, display, world.rank)
            kept = ready.config.keep_epochs
            keeper = RunKeeper(run, ready.info, ready.whole, kept) if world.main else NoKeeper()
            world.meet()
            with logged(display, run, ready.config, state, world.main) as watched:
                trainer = Trainer(task, keeper, watched, stop, state, job.began, world)
                trainer.progress.origin = ready.origin
                trainer.progress.class_weights = digest(ready.class_weights)
                trainer.run()
        except BudgetUsedError:
            out_of_time(job, run, ready, trainer, display, world)
            return Outcome(0, run, trainer.progress)
        except StoppedError:
            tell_stop(job, run, stop, display, world)
            return Outcome(stop.exit_code, run)
        except DivergedError as error:
            raise DivergedError(f"{error}{last_good(run)}") from None
        finally:
            ready.close()
        if world.main:
            final_pictures(run, ready, trainer.progress, trainer.best, display.message)
        trainer.progress.finished = True
        trainer.save()
    if world.main:
        summarize(run, ready, trainer.progress, display)
    return Outcome(0, run, trainer.progress)
