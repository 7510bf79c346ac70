"""`resnest download`: fetch weights ahead of time."""

from typing import Annotated

import typer

from resnest_cli import options, output
from resnest_cli.errors import UsageError, WeightsError
from resnest_cli.model import weights
from resnest_cli.model.variants import VARIANTS, get_variant

EPILOG = """Examples:

  resnest download resnest50d resnest101e

  resnest download --all --mirror https://mirror.example/resnest/

  TORCH_HOME=/data/torch resnest download resnest269e"""


def download(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Ids or aliases of variants.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All published variants.")] = False,
    mirror: options.Mirror = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,  # noqa: ARG001 (its callback acts)
    debug: options.Debug = False,  # noqa: ARG001 (its callback acts)
) -> None:
    """Fetch and verify weights, so that the first run needs no network.

    What torch.hub or timm has fetched before is found and used. Interrupted downloads are resumed.
    """
    if every == bool(models):
        raise UsageError("name one or more models, or pass --all. `resnest models` lists them.")
    chosen = list(VARIANTS.values()) if every else [get_variant(name) for name in models or ()]
    access = options.access(mirror, offline)
    failed = 0
    for variant in chosen:
        try:
            path = weights.ensure(variant, access)
        except WeightsError as error:  # the others may still be had
            output.error(f"{variant.id}: {error}")
            failed += 1
        else:
            output.emit(f"{variant.id}\t{output.megabytes(path.stat().st_size)}\t{path}\n")
    if failed:
        raise typer.Exit(1)
