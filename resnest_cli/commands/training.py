"""What `resnest train` and `resnest finetune` share: their options, and how they show a run."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from resnest_cli import output
from resnest_cli.commands.flags import Given
from resnest_cli.errors import UsageError
from resnest_cli.training.settings import Config, TrainingJob

Flags = Annotated[Mapping[str, Any], Given(Config)]


def train(job: TrainingJob) -> None:
    """Trains as was asked for, and exits with the run's code."""
    from resnest_cli.output.training import TrainingDisplay
    from resnest_cli.training.distributed import is_follower
    from resnest_cli.training.job import run_on_devices

    data, option = job.data, job.data_option
    if data is not None and option is not None:
        raise UsageError(
            f"DATA {data} and --data {option}: give one of the two. A pattern needs quotes, or the "
            "shell takes it apart: --data 'shards/train-{000000..000127}.tar'"
        )
    if is_follower():
        output.set_quiet(True)
    job = replace(job, data=option if data is None else data)
    if code := run_on_devices(job, TrainingDisplay(dry_run=job.dry_run), sys.argv[1:]):
        raise typer.Exit(code)
