"""`--class-weights`: what each class weighs in the loss."""

import csv
import hashlib
from pathlib import Path

import torch
from torch import Tensor

from resnest_cli.data.dataset import DataSet
from resnest_cli.data.table_file import decoded
from resnest_cli.errors import UsageError
from resnest_cli.files import reading
from resnest_cli.model.labels import canonical
from resnest_cli.text import some


def class_weights(what: str, dataset: DataSet) -> Tensor | None:
    """Weights by the value of the flag: float32 (classes,); None for "none".

    "balanced" is scikit-learn's: photos / (classes * photos of the class), whose mean over the
    photos is 1. Where a photo may have several labels, it is how many photos lack a label for each
    that has it. Anything else names a file with a line `id,weight` for each class.
    """
    if what == "none":
        return None
    if what == "balanced" and dataset.multi_label:
        photos = dataset.train_photos
        shares = [(photos - count) / max(1, count) for count in dataset.train_counts]
        return torch.tensor(shares, dtype=torch.float32)
    if what == "balanced":
        number, photos = len(dataset.class_ids), sum(dataset.train_counts)
        shares = [photos / (number * max(1, count)) for count in dataset.train_counts]
        return torch.tensor(shares, dtype=torch.float32)
    found = _read_class_weights(Path(what))
    ids = [canonical(id_) for id_ in dataset.class_ids]
    if missing := [id_ for id_ in ids if id_ not in found]:
        raise UsageError(
            f"--class-weights {what}: has no weight for {some(map(repr, missing), 1)}. Add a line "
            "id,weight."
        )
    if unknown := sorted(set(found) - set(ids)):
        raise UsageError(f"--class-weights {what}: {unknown[0]!r} is no class of these data.")
    return torch.tensor([found[id_] for id_ in ids], dtype=torch.float32)


def with_mean_1(weights: Tensor | None, dataset: DataSet) -> Tensor | None:
    """The same proportions with a mean of 1 over the labelled training photos; see `step.Loss`."""
    counts = torch.tensor(dataset.train_counts, dtype=torch.float32)
    if weights is None or not counts.sum():
        return weights
    return weights * (counts.sum() / (weights * counts).sum())


def _read_class_weights(path: Path) -> dict[str, float]:
    then = "Give none, balanced, or a file of lines id,weight; to --resume, the same one."
    with reading(f"--class-weights {path}", UsageError, then=then):
        data = path.read_bytes()
    text = decoded(data, f"--class-weights {path}").text  # a wrong guess names no class
    found = {}
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        if not any(cell.strip() for cell in row):
            continue
        try:
            id_, weight = row[0].strip(), float(row[1])
        except (IndexError, ValueError):
            weight = -1.0
        if not 0 < weight < float("inf"):
            raise UsageError(
                f"--class-weights {path}: line {number} is no id,weight with a weight above 0."
            )
        found[canonical(id_)] = weight
    return found


def weights_digest(weights: Tensor | None) -> str:
    """A hash that tells class weights from others; "" of none."""
    return "" if weights is None else hashlib.sha256(weights.numpy().tobytes()).hexdigest()
