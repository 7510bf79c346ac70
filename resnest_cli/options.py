"""Options that several commands share, each defined once."""

from typing import Annotated, Literal

import typer

from resnest_cli import output
from resnest_cli.model.variants import DEFAULT_MODEL
from resnest_cli.model.weights import Access


def _quiet(value: bool) -> None:
    output.set_quiet(value)


def _debug(value: bool) -> None:
    output.set_debug(value)


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        envvar="RESNEST_MODEL",
        help="Id or alias of a variant (see `resnest models`), or a checkpoint file.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|URL", help="Other weights for the named variant. A path never connects."
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Class names, one a line, instead of the model's own."),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:1|mps",
        envvar="RESNEST_DEVICE",
        help="Where the network runs; auto takes an accelerator where there is one.",
    ),
]
Mirror = Annotated[
    str | None,
    typer.Option(
        metavar="URL|FOLDER",
        envvar="RESNEST_MIRROR",
        help="Where weights are looked for before the published hosts.",
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", envvar="RESNEST_OFFLINE", help="Never connect to anything.")
]
Topk = Annotated[
    int, typer.Option("--topk", "-k", min=1, help="How many classes to show for each photo.")
]
RecordFormat = Annotated[
    output.Format, typer.Option("--format", help="How records are printed on stdout.")
]
TableFormat = Annotated[
    Literal["table", "json"], typer.Option("--format", help="How the list is printed on stdout.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=_quiet, help="No messages and bars, errors only."),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        callback=_debug,
        envvar="RESNEST_DEBUG",
        help="Show the traceback of an error.",
    ),
]

__all__ = [
    "DEFAULT_MODEL",
    "Debug",
    "Device",
    "Labels",
    "Mirror",
    "Model",
    "Offline",
    "Quiet",
    "RecordFormat",
    "TableFormat",
    "Topk",
    "Weights",
    "access",
]


def access(mirror: str | None, offline: bool) -> Access:
    """How weights may be had, with progress and messages on stderr."""
    return Access(
        mirror=mirror, offline=offline, progress=output.DownloadBar(), notify=output.message
    )
