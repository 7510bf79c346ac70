"""Answers -> accuracy with its uncertainty, loss, figures per class, confusion. Plain numpy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Float = NDArray[np.float64]

_Z = 1.959963984540054  # of 95 %


class Share(NamedTuple):
    """A fraction in [0, 1], and its 95 % interval after Wilson (1927)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What the model said of N photos.

    `truth` and `predicted` are class indices, int64 (N,); `place` is how many classes were ranked
    before the true one, int64 (N,); `confidence` the probability of the predicted class and `loss`
    the negative logarithm of the true one's, in nats, both float64 (N,).
    """

    truth: Int
    predicted: Int
    place: Int
    confidence: Float
    loss: Float

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each photo's first class is the true one."""
        right: NDArray[np.bool_] = self.predicted == self.truth
        return right


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Figures of one class, as scikit-learn defines them; None where nothing decides them.

    `support` is how many photos have the class, `predicted` how many were taken for it.
    """

    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Scores:
    """How good the answers are. `top5` is None with five classes or fewer; means are over the
    classes that have photos. `confusion[t, p]` counts photos of class t taken for p, int64 (K, K).
    """

    photos: int
    top1: Share
    top5: Share | None
    loss: float
    mean_recall: float
    mean_f1: float
    classes: tuple[ClassScore, ...]
    confusion: Int


def answer(logits: NDArray[np.float32], truth: int, temperature: float) -> tuple[int, float]:
    """Place of the true class among all, and its loss in nats, from logits (K,).

    Of equal logits the lower index comes first, as in `inference.ranking`.
    """
    scaled = logits.astype(np.float64) / temperature
    before = int((scaled > scaled[truth]).sum() + (scaled[:truth] == scaled[truth]).sum())
    most = scaled.max()
    return before, float(most + math.log(np.exp(scaled - most).sum()) - scaled[truth])


def scores(answers: Answers, num_classes: int) -> Scores:
    """All figures of at least one photo."""
    photos = len(answers.truth)
    assert photos
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (answers.truth, answers.predicted), 1)
    classes = class_scores(confusion)
    present = [found for found in classes if found.support]
    return Scores(
        photos=photos,
        top1=share(int(answers.right.sum()), photos),
        top5=share(int((answers.place < 5).sum()), photos) if num_classes > 5 else None,
        loss=float(answers.loss.mean()),
        mean_recall=_mean([found.recall for found in present]),
        mean_f1=_mean([found.f1 for found in present]),
        classes=classes,
        confusion=confusion,
    )


def share(hits: int, total: int) -> Share:
    """`hits` of `total` with its 95 % interval."""
    value = hits / total
    scale = 1 + _Z**2 / total
    middle = value + _Z**2 / (2 * total)
    spread = _Z * math.sqrt(value * (1 - value) / total + (_Z / (2 * total)) ** 2)
    return Share(value, max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale))


def class_scores(confusion: Int) -> tuple[ClassScore, ...]:
    """Figures of every class, from counts (K, K): rows are the true classes."""
    rows, columns = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    return tuple(
        ClassScore(
            support=support,
            predicted=predicted,
            precision=hits / predicted if predicted else None,
            recall=hits / support if support else None,
            f1=2 * hits / (support + predicted) if support else None,
        )
        for support, predicted, hits in zip(
            rows, columns, confusion.diagonal().tolist(), strict=True
        )
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


def confusions(found: Scores, most: int) -> list[tuple[int, int, int]]:
    """The commonest mistakes: true class, what it was taken for, how often."""
    wrong = found.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [divmod(int(place), wrong.shape[1]) for place in order]
    return [(t, p, int(wrong[t, p])) for t, p in cells if wrong[t, p]]


def worst(answers: Answers, most: int) -> list[int]:
    """The photos that the model was surest of while it was wrong, surest first."""
    wrong = np.flatnonzero(~answers.right)
    return [int(i) for i in wrong[np.argsort(-answers.confidence[wrong], kind="stable")][:most]]
