"""What `resnest models` prints: the variants, and what a file of weights says."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.inference import onnx_cache
from resnest_cli.model import weights
from resnest_cli.model.names import understand
from resnest_cli.model.variants import (
    BUNDLED_MODEL,
    RECOMMENDED,
    VARIANTS,
    Variant,
    get_variant,
    preprocessing_to_dict,
)
from resnest_cli.options import DEFAULT_MODEL
from resnest_cli.output.sink import emit
from resnest_cli.output.tables import show_table, to_json
from resnest_cli.text import megabytes, some

if TYPE_CHECKING:
    from resnest_cli.model.checkpoint_header import CheckpointInfo
    from resnest_cli.net import Access


def show_variants(*, as_json: bool) -> None:
    """All variants, and which of them are on this machine."""
    records = [_variant(variant) for variant in VARIANTS.values()]
    if as_json:
        emit(to_json(records, indent=2) + "\n")
        return
    titles = ("Model", "Alias", "Params", "GMACs", "Size", "Top-1", "On disk")
    show_table(titles, map(_row, records), "llr")
    picks = ", ".join(f"{why}: {model}" for model, why in RECOMMENDED.items())
    small, usual = get_variant(BUNDLED_MODEL), VARIANTS[DEFAULT_MODEL]
    emit(
        f"{picks} (default: {DEFAULT_MODEL}).\n"
        "On disk: size of cached weights; * compiled as well.\n"
        f"{small.id} ({BUNDLED_MODEL}) comes with the program, for {small.num_classes} classes;\n"
        f"its top-1 is on {small.dataset}, the others' on {usual.dataset} "
        f"({usual.num_classes} classes).\n"
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
        f"{record['top1']:.2f}",
        size + ("*" if record["compiled"] else ""),
    ]


def show_file(name: str, access: "Access", *, as_json: bool) -> None:
    """What the file of a model says, its config.json, and the table where it says otherwise.

    Raises:
        ResnestError: it cannot be had, or is damaged.
    """
    record = _file(name, access)
    if as_json:
        emit(to_json(record, indent=2) + "\n")
        return
    rows = [[key, _text(value)] for key, value in record.items() if value not in (None, {}, [])]
    show_table(("", name), rows, "l")


def _file(name: str, access: "Access") -> dict[str, Any]:
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


def _of_table(variant: Variant) -> dict[str, Any]:
    return {
        "architecture": variant.architecture,
        "parameters": variant.parameters,
        "num_classes": variant.num_classes,
        "preprocessing": asdict(variant.preprocessing),
        "hub": variant.hub.id if variant.hub else None,
    }


def _content(file: Path, info: "CheckpointInfo") -> dict[str, Any]:
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
        "trained_on": {"photos": info.trained_on.photos} if info.trained_on else None,
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
