"""How much figures of several labels would differ with other photos: the bootstrap (Efron, 1979).

As many photos as there are, drawn with replacement, give other figures. A drawn photo comes with
all of its labels and answers. Draws come from a fixed seed, so that the same answers give the same
interval, and two models on the same photos get the same draws: their difference is one of pairs.

Of few photos an average precision is too good, and that of a draw, which has copies, even better.
As far as draws lie above the figure on the average, it lies itself above that of endless photos
(Efron and Tibshirani, 1993, chapter 10). So the interval, percentiles 2.5 and 97.5 of the draws, is
moved by twice that bias. Simulated for 140 photos, 20 classes and a mAP of 29 %, it then holds the
true value in 79 of 100 cases, without it in 19; for 85 % in 94, and in 93.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnest_cli.evaluation.label_scores import Bool, Float

MOST, FEWEST = 1000, 200  # draws
_WORK = 10**9  # draws of a photo's answer to a class: beyond, there are fewer draws
_CELLS = 1 << 18  # of a table of weights at once: 2 MB, which a cache holds


class Interval(NamedTuple):
    """Both ends, of 95 %."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """Figures of B draws, float64 (B,); NaN where a draw does not decide them.

    `average_precision` (B, K) is NaN where no photo of the draw has the label.
    """

    average_precision: Float
    mean_average_precision: Float
    micro_precision: Float
    micro_recall: Float
    micro_f1: Float
    macro_f1: Float


def draws(truth: Bool, probabilities: NDArray[np.floating], thresholds: Sequence[float]) -> Drawn:
    """Of bool (N, K), float (N, K) and a threshold for each class; N at least 1.

    Memory beyond the answers themselves does not grow with N and K.
    """
    photos, classes = truth.shape
    count = int(np.clip(_WORK // truth.size, FEWEST, MOST))
    random = np.random.default_rng(0)
    given = probabilities >= np.asarray(thresholds)
    hit = truth & given
    precision, sums = np.empty((count, classes)), np.empty((3, count, classes))
    step = max(1, _CELLS // photos)
    for at in range(0, count, step):
        part = slice(at, min(count, at + step))
        weights = np.stack(
            [
                np.bincount(random.integers(photos, size=photos), minlength=photos).astype(
                    np.float64
                )
                for _ in range(part.stop - at)
            ]
        )  # (b, N): how often a photo was drawn
        for place, counted in enumerate((hit, given, truth)):
            sums[place, part] = weights @ counted
        for k in range(classes):
            precision[part, k] = _average_precision(truth[:, k], probabilities[:, k], weights)
    hits, selected, support = sums  # (B, K) each
    f1 = np.where(support > 0, _share(2 * hits, selected + support), np.nan)
    return Drawn(
        average_precision=precision,
        mean_average_precision=_mean(precision),
        micro_precision=_share(hits.sum(axis=1), selected.sum(axis=1)),
        micro_recall=_share(hits.sum(axis=1), support.sum(axis=1)),
        micro_f1=_share(2 * hits.sum(axis=1), (selected + support).sum(axis=1)),
        macro_f1=_mean(f1),
    )


def interval(figure: float | None, values: Float, least: float = 0.0) -> Interval | None:
    """That of a figure in [`least`, 1] with its draws (B,); None where nothing decides it."""
    known = values[~np.isnan(values)]
    if figure is None or not len(known):
        return None
    bias = known.mean() - figure
    low, high = np.clip(np.percentile(known, (2.5, 97.5)) - 2 * bias, least, 1.0)
    return Interval(float(low), float(high))


def _average_precision(truth: Bool, scores: NDArray[np.floating], weights: Float) -> Float:
    """As `label_scores.average_precision`, where photos count as often as they were drawn: (b,)."""
    order = np.argsort(-scores, kind="stable")
    ordered, places = scores[order], np.flatnonzero(truth[order])
    if not len(places):
        return np.full(len(weights), np.nan)
    ends = np.searchsorted(-ordered, -ordered[places], side="right") - 1  # the last of equal ones
    selected = np.cumsum(weights[:, order], axis=1)[:, ends]  # (b, photos with the label)
    own = weights[:, order[places]]
    last = np.searchsorted(places, ends, side="right") - 1
    hits = np.cumsum(own, axis=1)[:, last]
    return _share((own * _share(hits, selected)).sum(axis=1), own.sum(axis=1), nothing=np.nan)


def _share(part: Float, whole: Float, nothing: float = 0.0) -> Float:
    found: Float = np.divide(part, whole, out=np.full(np.shape(whole), nothing), where=whole > 0)
    return found


def _mean(values: Float) -> Float:
    """Over the classes that a draw decides: (B, K) -> (B,)."""
    known = ~np.isnan(values)
    return _share(np.where(known, values, 0).sum(axis=1), known.sum(axis=1), nothing=np.nan)
