"""What an exported file says about itself: the keys of `model.checkpoint_header`, all filled in."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from resnest_cli import __version__
from resnest_cli.model import hashes
from resnest_cli.model.checkpoint_header import CheckpointInfo, metadata_of, read_info
from resnest_cli.model.loading import Model
from resnest_cli.model.variants import VARIANTS


def is_published(model: Model) -> bool:
    """Whether the weights are the published ones, or the bundled ones, told by their hash."""
    table = VARIANTS.get(model.name)
    if table is None or table.weights is None:
        return False
    return hashes.known_sha256(model.path).startswith(table.weights.hash_prefix)


def described(model: Model, versions: Mapping[str, str]) -> CheckpointInfo:
    """All that is known of a model, with the names and ids of its classes written out.

    `versions` are those of the libraries that write the file. What the model's own file says of
    its metrics, its training photos and its origin is kept; published weights get their published accuracy.

    Raises:
        CheckpointError: the model's file cannot be read.
    """
    known = read_info(model.path)
    metrics, provenance = dict(known.metrics), dict(known.provenance)
    if is_published(model) and not metrics:
        table = model.variant
        metrics = {"top1": (table.top1 or 0) / 100}
        metrics |= {"top5": table.top5 / 100} if table.top5 else {}
        provenance |= {"data": table.dataset, "published": True}
    if model.class_ids:
        provenance["class_ids"] = list(model.class_ids)
    provenance["weights_sha256"] = hashes.known_sha256(model.path)
    return CheckpointInfo(
        variant=replace(model.variant, preprocessing=model.preprocessing),
        class_names=model.class_names,
        preprocessing=model.preprocessing,
        metrics=metrics,
        provenance=provenance,
        versions={"resnest-cli": __version__, **versions},
        temperature=model.temperature,
        trained_on=known.trained_on,
        num_classes=model.num_classes,
        in_channels=model.in_channels,
    )


def noted(info: CheckpointInfo, **facts: Any) -> CheckpointInfo:
    """The same with more facts about the export itself, under `provenance.export`."""
    before = info.provenance.get("export", {})
    return replace(info, provenance={**info.provenance, "export": {**before, **facts}})


def exported_metadata(info: CheckpointInfo) -> dict[str, str]:
    """The texts that an .onnx or .pt2 file carries; `read_info` reads those of an .onnx.

    Raises:
        CheckpointError: something is not JSON-ready.
    """
    metadata = metadata_of(info)
    del metadata["format"]  # tells which tensors a checkpoint holds
    return metadata | {"num_classes": str(info.num_classes), "in_channels": str(info.in_channels)}
