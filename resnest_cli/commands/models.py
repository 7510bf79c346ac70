"""`resnest models`: what there is, what is on this machine, and what a file of weights says."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnest_cli import output
from resnest_cli.commands.flags import Command, Group, command
from resnest_cli.inference import onnx_cache
from resnest_cli.model import weights
from resnest_cli.model.names import get_named, understand
from resnest_cli.model.variants import (
    BUNDLED_MODEL,
    RECOMMENDED,
    VARIANTS,
    Variant,
    get_variant,
    preprocessing_to_dict,
)
from resnest_cli.net import Access
from resnest_cli.options import DEFAULT_MODEL, Option, TableFormat
from resnest_cli.text import megabytes, some

if TYPE_CHECKING:
    from resnest_cli.model.checkpoint_header import CheckpointInfo

EXAMPLES = """
resnest models
resnest models --format json
resnest models verify
resnest models show runs/finetune/exp/weights/best.safetensors
"""

models = typer.Typer(
    cls=Group,
    add_completion=False,
    invoke_without_command=True,
    rich_markup_mode=None,
    help="List the variants; verify, clean or look into files of weights.",
)

subcommand = partial(command, common=False)


@models.callback()
@subcommand
def list_models(*, context: typer.Context, format_: TableFormat = "table") -> None:
    """List the variants and which of them are on this machine."""
    if context.invoked_subcommand is not None:
        return
    records = [_variant(variant) for variant in VARIANTS.values()]
    if format_ == "json":
        output.show_json(records)
        return
    titles = ("Model", "Alias", "Params", "GMACs", "Size", "Top-1", "On disk")
    output.show_table(titles, map(_row, records), "llr")
    picks = ", ".join(f"{why}: {model}" for model, why in RECOMMENDED.items())
    small, usual = get_variant(BUNDLED_MODEL), VARIANTS[DEFAULT_MODEL]
    output.emit(
        f"{picks} (default: {DEFAULT_MODEL}).\n"
        "On disk: size of cached weights; * compiled as well.\n"
        f"{small.id} ({BUNDLED_MODEL}) comes with the program; its top-1 is of "
        f"{small.dataset},\nthe others' of {usual.dataset}'s validation photos.\n"
    )


def _variant(variant: Variant) -> dict[str, Any]:
    cached = weights.find_cached(variant)
    return {
        "id": variant.id,
        "aliases": list(variant.aliases),
        "parameters": variant.parameters,
        "gmacs": variant.gmacs,
        "size": variant.preprocessing.size,
        "top1": variant.top1,
        "top5": variant.top5,
        "classes": variant.num_classes,
        "dataset": variant.dataset,
        "bundled": variant.bundled,
        "recommended": RECOMMENDED.get(variant.id),
        "cached": cached is not None,
        "path": str(cached) if cached else None,
        "bytes": cached.stat().st_size if cached else None,
        "compiled": _compiled(variant, cached) if cached else [],
        "preprocessing": preprocessing_to_dict(variant.preprocessing),
        "urls": list(variant.weights.urls) if variant.weights else [],
        "hub": variant.hub.id if variant.hub else None,
    }


def _compiled(variant: Variant, path: Path) -> list[dict[str, Any]]:
    """What this version of the program has compiled of the cached weights, for whatever CPU."""
    return [
        {"path": str(file.path), "bytes": file.bytes}
        | {key: file.origin.get(key) for key in ("outputs", "cpu", "onnxruntime")}
        for file in onnx_cache.compiled_from(path, variant.architecture)
    ]


def _row(record: dict[str, Any]) -> list[str]:
    size = megabytes(record["bytes"]) if record["cached"] else "-"
    return [
        record["id"],
        " ".join(record["aliases"]),
        f"{record['parameters'] / 1e6:.1f}M",
        f"{record['gmacs']:.2f}",
        str(record["size"]),
        f"{record['top1']:.2f}" if record["top1"] else "-",
        size + ("*" if record["compiled"] else ""),
    ]


@models.command(cls=Command, epilog="resnest models verify\nresnest models verify resnest50d")
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


@models.command(cls=Command, epilog="resnest models clean --dry-run\nresnest models clean")
@subcommand
def clean(*, dry_run: Annotated[bool, Option("Only say what would be removed.")] = False) -> None:
    """Remove downloaded weights, compiled models and what interrupted downloads left.

    Only published ResNeSt files and our own leftovers: nothing else in torch.hub's folder, and
    nothing of timm's.
    """
    removers = dict.fromkeys(weights.cached_files(), weights.remove)
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
    cls=Command,
    epilog="resnest models show best.safetensors\n"
    "resnest models show timm/resnest50d.in1k --format json",
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
    record = _file(model, access)
    if format_ == "json":
        output.show_json(record)
        return
    rows = [[key, _text(value)] for key, value in record.items() if value not in (None, {}, [])]
    output.show_table(("", model), rows, "l")


def _file(name: str, access: Access) -> dict[str, Any]:
    from resnest_cli.model.checkpoint import read_state_dict
    from resnest_cli.model.checkpoint_header import read_info
    from resnest_cli.model.config_json import configured
    from resnest_cli.model.loading import find_model, locate

    meaning = understand(name)
    variant = meaning.variant
    if variant is not None and weights.find_cached(variant) is None:
        return {"variant": variant.id, "file": None} | _of_table(variant)
    path, config = locate(name, meaning, access)[:2]
    info = read_info(path)
    if info.format == "pickle":  # only its content says
        info, _ = read_state_dict(path)
    if config is None and variant is None:
        return _content(path, info)
    found = find_model(name, access=access)
    info = replace(info, variant=found.variant)
    record = _content(path, configured(info, config, path) if config else info)
    table = _of_table(variant or VARIANTS[found.variant.id])["preprocessing"]
    return record | {
        "config": str(found.config) if found.config else None,
        "preprocessing_of_table": None if table == record["preprocessing"] else table,
    }


def _kept(path: Path, info: "CheckpointInfo") -> dict[str, Any] | None:
    """What the file keeps for --unknown, if anything: photos, and the least share."""
    if info.unknown is None or info.variant is None:
        return None
    from resnest_cli.inference.unknown import Unknown

    kept = Unknown.read(path, info.unknown, info.variant.num_features)
    return {"photos": kept.photos, "validated": kept.validated, "least_share": kept.least}


def _of_table(variant: Variant) -> dict[str, Any]:
    return {
        "architecture": variant.architecture,
        "parameters": variant.parameters,
        "num_classes": variant.num_classes,
        "preprocessing": asdict(variant.preprocessing),
        "hub": variant.hub.id if variant.hub else None,
    }


def _content(file: Path, info: "CheckpointInfo") -> dict[str, Any]:
    from resnest_cli.model.checkpoint_header import SIGMOID

    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "format": info.format,
        "format_version": info.format_version,
        "variant": info.variant.id if info.variant else None,
        "architecture": info.variant.architecture if info.variant else None,
        "parameters": info.parameters,
        "tensors": info.tensors,
        "num_classes": info.num_classes,
        "in_channels": info.in_channels,
        "class_names": list(info.class_names) if info.class_names else None,
        "preprocessing": asdict(info.preprocessing) if info.preprocessing else None,
        "activation": SIGMOID if info.thresholds else None,
        "thresholds": list(info.thresholds) if info.thresholds else None,
        "trained_on": {"photos": info.trained_on.photos} if info.trained_on else None,
        "unknown": _kept(file, info),
        "metrics": dict(info.metrics),
        "provenance": dict(info.provenance),
        "versions": dict(info.versions),
        "notes": list(info.notes),
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return some(map(str, value), 12, total=True)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
