"""How good logits are: loss, top-1, top-5, recall of each class, confusion matrix."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A validation: `loss` in nats; `top1`, `top5`, `recall` are fractions in [0, 1].

    `top5` is None with five classes or fewer, the recall of a class without photos too.
    `confusion[t, p]` counts photos of class t taken for p, int64 (K, K).
    """

    photos: int
    loss: float
    top1: float
    top5: float | None
    recall: tuple[float | None, ...]
    confusion: NDArray[np.int64]

    @property
    def mean_recall(self) -> float:
        """The mean over the classes that have photos (balanced accuracy)."""
        known = [value for value in self.recall if value is not None]
        return sum(known) / len(known) if known else 0.0


class Meter:
    """Collects the logits of batches."""

    def __init__(self, num_classes: int) -> None:
        self._classes = num_classes
        self._confusion = np.zeros((num_classes, num_classes), np.int64)
        self._loss, self._right5 = 0.0, 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Logits (B, K) and labels int64 (B,), on any device."""
        logits, labels = logits.detach().cpu().double(), labels.cpu()  # MPS has no float64
        self._loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        # Of equal logits the lower index wins, as in `inference.ranking`.
        order = torch.sort(logits, dim=1, descending=True, stable=True).indices
        pairs = (labels.numpy(), order[:, 0].numpy())
        np.add.at(self._confusion, pairs, 1)
        self._right5 += int((order[:, :5] == labels[:, None]).sum())

    def result(self) -> Evaluation:
        """Everything so far; all zero without photos."""
        photos = int(self._confusion.sum())
        support, right = self._confusion.sum(axis=1), self._confusion.diagonal()
        recall = tuple(
            float(hits) / int(total) if total else None
            for hits, total in zip(right, support, strict=True)
        )
        return Evaluation(
            photos=photos,
            loss=self._loss / max(1, photos),
            top1=float(right.sum()) / max(1, photos),
            top5=self._right5 / max(1, photos) if self._classes > 5 else None,
            recall=recall,
            confusion=self._confusion.copy(),
        )


def cells_of(confusion: Tensor) -> Tensor:
    """The cells of a confusion matrix that are not zero: int64 (N, 3) of true, predicted, count.

    There are at most as many as photos, however many classes there are.
    """
    places = confusion.nonzero()
    return torch.cat([places, confusion[places[:, :1], places[:, 1:]]], dim=1)


def confusion_of(cells: Tensor, num_classes: int) -> Tensor:
    """The matrix int64 (K, K) of `cells_of`."""
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    confusion[cells[:, 0], cells[:, 1]] = cells[:, 2]
    return confusion
