"""What a run says at its end, and how to go on from there."""

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.training.budget import budget_seconds
from resnest_cli.training.dataset import DataSet
from resnest_cli.training.distributed import World
from resnest_cli.training.loop import Trainer
from resnest_cli.training.pictures import final_pictures
from resnest_cli.training.resume import Progress
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.setup import Ready
from resnest_cli.training.stopping import StopRequest

if TYPE_CHECKING:
    from resnest_cli.output.training import TrainingDisplay
    from resnest_cli.training.job import TrainingJob


def out_of_time(
    job: "TrainingJob",
    run: RunFolder,
    ready: Ready,
    trainer: Trainer,
    display: "TrainingDisplay",
    world: World,
) -> None:
    """The time budget is used up: the run ends here, as was asked for, and could go on."""
    progress, config = trainer.progress, ready.config
    if progress.rows and world.main:
        final_pictures(run, ready, progress, trainer.best, display.message)
        summarize(run, ready, progress, display)
    display.message(
        f"The time budget of {config.time_budget} is used up after {progress.epoch} of "
        f"{config.epochs} epochs and {progress.step:,} steps; everything is saved. To go on:\n"
        f"  {_again(job, run, world)} --time-budget {2 * math.ceil(budget_seconds(config))}s"
    )


def _again(job: "TrainingJob", run: RunFolder, world: World) -> str:
    """What to type to go on."""
    words = ["resnest", job.command]
    if world.size > world.local_size:
        words = ["torchrun", "...", "-m", "--", "resnest_cli", job.command]
    words += [job.data] if job.data is not None else []
    words += ["--output", str(job.output)] if job.output != Path("runs") else []
    words += ["--devices", str(world.size)] if 1 < world.size == world.local_size else []
    return shlex.join([*words, "--run", run.path.name, "--resume"])


def tell_stop(
    job: "TrainingJob", run: RunFolder, stop: StopRequest, display: "TrainingDisplay", world: World
) -> None:
    """A signal ended the run, and everything is saved."""
    assert stop.signal is not None
    display.message(
        f"Stopped by {stop.signal.name}; everything so far is saved. To go on:\n"
        f"  {_again(job, run, world)}"
    )


def last_good(run: RunFolder) -> str:
    """A line that names the best weights so far, where there are any."""
    for name in ("best", "last"):
        if run.weights(name).exists():
            return f"\nThe best weights so far: {run.weights(name)}"
    return ""


def summarize(run: RunFolder, ready: Ready, progress: Progress, display: "TrainingDisplay") -> None:
    """How good the run became, what was left out, and what to try."""
    command = command_to_try(run, ready.dataset)
    display.summary(run.path, progress.rows, command, len(progress.lost))


def command_to_try(run: RunFolder, dataset: DataSet) -> str:
    """A prediction of a validation photo."""
    there = (sample.path for sample in dataset.val if Path(sample.path).exists())
    photo = next(there, "PHOTO")
    return shlex.join(["resnest", "predict", photo, "--model", str(run.weights("best"))])
