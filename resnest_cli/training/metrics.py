"""How good logits are: loss, top-1, top-5, recall of each class, confusion matrix."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from resnest_cli.evaluation.scores import class_scores


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A validation: `loss` in nats; `top1`, `top5`, `recall` are fractions in [0, 1].

    `top5` is None with five classes or fewer, the recall of a class without photos too.
    `confusion[t, p]` counts photos of class t taken for p, int64 (K, K). `predicted` int64 (N,) and
    `confidence` float32 (N,) are each photo's first class and its probability.
    """

    photos: int
    loss: float
    top1: float
    top5: float | None
    recall: tuple[float | None, ...]
    confusion: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]

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
        self._predicted: list[Tensor] = []
        self._confidence: list[Tensor] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Logits (B, K) and labels int64 (B,), on any device."""
        logits, labels = logits.detach().cpu().double(), labels.cpu()  # MPS has no float64
        self._loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        # Of equal logits the lower index wins, as in `inference.ranking`.
        order = torch.sort(logits, dim=1, descending=True, stable=True).indices
        pairs = (labels.numpy(), order[:, 0].numpy())
        np.add.at(self._confusion, pairs, 1)
        self._predicted.append(order[:, 0].clone())
        self._confidence.append(logits.softmax(dim=1).amax(dim=1).float())
        self._right5 += int((order[:, :5] == labels[:, None]).sum())

    def result(self) -> Evaluation:
        """Everything so far; all zero without photos."""
        photos = int(self._confusion.sum())
        recall = tuple(one.recall for one in class_scores(self._confusion))
        return Evaluation(
            photos=photos,
            loss=self._loss / max(1, photos),
            top1=float(np.trace(self._confusion)) / max(1, photos),
            top5=self._right5 / max(1, photos) if self._classes > 5 else None,
            recall=recall,
            confusion=self._confusion.copy(),
            predicted=torch.cat([torch.empty(0, dtype=torch.int64), *self._predicted]).numpy(),
            confidence=torch.cat([torch.empty(0), *self._confidence]).numpy(),
        )


@dataclass(frozen=True, slots=True)
class BestAnswers:
    """What the best epoch said of the validation photos; the pictures are drawn from it.

    `confusion`, `predicted` and `confidence` as in `Evaluation`.
    """

    confusion: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]

    @classmethod
    def none(cls, num_classes: int) -> Self:
        """Before the first epoch has ended."""
        empty = np.zeros((num_classes, num_classes), np.int64)
        return cls(empty, np.empty(0, np.int64), np.empty(0, np.float32))

    @classmethod
    def of(cls, found: Evaluation) -> Self:
        """Those of an evaluation."""
        return cls(found.confusion, found.predicted, found.confidence)

    def tensors(self) -> dict[str, Tensor]:
        """For a state. Of the matrix the cells that are not zero: int64 (N, 3), true, predicted,
        count; there are at most as many as photos, however many classes there are.
        """
        places = np.argwhere(self.confusion)
        counts = self.confusion[places[:, :1], places[:, 1:]]
        return {
            "cells": torch.from_numpy(np.concatenate([places, counts], axis=1)),
            "predicted": torch.from_numpy(self.predicted),
            "confidence": torch.from_numpy(self.confidence),
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], num_classes: int) -> Self:
        """The inverse of `tensors`."""
        confusion = np.zeros((num_classes, num_classes), np.int64)
        cells = tensors["cells"].numpy()
        confusion[cells[:, 0], cells[:, 1]] = cells[:, 2]
        return cls(confusion, tensors["predicted"].numpy(), tensors["confidence"].numpy())
