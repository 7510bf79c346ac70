"""How good answers are: accuracy with its uncertainty, loss, figures per class, confusion.

The one place for both: `scores` has the answers to single photos, as `evaluate` gathers them, and
`Meter` the logits of batches, as training does. Everything but `Meter` is plain numpy, which alone
is imported before a `Meter` is used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

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
    """What the model answered to N photos.

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

    @property
    def sort_key(self) -> tuple[float, float]:
        """See `sort_key`."""
        return sort_key(self.top1.value, self.loss)


def sort_key(top1: float, loss: float) -> tuple[float, float]:
    """The best epoch has the highest: top-1, and of the same top-1 the least loss."""
    return top1, -math.inf if math.isnan(loss) else -loss


def auroc(low: Float, high: Float) -> float:
    """Area under the ROC curve: the chance that one of `high` is above one of `low`.

    float64 (N,) and (M,), at least one each; equal numbers count half (Mann and Whitney, 1947).
    """
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(below.mean() / (2 * len(low)))


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
    assert len(answers.truth)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (answers.truth, answers.predicted), 1)
    return _scores(confusion, float(answers.loss.mean()), int((answers.place < 5).sum()))


def _scores(confusion: Int, loss: float, top5_hits: int) -> Scores:
    """All figures, from counts (K, K) and the mean loss; accuracies are 0 without photos."""
    photos = int(confusion.sum())
    classes = class_scores(confusion)
    present = [found for found in classes if found.support]
    return Scores(
        photos=photos,
        top1=share(int(np.trace(confusion)), max(1, photos)),
        top5=share(top5_hits, max(1, photos)) if len(confusion) > 5 else None,
        loss=loss,
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
    return sum(known) / max(1, len(known))


def confusions(confusion: Int, most: int) -> list[tuple[int, int, int]]:
    """The commonest mistakes among counts (K, K): true class, what it was taken for, how often."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [divmod(int(place), wrong.shape[1]) for place in order]
    return [(t, p, int(wrong[t, p])) for t, p in cells if wrong[t, p]]


def worst(answers: Answers, most: int) -> list[int]:
    """The photos that the model was surest of while it was wrong, surest first."""
    return surest_mistakes(answers.truth, answers.predicted, answers.confidence, most)


def surest_mistakes(
    truth: Int, predicted: Int, confidence: NDArray[np.floating], most: int
) -> list[int]:
    """The same of three columns (N,); `predicted` is -1 for photos that could not be read."""
    wrong = np.flatnonzero((predicted != truth) & (predicted >= 0))
    return [int(i) for i in wrong[np.argsort(-confidence[wrong], kind="stable")][:most]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A validation: its scores, and of each photo the first class and its probability.

    `predicted` int64 (N,) is -1 and `confidence` float32 (N,) is 0 for a photo that was lost.
    """

    scores: Scores
    predicted: Int
    confidence: NDArray[np.float32]


class BatchAnswers(NamedTuple):
    """Answers to a batch as in `Evaluation`, labels of the photos that were there, and sums."""

    labels: Int
    predicted: Int
    confidence: NDArray[np.float32]
    loss: float
    top5_hits: int


class Meter:
    """Collects the answers to batches; `batches` may be joined with those of other devices."""

    def __init__(self, num_classes: int) -> None:
        self._classes = num_classes
        self.batches: list[BatchAnswers] = []

    def update(
        self, logits: "Tensor", labels: "Tensor", there: NDArray[np.bool_] | None = None
    ) -> None:
        """Logits (B, K) and labels int64 (B,), on any device.

        `there` says, in the batch's order, which photos these are where some were lost.
        """
        import torch
        import torch.nn.functional as F

        there = np.ones(len(labels), np.bool_) if there is None else there
        predicted, confidence = np.full(len(there), -1), np.zeros(len(there), np.float32)
        logits, labels = logits.detach().cpu().double(), labels.cpu()  # MPS has no float64
        # Of equal logits the lower index wins, as in `inference.ranking`.
        order = torch.sort(logits, dim=1, descending=True, stable=True).indices
        predicted[there] = order[:, 0].numpy()
        confidence[there] = logits.softmax(dim=1).amax(dim=1).float().numpy()
        loss = float(F.cross_entropy(logits, labels, reduction="sum"))
        top5_hits = int((order[:, :5] == labels[:, None]).sum())
        known = labels.numpy().copy()  # without workers a batch's memory may be used again
        self.batches.append(BatchAnswers(known, predicted, confidence, loss, top5_hits))

    def result(self) -> Evaluation:
        """Everything so far."""
        confusion = np.zeros((self._classes, self._classes), np.int64)
        for batch in self.batches:
            np.add.at(confusion, (batch.labels, batch.predicted[batch.predicted >= 0]), 1)
        loss = sum(batch.loss for batch in self.batches) / max(1, int(confusion.sum()))
        predicted = [np.empty(0, np.int64), *(batch.predicted for batch in self.batches)]
        confidence = [np.empty(0, np.float32), *(batch.confidence for batch in self.batches)]
        return Evaluation(
            _scores(confusion, loss, sum(batch.top5_hits for batch in self.batches)),
            np.concatenate(predicted),
            np.concatenate(confidence),
        )
