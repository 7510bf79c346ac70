"""The model card of a hub folder: front matter for the hub, then what a reader needs.

Source: the hub's description of model cards. Only what the checkpoint knows is said.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.output.messages import printable_name

_TOLD = {
    "top1": "top-1", "top5": "top-5", "recall": "mean recall", "mean_recall": "mean recall",
    "ece": "calibration error",
}  # fmt: skip
_FEW = 20  # classes that are named
_NOT_STATED = "Not stated. Whoever publishes these weights must say."
# ASCII's punctuation but for what is harmless within a line; an underscore is within a word.
_MARKUP = re.compile(r"[!\"#$%&*+/:;<=>?@\[\\\]^`{|}~]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")


def model_card(
    info: CheckpointInfo, name: str, config: Mapping[str, Any], license_: str | None
) -> str:
    """README.md of a folder called `name`, with the `config.json` that lies beside it."""
    assert info.variant
    assert info.preprocessing
    fed = info.preprocessing
    names = [escaped(name) for name in info.class_names or ()]
    shown = ", ".join(names[:_FEW]) + (f", ... ({len(names)} in all)" if len(names) > _FEW else "")
    parts = [
        _front_matter(license_),
        f"# {escaped(name)}",
        f"ResNeSt ({escaped(info.variant.id)}), a network with split attention "
        "([arXiv 2004.08955](https://arxiv.org/abs/2004.08955)), for "
        f"{len(names):,} classes: {shown}.",
        f"Input: RGB photos, {fed.size} x {fed.size} pixels, {fed.interpolation}, crop "
        f"{fed.crop_pct:g}, mean {_numbers(fed.mean)}, std {_numbers(fed.std)}.",
        *_metrics(info),
        "## Use",
        *_with_timm(info, config),
        "With resnest-cli, from this folder:",
        "```\nresnest predict photo.jpg --model model.safetensors\n```",
        "## Licence",
        f"These weights: {escaped(license_)}." if license_ else _NOT_STATED,
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown, and the HTML in it, show as it is, on one line: names are no markup."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable_name(text))


def _front_matter(license_: str | None) -> str:
    lines = ["---", "library_name: timm", "pipeline_tag: image-classification", "tags:"]
    lines += [f"- {tag}" for tag in ("image-classification", "timm", "resnest")]
    # JSON's text is YAML's, too.
    lines += [f"license: {json.dumps(license_)}"] if license_ else []
    return "\n".join([*lines, "---"])


def _metrics(info: CheckpointInfo) -> list[str]:
    """What the checkpoint says it was measured at, on what data."""
    found = {
        title: value
        for key, title in _TOLD.items()
        if isinstance(value := info.metrics.get(key), int | float)
    }
    if not found:
        return ["No accuracy is known: the checkpoint carries none."]
    origin = info.provenance
    data = origin.get("data_source") or origin.get("data")
    photos = info.metrics.get("photos")
    on = f"on {photos:,} validation photos" if isinstance(photos, int) else "on validation photos"
    on += f" of {escaped(str(data))}" if data else ""
    on += ", as published; not measured again" if origin.get("published") else ""
    rows = [f"| {title} | {value:.2%} |" for title, value in found.items()]
    return ["## Metrics", f"Measured {on}.", "\n".join(["| | |", "|---|---|", *rows])]


def _with_timm(info: CheckpointInfo, config: Mapping[str, Any]) -> list[str]:
    from resnest_cli.exporting.hub_folder import TIMM_NAMES

    if config["architecture"] not in TIMM_NAMES:
        return ["timm cannot build this network."]
    scale = f" / {info.temperature:g}" if info.temperature != 1 else ""
    warm = " The logits are divided by the temperature that was fitted." if scale else ""
    named = 'model.pretrained_cfg["label_descriptions"][label]'
    described = named if "label_descriptions" in config else "label"
    code = [
        "import timm",
        "import torch",
        "from PIL import Image",
        "",
        'model = timm.create_model("local-dir:.", pretrained=True).eval()  # or "hf-hub:USER/NAME"',
        "config = timm.data.resolve_model_data_config(model)",
        "transform = timm.data.create_transform(**config, is_training=False)",
        'photo = transform(Image.open("photo.jpg").convert("RGB"))',
        "with torch.inference_mode():",
        f"    probabilities = (model(photo[None]){scale}).softmax(-1)[0]",
        "index = int(probabilities.argmax())",
        'label = model.pretrained_cfg["label_names"][index]',
        f"print({described}, float(probabilities[index]))",
    ]
    return [f"With timm, from this folder:{warm}", "```python\n" + "\n".join(code) + "\n```"]


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
