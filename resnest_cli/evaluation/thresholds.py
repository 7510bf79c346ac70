"""From which probability on a photo has a label: a threshold for each class, fitted on photos.

Where a photo may have several labels the largest probability decides nothing: each class is
selected whose probability is at least its threshold. One threshold for all serves rare classes
badly, whose probabilities stay low; so each has its own, which gives it the largest F1 among all
thresholds (of equal ones the highest), or the most photos at a wanted precision.

A threshold lies in the middle between the least probability that it selects and the next lower one.
Of a class that no photo has, or that reaches the wanted precision with no threshold, nothing is
known: `UNKNOWN`, and `NEVER`.
"""

import numpy as np
from numpy.typing import NDArray

from resnest_cli.evaluation.label_scores import curve

UNKNOWN = 0.5
NEVER = 1.0


def fitted(
    truth: NDArray[np.bool_],
    probabilities: NDArray[np.floating],
    min_precision: float | None = None,
) -> tuple[float, ...]:
    """A threshold in [0, 1] for each class: bool (N, classes) and float (N, classes)."""
    return tuple(
        _threshold(truth[:, k], probabilities[:, k].astype(np.float64), min_precision)
        for k in range(truth.shape[1])
    )


def _threshold(
    truth: NDArray[np.bool_], scores: NDArray[np.float64], min_precision: float | None
) -> float:
    positives = int(truth.sum())
    if not positives:
        return UNKNOWN
    different, taken, found = curve(truth, scores)
    if min_precision is None:
        best = int((2 * found / (taken + positives)).argmax())  # the first, so the highest
    else:
        reached = np.flatnonzero((found >= min_precision * taken) & (found > 0))
        if not len(reached):
            return NEVER
        best = int(reached[found[reached].argmax()])
    least = float(different[best])
    below = float(different[best + 1]) if best + 1 < len(different) else 0.0
    middle = (least + below) / 2
    return middle if middle > below else least
