"""Options as Typer takes them, for commands that `options.command` does not make."""

from typing import Annotated, Any, Literal

import typer

from resnest_cli import options, output
from resnest_cli.commands.inputs import access

__all__ = ["Debug", "Mirror", "Offline", "Quiet", "TableFormat", "access"]


def _quiet(value: bool) -> bool:
    output.set_quiet(value)
    return value


def _debug(value: bool) -> bool:
    output.set_debug(value)
    return value


def _shared(name: str) -> Any:
    return options.typer_option(options.settings_of(options.ModelOptions)[name])


Mirror = Annotated[str | None, _shared("mirror")]
Offline = Annotated[bool, _shared("offline")]
TableFormat = Annotated[
    Literal["table", "json"], typer.Option("--format", help="How it is printed on stdout.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=_quiet, help="No messages and bars, errors only."),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", callback=_debug, envvar="RESNEST_DEBUG", help="Show the traceback of an error."
    ),
]
