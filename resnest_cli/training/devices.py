"""Training on one device or on several: who starts the processes, and how they end together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from resnest_cli.errors import ResnestError
from resnest_cli.inference.cores import usable_cores
from resnest_cli.machine_limits import limit_reached
from resnest_cli.training.checks import checked, flag
from resnest_cli.training.distributed import PeerLostError, World, join
from resnest_cli.training.job import Outcome, TrainingJob, follow_job, run_job
from resnest_cli.training.launch import is_worker, launch
from resnest_cli.training.loop import DivergedError
from resnest_cli.training.lost_photos import DataLostError
from resnest_cli.training.settings import load_settings

if TYPE_CHECKING:
    from resnest_cli.output.training import TrainingDisplay


def run_on_devices(
    job: TrainingJob, display: "TrainingDisplay", arguments: Sequence[str]
) -> Outcome:
    """Trains as one of torchrun's processes, or alone, or starts a process for each device.

    `arguments` are those of the command line, which each process gets.

    Raises:
        ResnestError: as `run_job`; also for whatever the system refuses.
    """
    try:
        return _run(job, display, arguments)
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except OSError as error:
        if (limit := limit_reached(error)) is not None:
            raise ResnestError(limit) from error
        where = f"{error.filename}: " if error.filename else ""
        raise ResnestError(
            f"{where}{error.strerror or error}. What was saved before is whole: mend this, and go "
            "on with --resume."
        ) from error


def _run(job: TrainingJob, display: "TrainingDisplay", arguments: Sequence[str]) -> Outcome:
    if not is_worker():
        devices = _wanted(job)
        if devices > 1 and not job.dry_run:
            return Outcome(launch(devices, arguments))
        if devices > 1:  # what one of them will have
            torch.set_num_threads(max(1, usable_cores() // devices))
        return run_job(job, display, World())
    world = join()
    try:
        if world.main:
            return run_job(job, display, world)
        return _follow(job, display, world)
    finally:
        world.close()


def _wanted(job: TrainingJob) -> int:
    """How many devices were asked for, by the flag or in the file of settings."""
    if (given := job.flags.get("devices")) is not None:
        return int(checked(flag("devices"), "devices", given))
    if job.config is None or job.resume:
        return 1
    data = job.data or "."
    config = load_settings(job.command, data=data, recipe=None, config=job.config, flags={})
    return config.devices


def _follow(job: TrainingJob, display: "TrainingDisplay", world: World) -> Outcome:
    """`follow_job`; what all processes know is told by the first one alone."""
    try:
        return follow_job(job, display, world)
    except (DivergedError, DataLostError, PeerLostError) as error:
        return Outcome(error.exit_code)
    except ResnestError as error:
        error.args = (f"process {world.rank} of {world.size}: {error}",)
        raise
