"""What `resnest train` and `resnest finetune` share: their options, and how they show a run."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from resnest_cli import output
from resnest_cli.commands.flags import Given
from resnest_cli.errors import UsageError
from resnest_cli.options import Mirror, Offline, setting
from resnest_cli.training.settings import Command, Config

Flags = Annotated[Mapping[str, Any], Given(Config)]


@dataclass(frozen=True, slots=True)
class RunFlags:
    """What is no setting of the run; as in `training.setup.TrainingJob`."""

    data: str | None = setting(
        None,
        "A folder of class folders (or with train/ and val/ in it), a table: path,label, or tar "
        "shards: a folder of `resnest pack`, or a quoted pattern.",
        "DATA",
        argument=True,
    )
    data_option: str | None = setting(None, "The same as DATA.", "--data DATA")
    mirror: Mirror = None
    offline: Offline = False
    recipe: str | None = setting(
        None,
        "Where settings that are not given come from: finetune, finetune-small, finetune-middle, "
        "finetune-large; quick, tiny, paper, a1, a2, a3.",
        "NAME",
    )
    config: Path | None = setting(None, "Settings as TOML, such as a run's args.toml.", "FILE")
    output: Path = setting(Path("runs"), "The folder of run folders.", "-o DIR")
    run: str | None = setting(None, "The run's name; with --resume which one (newest).", "NAME")
    resume: bool = setting(
        False, "Go on with an interrupted run; give DATA only if they were moved."
    )
    dry_run: bool = setting(False, "Check data and settings, tell the plan, and stop.")
    find_lr: bool = setting(False, "Look for a learning rate, draw lr_finder.png, and stop.")


def train(command: Command, run: RunFlags, flags: Mapping[str, Any]) -> None:
    """Trains with the options that were given, and exits with the run's code."""
    from resnest_cli.output.training import TrainingDisplay
    from resnest_cli.training.distributed import is_follower
    from resnest_cli.training.job import run_on_devices
    from resnest_cli.training.setup import TrainingJob

    given = {field.name: getattr(run, field.name) for field in fields(run)}
    data, option = given.pop("data"), given.pop("data_option")
    if data is not None and option is not None:
        raise UsageError(
            f"DATA {data} and --data {option}: give one of the two. A pattern needs quotes, or the "
            "shell takes it apart: --data 'shards/train-{000000..000127}.tar'"
        )
    if is_follower():
        output.set_quiet(True)
    job = TrainingJob(
        command=command,
        data=option if data is None else data,
        flags=flags,
        access=output.access(given.pop("mirror"), given.pop("offline")),
        **given,
    )
    if code := run_on_devices(job, TrainingDisplay(dry_run=job.dry_run), sys.argv[1:]):
        raise typer.Exit(code)
