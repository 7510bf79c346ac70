"""What `resnest train` and `resnest finetune` share: their options, and how they show a run."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from resnest_cli import options, training_options

Function = TypeVar("Function", bound=Callable[..., None])

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders (or with train/ and val/ in it), or a CSV: path,label.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="finetune|quick|paper", help="Where settings that are not given come from."
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings as TOML, such as a run's args.toml."),
]
Runs = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="The folder of run folders.")
]
Run = Annotated[
    str | None,
    typer.Option("--run", metavar="NAME", help="The run's name; with --resume which one (newest)."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check data and settings, tell the plan, and stop.")
]


def with_settings(command: Function) -> Function:
    """Gives a command an option for each setting, in place of its `**settings`."""
    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    kind = inspect.Parameter.KEYWORD_ONLY
    more = [
        inspect.Parameter(name, kind, default=None, annotation=annotation)
        for name, annotation in training_options.SETTINGS.items()
    ]
    own = [p.replace(kind=kind) for p in own]
    command.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    command.__annotations__ |= training_options.SETTINGS
    return command


def run(
    command: str,
    *,
    data: str | None,
    recipe: str | None,
    config: Path | None,
    output_: Path,
    run_: str | None,
    resume: bool,
    dry_run: bool,
    mirror: str | None,
    offline: bool,
    settings: Mapping[str, Any],
) -> None:
    """Trains and exits with the run's code."""
    from resnest_cli.output.training import TrainingDisplay
    from resnest_cli.training.job import TrainingJob, run_job

    job = TrainingJob(
        command=command,  # type: ignore[arg-type]
        data=data,
        recipe=recipe,
        config=config,
        flags={name: value for name, value in settings.items() if value is not None},
        output=output_,
        run=run_,
        resume=resume,
        dry_run=dry_run,
        access=options.access(mirror, offline),
    )
    outcome = run_job(job, TrainingDisplay(dry_run=dry_run))
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
