"""`resnest download`: fetch weights ahead of time."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from resnest_cli import options, output
from resnest_cli.errors import ResnestError, UsageError, WeightsError
from resnest_cli.inference import compiled
from resnest_cli.model import weights
from resnest_cli.model.variants import VARIANTS, Variant, get_variant

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
    The models are compiled for this CPU as well.
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
            _compile(variant, path, access)
    if failed:
        raise typer.Exit(1)


def _compile(variant: Variant, path: Path, access: weights.Access) -> None:
    """Compiles the model, so that its first run need not; failing that, says why and goes on."""
    from resnest_cli.inference.engine import compile_model
    from resnest_cli.model import checkpoint
    from resnest_cli.model.loading import find_model

    try:
        model = find_model(variant.id, access=access)
        # Not the usual loader, which would fetch the file again where torch cannot use it.
        model = replace(model, load=lambda: checkpoint.load(path, variant=variant))
        stored = compile_model(model)
    except ResnestError as error:
        output.message(f"{variant.id} was not compiled; its first run will be slower: {error}")
    else:
        if not stored:
            output.message(f"{variant.id} was compiled, but not stored. {compiled.refusal()}")
