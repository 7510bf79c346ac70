"""How good logits are: loss, top-1, top-5, recall of each class, confusion matrix."""

import math
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
    def score(self) -> tuple[float, float]:
        """What the best epoch has the most of: top-1, and of the same top-1 the least loss."""
        return self.top1, -math.inf if math.isnan(self.loss) else -self.loss

    @property
    def mean_recall(self) -> float:
        """The mean over the classes that have photos (balanced accuracy)."""
        known = [value for value in self.recall if value is not None]
        return sum(known) / len(known) if known else 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What was said of a batch: int64 (B,), int64 (B,), float32 (B,), and sums over its photos.

    `labels` has no entry for a photo that was lost; `predicted` has -1 and `confidence` 0 for it.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    loss: float
    right5: int


class Meter:
    """Collects the answers to batches; `batches` may be joined with those of other devices."""

    def __init__(self, num_classes: int) -> None:
        self._classes = num_classes
        self.batches: list[Answers] = []

    def update(
        self, logits: Tensor, labels: Tensor, there: NDArray[np.bool_] | None = None
    ) -> None:
        """Logits (B, K) and labels int64 (B,), on any device.

        `there` says, in the batch's order, which photos these are where some were lost.
        """
        there = np.ones(len(labels), np.bool_) if there is None else there
        predicted, confidence = np.full(len(there), -1), np.zeros(len(there), np.float32)
        logits, labels = logits.detach().cpu().double(), labels.cpu()  # MPS has no float64
        # Of equal logits the lower index wins, as in `inference.ranking`.
        order = torch.sort(logits, dim=1, descending=True, stable=True).indices
        predicted[there] = order[:, 0].numpy()
        confidence[there] = logits.softmax(dim=1).amax(dim=1).float().numpy()
        answers = Answers(
            labels=labels.numpy().copy(),  # without workers a batch's memory may be used again
            predicted=predicted,
            confidence=confidence,
            loss=float(F.cross_entropy(logits, labels, reduction="sum")),
            right5=int((order[:, :5] == labels[:, None]).sum()),
        )
        self.batches.append(answers)

    def result(self) -> Evaluation:
        """Everything so far; all zero without photos."""
        confusion = np.zeros((self._classes, self._classes), np.int64)
        for batch in self.batches:
            np.add.at(confusion, (batch.labels, batch.predicted[batch.predicted >= 0]), 1)
        photos = int(confusion.sum())
        recall = tuple(one.recall for one in class_scores(confusion))
        return Evaluation(
            photos=photos,
            loss=sum(batch.loss for batch in self.batches) / max(1, photos),
            top1=float(np.trace(confusion)) / max(1, photos),
            top5=sum(batch.right5 for batch in self.batches) / max(1, photos)
            if self._classes > 5
            else None,
            recall=recall,
            confusion=confusion,
            predicted=np.concatenate([np.empty(0, np.int64), *(b.predicted for b in self.batches)]),
            confidence=np.concatenate(
                [np.empty(0, np.float32), *(b.confidence for b in self.batches)]
            ),
        )


@dataclass(frozen=True, slots=True)
class BestAnswers:
    """What the best epoch said of the validation photos; the pictures are drawn from it.

    `predicted` is -1 for a photo that could not be read any more.

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
