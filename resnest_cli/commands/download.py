"""`resnest download`: fetch weights ahead of time."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from resnest_cli import output
from resnest_cli.commands.flags import command
from resnest_cli.errors import CheckpointError, ResnestError, UsageError, WeightsError
from resnest_cli.inference import onnx_cache
from resnest_cli.model.loading import find_model, refresh
from resnest_cli.model.names import understand
from resnest_cli.model.variants import VARIANTS, Variant
from resnest_cli.net import Access
from resnest_cli.options import Option
from resnest_cli.text import megabytes

PAGE = "models"
EXAMPLES = """
resnest download resnest50d resnest101e
resnest download timm/resnest50d.in1k hf-hub:USER/NAME@REVISION
resnest download --all --mirror https://mirror.example/resnest/
TORCH_HOME=/data/torch resnest download resnest269e
"""


@command
def download(
    *,
    models: Annotated[
        tuple[str, ...], Option("Variants, or repositories of the hub.", "MODEL...", argument=True)
    ] = (),
    every: Annotated[bool, Option("All published variants.", "--all")] = False,
    access: Access,
) -> None:
    """Fetch and verify weights, so that the first run needs no network.

    What torch.hub or timm has fetched before is found and used. Interrupted downloads are resumed.
    A repository's branch is looked up again, and fetched if it has moved. The models are compiled
    for this CPU as well.
    """
    if every == bool(models):
        raise UsageError("name one or more models, or pass --all. `resnest models` lists them.")
    names = list(VARIANTS) if every else models
    meanings = [(name, understand(name)) for name in names]
    if here := next((name for name, meaning in meanings if meaning.path is not None), None):
        raise UsageError(f"{here} is on this machine: there is nothing to download.")
    failed = 0
    for name, meaning in meanings:
        title = meaning.variant.id if meaning.variant else str(meaning.repository)
        try:
            path = refresh(meaning, access)
        except (WeightsError, CheckpointError) as error:  # the others may still be had
            text = str(error)
            output.error(text if text.startswith(title) else f"{title}: {text}")
            failed += 1
        else:
            output.emit(f"{title}\t{megabytes(path.stat().st_size)}\t{path}\n")
            _compile(title, name, meaning.variant, path, access)
    if failed:
        raise typer.Exit(1)


def _compile(title: str, name: str, variant: Variant | None, path: Path, access: Access) -> None:
    """Compiles the model, so that its first run need not; failing that, says why and goes on."""
    from resnest_cli.inference.engine import compile_model
    from resnest_cli.model import checkpoint

    try:
        model = find_model(name, access=access)
        if variant is not None:
            # Not the usual loader, which would fetch the file again where torch cannot use it.
            model = replace(model, load=lambda: checkpoint.load(path, variant=variant))
        stored = compile_model(model)
    except ResnestError as error:
        output.message(f"{title} was not compiled; its first run will be slower: {error}")
    else:
        if not stored:
            output.message(f"{title} was compiled, but not stored. {onnx_cache.refusal()}")
