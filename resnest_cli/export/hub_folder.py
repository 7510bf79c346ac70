"""A folder as Hugging Face's hub and timm read it: config.json, model.safetensors, README.md.

Source: `timm.models._hub.save_config_for_hf` (timm 1.0), whose keys config.json has. Every network
of ours is one of timm's `ResNet`: a variant that timm has no name for is given by the arguments of
one that it has. That a photo may have several labels is said with transformers' key, whose pipeline
then takes the sigmoid; our thresholds stand beside it (`model.config_json`). model.safetensors is a
checkpoint of ours as well; which photos trained it is left out. README.md is the model card: front
matter for the hub, then what a reader needs, and only what the checkpoint knows (source: the hub's
description of model cards).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from resnest_cli.errors import UsageError
from resnest_cli.export.export import check_source
from resnest_cli.export.formats import described, is_published
from resnest_cli.files import check_folder, writing
from resnest_cli.model.checkpoint_header import SIGMOID, CheckpointInfo
from resnest_cli.model.config_json import SEVERAL_LABELS
from resnest_cli.model.loading import Model
from resnest_cli.model.names import repository_id
from resnest_cli.model.variants import EXPANSION, VARIANTS, Variant
from resnest_cli.paths import huggingface_endpoint, huggingface_offline
from resnest_cli.progress import Notify
from resnest_cli.report.pages import write_texts
from resnest_cli.text import printable_name

TIMM_NAMES = tuple(id_ for id_, variant in VARIANTS.items() if variant.hub)
_STANDS_IN = "resnest14d"  # for what timm has no name for
APACHE = "apache-2.0"  # of the published weights and of the bundled ones

_METRICS = {
    "top1": "top-1", "top5": "top-5", "recall": "mean recall", "mean_recall": "mean recall",
    "ece": "calibration error", "map": "mean average precision (mAP)",
    "micro_f1": "micro F1 at 0.5", "macro_f1": "macro F1 at 0.5",
}  # fmt: skip
_FEW = 20  # classes that are named
# ASCII's punctuation but for what is harmless within a line; an underscore is within a word.
_MARKUP = re.compile(r"[!\"#$%&*+/:;<=>?@\[\\\]^`{|}~]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")


def push_target(
    name: str | None, *, hub: Path | None, private: bool, dry_run: bool, offline: bool
) -> str | None:
    """The repository of --push, USER/NAME; raises a UsageError before anything slow begins."""
    if name is None:
        if private or dry_run:
            raise UsageError(f"{'--private' if private else '--dry-run'} goes with --push.")
        return None
    if hub is None:
        raise UsageError("--push sends a folder: name it with --hub DIR.")
    repository = repository_id(name)
    if not dry_run and (offline or huggingface_offline()):
        forbids = "--offline (RESNEST_OFFLINE)" if offline else "HF_HUB_OFFLINE"
        raise UsageError(f"--push connects to the hub, which {forbids} forbids.")
    return repository


def write_folder(model: Model, folder: Path, license_: str | None = None) -> dict[str, Any]:
    """Writes the folder, each file whole or not at all; returns what `resnest export` says of it.

    Raises:
        UsageError: the model is an exported one.
        CheckpointError: the weights cannot be used.
        ResnestError: the folder cannot be written.
    """
    from resnest_cli.model import checkpoint

    check_source(model)
    check_folder(folder, "--hub")

    # To be published: whether a photo was trained on is nobody's business.
    info = replace(described(model, {}), trained_on=None)
    license_ = license_ or (APACHE if is_published(model) else None)
    config = timm_config(info)
    weights = folder / "model.safetensors"
    with writing(folder):
        folder.mkdir(exist_ok=True)
    checkpoint.save(weights, model.load().tensors, info)
    texts = {
        "config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        "README.md": model_card(info, folder.resolve().name, config, license_),
    }
    write_texts(folder, texts)
    return {
        "file": str(folder),
        "model": model.name,
        "variant": model.variant.id,
        "classes": model.num_classes,
        "activation": "softmax" if model.thresholds is None else SIGMOID,
        "precision": "float32",
        "bytes": weights.stat().st_size,
        "timm": config["architecture"] in TIMM_NAMES,
        "license": license_,
        "files": ["config.json", weights.name, "README.md"],
    }


def timm_config(info: CheckpointInfo) -> dict[str, Any]:
    """config.json for a network of `info`; `architecture` is our own name where timm cannot."""
    variant, fed = info.variant, info.preprocessing
    assert variant
    assert fed
    named = variant.id in TIMM_NAMES and variant.architecture == VARIANTS[variant.id].architecture
    args = {} if named else timm_arguments(variant)
    if info.in_channels != 3:
        args["in_chans"] = info.in_channels
    able = named or timm_fits(variant)
    names = info.class_names or ()
    ids = info.provenance.get("class_ids") if len(set(names)) < len(names) else None
    config = {
        "architecture": variant.id if named or not able else _STANDS_IN,
        "num_classes": info.num_classes,
        "num_features": variant.num_features,
        "global_pool": "avg",
        # What identifies a class: its name, which transformers shows; its id where two share one.
        "label_names": list(ids or names),
        "label_descriptions": dict(zip(ids, names, strict=True)) if ids else None,
        "problem_type": SEVERAL_LABELS if info.thresholds else None,
        "thresholds": list(info.thresholds or ()) or None,
        "logit_temperature": info.temperature
        if info.thresholds and info.temperature != 1
        else None,
        "model_args": args,
        "pretrained_cfg": {
            "tag": "resnest_cli",
            "custom_load": False,
            "input_size": [info.in_channels, fed.size, fed.size],
            "fixed_input_size": False,
            "interpolation": fed.interpolation,
            "crop_pct": fed.crop_pct,
            "crop_mode": "center",
            # A grey photo is fed as the first channel; timm takes one number for all of N.
            "mean": list(fed.mean if info.in_channels == 3 else fed.mean[:1]),
            "std": list(fed.std if info.in_channels == 3 else fed.std[:1]),
            "num_classes": info.num_classes,
            "first_conv": "conv1.0",
            "classifier": "fc",
        },
    }
    return {key: value for key, value in config.items() if value not in ({}, None)}


def timm_arguments(variant: Variant) -> dict[str, Any]:
    """The arguments of timm's `ResNet` for this architecture."""
    return {
        "layers": list(variant.blocks),
        "channels": list(variant.widths),
        "stem_width": variant.stem_width,
        "base_width": variant.base_width,
        "cardinality": variant.cardinality,
        "block_args": {"radix": variant.radix, "avd": True, "avd_first": variant.avd_first},
    }


def timm_fits(variant: Variant) -> bool:
    """Whether timm builds the same: it rounds the attention's inner channels to multiples of 8."""
    for width in variant.widths:
        channels = int(width * (variant.base_width / 64)) * variant.cardinality
        exact = channels * variant.radix / EXPANSION
        rounded = max(32, int(exact + 4) // 8 * 8)  # timm.layers.make_divisible
        rounded += 8 if rounded < 0.9 * exact else 0
        if rounded != max(channels * variant.radix // EXPANSION, 32):
            return False
    return True


def push_folder(
    folder: Path, summary: dict[str, Any], repository: str, *, private: bool, notify: Notify
) -> dict[str, Any]:
    """Sends what `write_folder` wrote to the hub; returns the summary with its address there.

    Raises:
        ResnestError: the hub refuses, or cannot be reached. The folder stays.
    """
    from resnest_cli.net import Access, hub

    there = hub.Hub(huggingface_endpoint(), Access(notify=notify))
    address = hub.push(
        there, folder, summary["files"], repository, private=private,
        message="Upload with resnest-cli",
    )  # fmt: skip
    return summary | {"repository": repository, "address": address}


def rehearse(
    model: Model, folder: Path, license_: str | None, repository: str, *, private: bool
) -> dict[str, Any]:
    """What `push_folder` would send: each file and its bytes. Nothing is left on the disk."""
    with TemporaryDirectory() as temporary:
        place = Path(temporary) / folder.resolve().name
        summary = write_folder(model, place, license_)
        sizes = {name: (place / name).stat().st_size for name in summary["files"]}
    asked = {"repository": repository, "private": private, "sizes": sizes}
    return summary | {"file": str(folder), "dry_run": True} | asked


# The model card


def model_card(
    info: CheckpointInfo, name: str, config: Mapping[str, Any], license_: str | None
) -> str:
    """README.md of a folder called `name`, with the `config.json` that lies beside it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("resnest_cli.export", ""), undefined=StrictUndefined,
        trim_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"escaped": escaped, "number": "{:g}".format}
    origin, photos = info.provenance, info.metrics.get("photos")
    return environment.get_template("model_card.md").render(
        name=name,
        info=info,
        names=info.class_names or (),
        thresholds=info.thresholds,
        few=_FEW,
        fed=info.preprocessing,
        mode="L" if info.in_channels == 1 else "RGB",
        metrics={
            title: value
            for key, title in _METRICS.items()
            if isinstance(value := info.metrics.get(key), int | float)
        },
        photos=photos if isinstance(photos, int) else None,
        data=str(origin.get("data_source") or origin.get("data") or ""),
        published=origin.get("published"),
        in_timm=config["architecture"] in TIMM_NAMES,
        described="label_descriptions" in config,
        warm=info.temperature != 1,
        logits="model(photo[None])"
        if info.temperature == 1
        else f"(model(photo[None]) / {info.temperature:g})",
        license=license_,
        license_as_json=json.dumps(license_),  # JSON's text is YAML's, too
    )


def escaped(text: str) -> str:
    """Text that Markdown, and the HTML in it, show as it is, on one line: names are no markup."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable_name(text))
