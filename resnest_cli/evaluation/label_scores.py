"""How good answers are where a photo may have several labels: mAP, F1, per class; as scikit-learn.

    curve(truth, scores)               of one class, what each threshold selects
    average_precision(truth, scores)   of one class, scikit-learn's `average_precision_score`
    label_scores(...)                  all figures of a set of photos
    LabelMeter                         the same from the logits of batches, as training has them

Every class is a question of its own, answered with a probability, the sigmoid of its logit. Means
over classes (mAP, macro F1) are over those that a photo has, since nothing is known of the others;
micro figures are of all answers together. Plain numpy but for `LabelMeter`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnest_cli.evaluation.scores import sort_key

if TYPE_CHECKING:
    from torch import Tensor

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Float = NDArray[np.float64]
Int = NDArray[np.int64]

HALF = 0.5  # the threshold of F1 where no other is known


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Figures of one class, as scikit-learn defines them; None where nothing decides them.

    `support` is how many photos have the label, `selected` how many were given it.
    """

    support: int
    selected: int
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class LabelScores:
    """How good the answers are; fractions in [0, 1], `loss` the mean over photos and classes of the
    binary cross entropy, in nats. F1, precision and recall are at the thresholds.
    """

    photos: int
    loss: float
    mean_average_precision: float
    micro_precision: float
    micro_recall: float
    micro_f1: float
    macro_f1: float
    classes: tuple[LabelScore, ...]

    @property
    def sort_key(self) -> tuple[float, float]:
        """The best epoch has the highest: mAP, and of the same mAP the least loss."""
        return sort_key(self.mean_average_precision, self.loss)


class Curve(NamedTuple):
    """Of each different score, highest first, as a threshold: float (M,), how many photos it
    selects and how many of these have the label, int64 (M,).
    """

    scores: NDArray[np.floating]
    selected: Int
    hits: Int


def curve(truth: Bool, scores: NDArray[np.floating]) -> Curve:
    """Of one class: bool (N,) and float (N,), N at least 1."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # the last of equal ones
    return Curve(ordered[ends], ends + 1, hits[ends])


def average_precision(truth: Bool, scores: NDArray[np.floating]) -> float | None:
    """Area under the steps of precision over recall; None where no photo has the label.

    The sum of (R_n - R_{n-1}) P_n over the different scores, highest first (scikit-learn's
    `average_precision_score`): equal scores count together. bool (N,) and float (N,).
    """
    positives = int(truth.sum())
    if not positives:
        return None
    _, selected, hits = curve(truth, scores)
    return float(np.sum(np.diff(hits, prepend=0) / positives * (hits / selected)))


def binary_loss(logits: Float32, truth: Sequence[int], temperature: float) -> float:
    """Mean binary cross entropy of a photo's classes, in nats: logits (K,), indices of its labels.

    -log sigmoid(z) of a label that it has, -log sigmoid(-z) of others; z is divided by the
    temperature first.
    """
    scaled = logits.astype(np.float64) / temperature
    return float((np.logaddexp(0, scaled).sum() - scaled[list(truth)].sum()) / len(scaled))


def label_scores(
    truth: Bool, probabilities: NDArray[np.floating], loss: float, thresholds: Sequence[float] = ()
) -> LabelScores:
    """All figures: bool (N, classes), float (N, classes), and a threshold for each class.

    A photo has the labels whose probability is at least their threshold; `HALF` unless given.
    """
    limits = np.asarray(thresholds) if len(thresholds) else np.full(truth.shape[1], HALF)
    given = probabilities >= limits
    support, selected = truth.sum(axis=0), given.sum(axis=0)
    hits = (truth & given).sum(axis=0)
    classes = tuple(
        LabelScore(
            support=int(support[k]),
            selected=int(selected[k]),
            average_precision=average_precision(truth[:, k], probabilities[:, k]),
            precision=_share(hits[k], selected[k]),
            recall=_share(hits[k], support[k]),
            f1=_share(2 * hits[k], support[k] + selected[k]) if support[k] else None,
        )
        for k in range(truth.shape[1])
    )
    total = int(hits.sum()), int(selected.sum()), int(support.sum())
    return LabelScores(
        photos=len(truth),
        loss=loss,
        mean_average_precision=_mean([one.average_precision for one in classes]),
        micro_precision=_share(total[0], total[1]) or 0.0,
        micro_recall=_share(total[0], total[2]) or 0.0,
        micro_f1=_share(2 * total[0], total[1] + total[2]) or 0.0,
        macro_f1=_mean([one.f1 for one in classes]),
        classes=classes,
    )


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / max(1, len(known))


@dataclass(frozen=True, slots=True)
class LabelEvaluation:
    """A validation: its scores, and of each photo what is true and what was answered.

    `truth` bool (N, classes); `probabilities` float32 (N, classes), NaN of photos that were lost.
    """

    scores: LabelScores
    truth: Bool
    probabilities: Float32

    @property
    def there(self) -> Bool:
        """Which photos were there, bool (N,)."""
        return np.asarray(~np.isnan(self.probabilities).any(axis=1), np.bool_)


class LabelBatch(NamedTuple):
    """Answers to a batch as in `LabelEvaluation`, and the sum of its losses."""

    truth: Bool
    probabilities: Float32
    loss: float


class LabelMeter:
    """Collects the answers to batches; `batches` may be joined with those of other devices.

    It keeps five bytes for each photo and class, since an average precision needs all scores.
    """

    def __init__(self, num_classes: int) -> None:
        self._classes = num_classes
        self.batches: list[LabelBatch] = []

    def update(self, logits: "Tensor", labels: "Tensor", there: Bool | None = None) -> None:
        """Logits (B, classes) and labels float (B, classes) of 0 and 1, on any device.

        `there` says, in the batch's order, which photos these are where some were lost.
        """
        import torch.nn.functional as F

        there = np.ones(len(labels), np.bool_) if there is None else there
        truth = np.zeros((len(there), self._classes), np.bool_)
        probabilities = np.full((len(there), self._classes), np.nan, np.float32)
        loss = 0.0
        if there.any():
            logits, labels = logits.detach().cpu().double(), labels.detach().cpu().double()
            truth[there] = labels.numpy() > HALF
            probabilities[there] = logits.sigmoid().numpy()
            loss = float(F.binary_cross_entropy_with_logits(logits, labels, reduction="sum"))
        self.batches.append(LabelBatch(truth, probabilities, loss))

    def result(self) -> LabelEvaluation:
        """Everything so far."""
        empty = np.empty((0, self._classes))
        truth = np.concatenate([empty.astype(np.bool_), *(one.truth for one in self.batches)])
        probabilities = np.concatenate(
            [empty.astype(np.float32), *(one.probabilities for one in self.batches)]
        )
        there = ~np.isnan(probabilities).any(axis=1)
        loss = sum(one.loss for one in self.batches) / max(1, int(there.sum()) * self._classes)
        scores = label_scores(truth[there], probabilities[there], loss)
        return LabelEvaluation(scores, truth, probabilities)
