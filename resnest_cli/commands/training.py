"""What `resnest train` and `resnest finetune` share: their options, and how they show a run."""

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from resnest_cli import options, output, training_options
from resnest_cli.errors import UsageError

if TYPE_CHECKING:
    from resnest_cli.model.weights import Access
    from resnest_cli.training.config import Command

Function = TypeVar("Function", bound=Callable[..., None])

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders (or with train/ and val/ in it), a table: path,label, or "
        "tar shards: a folder of `resnest pack`, or a quoted pattern.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help="The same as DATA."),
]
# Name -> type and default, of the options that are no settings.
COMMON: dict[str, tuple[Any, Any]] = {
    "recipe": (
        Annotated[
            str | None,
            typer.Option(
                metavar="NAME",
                help="Where settings that are not given come from: finetune, finetune-small, "
                "finetune-middle, finetune-large; quick, tiny, paper, a1, a2, a3.",
            ),
        ],
        None,
    ),
    "config": (
        Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Settings as TOML, such as a run's args.toml."),
        ],
        None,
    ),
    "output": (
        Annotated[
            Path, typer.Option("--output", "-o", metavar="DIR", help="The folder of run folders.")
        ],
        Path("runs"),
    ),
    "run": (
        Annotated[
            str | None,
            typer.Option(metavar="NAME", help="The run's name; with --resume which one (newest)."),
        ],
        None,
    ),
    "resume": (
        Annotated[
            bool,
            typer.Option(
                "--resume",
                help="Go on with an interrupted run; give DATA only if they were moved.",
            ),
        ],
        False,
    ),
    "dry_run": (
        Annotated[
            bool,
            typer.Option("--dry-run", help="Check data and settings, tell the plan, and stop."),
        ],
        False,
    ),
    "find_lr": (
        Annotated[
            bool,
            typer.Option(
                "--find-lr", help="Look for a learning rate, draw lr_finder.png, and stop."
            ),
        ],
        False,
    ),
    "quiet": (options.Quiet, False),
    "debug": (options.Debug, False),
}


class GroupedCommand(TyperCommand):
    """A command whose help has a heading for each group of options, for there are many."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments, then options by their `rich_help_panel`; those without one first."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None)
                groups.setdefault("Arguments" if argument else panel or "Options", []).append(
                    record
                )
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


def with_options(command: Function) -> Function:
    """Gives a command an option for all that the two share, in place of its `**given`."""
    signature = inspect.signature(command)
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [
        parameter.replace(kind=kind)
        for parameter in signature.parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    settings = {name: (type_, None) for name, type_ in training_options.SETTINGS.items()}
    more = [
        inspect.Parameter(name, kind, default=default, annotation=type_)
        for name, (type_, default) in (COMMON | settings).items()
    ]
    command.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    command.__annotations__ |= {parameter.name: parameter.annotation for parameter in more}
    return command


def only_one(data: str | None, option: str | None) -> str | None:
    """DATA, wherever it stands.

    Raises:
        UsageError: it stands in both places.
    """
    if data is not None and option is not None:
        raise UsageError(
            f"DATA {data} and --data {option}: give one of the two. A pattern needs quotes, or the "
            "shell takes it apart: --data 'shards/train-{000000..000127}.tar'"
        )
    return option if data is None else data


def run(command: "Command", data: str | None, given: Mapping[str, Any], access: "Access") -> None:
    """Trains with the options that were given, and exits with the run's code."""
    from resnest_cli.output.training import TrainingDisplay
    from resnest_cli.training.devices import run_on_devices
    from resnest_cli.training.job import TrainingJob
    from resnest_cli.training.launch import is_follower

    if is_follower():
        output.set_quiet(True)
    flags = {name: given[name] for name in training_options.SETTINGS if given[name] is not None}
    own = {name: given[name] for name in COMMON if name not in {"quiet", "debug"}}
    job = TrainingJob(command=command, data=data, flags=flags, access=access, **own)
    outcome = run_on_devices(job, TrainingDisplay(dry_run=job.dry_run), sys.argv[1:])
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
