"""`--class-weights`: what each class weighs in the loss, for data with rare classes."""

import csv
import hashlib
from pathlib import Path

import torch
from torch import Tensor

from resnest_cli.data.encoding import decoded
from resnest_cli.errors import UsageError
from resnest_cli.model.class_names import canonical
from resnest_cli.training.dataset import DataSet


def class_weights(what: str, dataset: DataSet) -> Tensor | None:
    """Float32 (classes,), or None for "none".

    "balanced" is scikit-learn's: photos / (classes * photos of the class), whose mean over the
    photos is 1. Anything else names a file with a line `id,weight` for each class.

    Raises:
        UsageError: the file cannot be read, or a class is missing or not above 0.
    """
    if what == "none":
        return None
    if what == "balanced":
        number, photos = len(dataset.class_ids), dataset.train_photos
        shares = [photos / (number * max(1, count)) for count in dataset.train_counts]
        return torch.tensor(shares, dtype=torch.float32)
    found = _read(Path(what))
    ids = [canonical(id_) for id_ in dataset.class_ids]
    missing = [id_ for id_ in ids if id_ not in found]
    if missing:
        raise UsageError(
            f"--class-weights {what}: has no weight for {missing[0]!r}"
            f"{f' and {len(missing) - 1} more' if missing[1:] else ''}. Add a line id,weight."
        )
    unknown = sorted(set(found) - set(ids))
    if unknown:
        raise UsageError(f"--class-weights {what}: {unknown[0]!r} is no class of these data.")
    return torch.tensor([found[id_] for id_ in ids], dtype=torch.float32)


def digest(weights: Tensor | None) -> str:
    """What tells them from others; "" of none."""
    return "" if weights is None else hashlib.sha256(weights.numpy().tobytes()).hexdigest()


def _read(path: Path) -> dict[str, float]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--class-weights {path}: cannot be read: {error.strerror or error}. Give none, "
            "balanced, or a file of lines id,weight; to --resume, the same one."
        ) from error
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
