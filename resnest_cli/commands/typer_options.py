"""--quiet and --debug for `merge`, which `flags.command` does not make yet."""

from typing import Annotated

import typer

from resnest_cli import output


def _quiet(value: bool) -> bool:
    output.set_quiet(value)
    return value


def _debug(value: bool) -> bool:
    output.set_debug(value)
    return value


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
