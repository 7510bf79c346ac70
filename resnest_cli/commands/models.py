"""`resnest models`: what there is, what is on this machine, and what a file of weights says."""

from functools import partial
from typing import Annotated

import typer

from resnest_cli import output
from resnest_cli.commands.flags import command
from resnest_cli.inference import onnx_cache
from resnest_cli.model import weights
from resnest_cli.model.names import get_named
from resnest_cli.model.variants import VARIANTS
from resnest_cli.net import Access
from resnest_cli.options import Option, TableFormat
from resnest_cli.text import megabytes

models = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    rich_markup_mode=None,
    help="List the variants; verify, clean or look into files of weights.",
    epilog="""Examples:

  resnest models

  resnest models --format json

  resnest models verify

  resnest models show runs/finetune/exp/weights/best.safetensors""",
)

subcommand = partial(command, common=False)


@models.callback()
@subcommand
def list_models(*, context: typer.Context, format_: TableFormat = "table") -> None:
    """List the variants and which of them are on this machine."""
    from resnest_cli.output.models import show_variants

    if context.invoked_subcommand is None:
        show_variants(as_json=format_ == "json")


@models.command(epilog="Examples:\n\n  resnest models verify\n\n  resnest models verify resnest50d")
@subcommand
def verify(
    *,
    names: Annotated[
        tuple[str, ...], Option("Default: all that are cached.", "[MODEL...]", argument=True)
    ] = (),
) -> None:
    """Read cached weights in full and compare their SHA-256 with the published one.

    Exit code 1 where a file is damaged, or one that was named is missing.
    """
    if names:
        chosen = [get_named(name) for name in names]
    else:
        chosen = [v for v in VARIANTS.values() if v.bundled or weights.find_cached(v)]
    results = [(variant, weights.verify(variant)) for variant in chosen]
    output.show_table(
        ("Model", "Status", "SHA-256", "File"),
        [[v.id, r.status, r.actual[:8] or "-", str(r.path)] for v, r in results],
        "l",
    )
    bad = [(variant, result) for variant, result in results if result.status != "ok"]
    for variant, result in bad:
        output.error(
            f"{variant.id}: {result.path} is {result.status} (expected SHA-256 {result.expected}). "
            f"`resnest download {variant.id}` fetches it anew."
        )
    if bad:
        raise typer.Exit(1)


@models.command(epilog="Examples:\n\n  resnest models clean --dry-run\n\n  resnest models clean")
@subcommand
def clean(*, dry_run: Annotated[bool, Option("Only say what would be removed.")] = False) -> None:
    """Remove downloaded weights, compiled models and what interrupted downloads left.

    Only published ResNeSt files and our own leftovers: nothing else in torch.hub's folder, and
    nothing of timm's.
    """
    removers = dict.fromkeys((*weights.cached_files(), *weights.leftovers()), weights.remove)
    removers |= dict.fromkeys(onnx_cache.everything(), onnx_cache.remove)
    sizes = {path: path.stat().st_size for path in removers}
    freed = 0
    for path, remove in removers.items():
        if not dry_run and not remove(path):
            output.message(f"kept {path}: it is in use now.")
            continue
        freed += sizes[path]
        output.emit(f"{'would remove' if dry_run else 'removed'}\t{path}\n")
    output.message(
        f"{megabytes(freed)} {'would be' if dry_run else 'were'} freed."
        if removers
        else "Nothing to clean."
    )


@models.command(
    epilog="Examples:\n\n  resnest models show best.safetensors\n\n"
    "  resnest models show timm/resnest50d.in1k --format json"
)
@subcommand
def show(
    *,
    model: Annotated[
        str, Option("A checkpoint, a folder, or a name of the hub.", "MODEL", argument=True)
    ],
    format_: TableFormat = "table",
    access: Access,
) -> None:
    """Say what a model's file holds: variant, classes, preprocessing, metrics, origin.

    Where a config.json belongs to it, what that says is shown, and what the table says if it
    differs. Published weights that are not on this machine are not fetched. Nothing is executed.
    """
    from resnest_cli.output.models import show_file

    show_file(model, access, as_json=format_ == "json")
