"""Whether probabilities mean what they say, and the temperature that mends it.

"On Calibration of Modern Neural Networks" (Guo et al., arXiv 1706.04599): expected calibration
error over 15 bins of equal width (section 2), and temperature scaling (section 4.2). Where a photo
may have several labels, each of its classes is an answer: the probability that it has the label.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnest_cli.evaluation.scores import Float
from resnest_cli.inference.ranking import sigmoid, softmax
from resnest_cli.model.checkpoint_header import MAX_TEMPERATURE, MIN_TEMPERATURE

BINS = 15
_BATCH = 4096  # rows of logits in float64 at once
_STEPS, _ENOUGH = 60, 1e-10


@dataclass(frozen=True, slots=True)
class Bin:
    """Photos with a confidence in (low, high]: how many, its mean, and which share is right.

    With several labels `photos` counts answers, one for each photo and class.
    """

    low: float
    high: float
    photos: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """`ece` in [0, 1]: the mean distance of confidence and accuracy, weighted by photos."""

    ece: float
    bins: tuple[Bin, ...]  # those that have photos


def calibration(confidence: Float, right: NDArray[np.bool_]) -> Calibration:
    """Of N photos: `confidence` float64 (N,) in [0, 1], and whether each answer is right."""
    places = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    bins = []
    for place in range(BINS):
        inside = places == place
        if count := int(inside.sum()):
            mean, accuracy = float(confidence[inside].mean()), float(right[inside].mean())
            bins.append(Bin(place / BINS, (place + 1) / BINS, count, mean, accuracy))
    total = sum(found.photos for found in bins)
    distance = sum(found.photos * abs(found.confidence - found.accuracy) for found in bins)
    return Calibration(distance / max(1, total), tuple(bins))


def fit_temperature(
    logits: NDArray[np.float32], truth: NDArray[np.int64] | NDArray[np.bool_]
) -> float:
    """The temperature with the least loss: logits (N, K) and true classes int64 (N,), N at least 1;
    or bool (N, K) where a photo may have several, each with a binary cross entropy.

    The loss is convex in 1 / temperature, so that Newton's method, kept inside an interval that
    bisection narrows, finds the least. It stays within the limits that a checkpoint may hold.
    """
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    beta = 1.0
    for _ in range(_STEPS):
        slope, curvature = _slope(logits, truth, beta)
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else low
        following = step if low < step < high else (low * high) ** 0.5
        if abs(following - beta) <= _ENOUGH * beta:
            break
        beta = following
    return float(1 / beta)


def _slope(
    logits: NDArray[np.float32], truth: NDArray[np.int64] | NDArray[np.bool_], beta: float
) -> tuple[float, float]:
    """First and second derivative of the mean loss of beta * logits by beta."""
    first = second = 0.0
    for at in range(0, len(logits), _BATCH):
        rows, labels = logits[at : at + _BATCH].astype(np.float64), truth[at : at + _BATCH]
        if labels.ndim == 2:
            probabilities = sigmoid(rows * beta)  # type: ignore[arg-type]
            first += float(((probabilities - labels) * rows).sum())
            second += float((probabilities * (1 - probabilities) * rows**2).sum())
            continue
        probabilities = softmax(rows * beta)  # type: ignore[arg-type]
        mean = (probabilities * rows).sum(axis=1)
        first += float((mean - rows[np.arange(len(rows)), labels]).sum())
        second += float(((probabilities * rows**2).sum(axis=1) - mean**2).sum())
    return first / len(logits), second / len(logits)
