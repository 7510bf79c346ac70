"""What K folds come to: of every figure the mean over the folds, and an interval.

The interval says where the figure of a network may lie that is trained in the same way on as many
photos drawn anew, at 95 %: the mean, plus and minus

    t * s * sqrt(1 / K + held out / trained on)

with the standard deviation s of the folds' figures and the quantile t of Student's distribution
with K - 1 degrees of freedom. That is the corrected resampled t-test of Nadeau and Bengio
("Inference for the Generalization Error", Machine Learning 52, 2003): the folds share most of their
training photos, so that s / sqrt(K) alone would promise too much. It was derived for random splits;
of folds no estimate of the variance is without bias ("No Unbiased Estimator of the Variance of
K-Fold Cross-Validation", Bengio and Grandvalet, JMLR 5, 2004). The deviation of a few folds may be
small by chance, so that of a share of photos (top-1, top-5, all labels right) the interval is never
narrower than Wilson's of all answers together, which counts the luck of who was asked alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from resnest_cli.evaluation.evaluate import Gathered
from resnest_cli.evaluation.figures import evaluated
from resnest_cli.evaluation.scores import share
from resnest_cli.output.results import FIGURES
from resnest_cli.text import Cell, percent

# Quantiles at 97.5 % of Student's distribution with 1, 2, ... degrees of freedom.
_STUDENT = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788,
    2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930,
)  # fmt: skip
_NO_SHARE = frozenset({"loss"})  # figures that are no share of a whole
_NO_MEAN = "ece"
_OF_PHOTOS = frozenset({"top1", "top5", "exact_match"})  # shares of the photos

Figures = Mapping[str, float]


class Spread(NamedTuple):
    """The mean of the folds' figures, and its interval at 95 %."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class FoldScores:
    """Figures of K folds, by name, in their order; how many photos were judged in each.

    Shares lie in [0, 1], losses are in nats. A figure that is not known of some fold is left out.
    """

    photos: tuple[int, ...]
    folds: tuple[Figures, ...]
    trained_on: float  # photos, the mean over folds

    @property
    def names(self) -> list[str]:
        """The figures that all folds have."""
        return [name for name in self.folds[0] if all(name in fold for fold in self.folds)]

    def spread(self, name: str) -> Spread:
        """Mean and interval of a figure; a share's interval ends at 0 and 1."""
        values = [fold[name] for fold in self.folds]
        mean, count = fmean(values), len(values)
        ratio = fmean(self.photos) / self.trained_on
        half = _STUDENT[count - 2] * stdev(values) * math.sqrt(1 / count + ratio)
        low, high = mean - half, mean + half
        if name in _OF_PHOTOS:
            hits = sum(value * photos for value, photos in zip(values, self.photos, strict=True))
            wilson = share(round(hits), sum(self.photos))
            low, high = min(low, wilson.low), max(high, wilson.high)
        most = math.inf if name in _NO_SHARE else 1.0
        return Spread(mean, max(0.0, low), min(most, high))

    def shown(self) -> list[tuple[str, str, str, str]]:
        """A table of texts: figure, mean, interval, the least and the largest of the folds."""
        rows = [("", "Mean", "95% interval", "Folds")]
        for name in self.names:
            values = [fold[name] for fold in self.folds]
            every = (*self.spread(name), min(values), max(values))
            mean, low, high, least, most = (_text(name, value) for value in every)
            rows.append((FIGURES[name], mean, f"{low} to {high}", f"{least} to {most}"))
        return rows

    def shown_by_fold(self) -> list[list[str]]:
        """A table of texts with a row for each fold."""
        rows = [["Fold", "Photos", *map(FIGURES.__getitem__, self.names)]]
        for number, (photos, fold) in enumerate(zip(self.photos, self.folds, strict=True), start=1):
            figures = (_text(name, fold[name]) for name in self.names)
            rows.append([str(number), f"{photos:,}", *figures])
        return rows

    def rows(self) -> list[Sequence[Cell]]:
        """A table: a line for each fold, and the mean and the interval's ends."""
        table: list[Sequence[Cell]] = [["fold", "photos", *self.names]]
        for number, (photos, fold) in enumerate(zip(self.photos, self.folds, strict=True), start=1):
            table.append([number, photos, *(fold[name] for name in self.names)])
        spreads = [self.spread(name) for name in self.names]
        for place, title in enumerate(Spread._fields):
            table.append([title, sum(self.photos), *(spread[place] for spread in spreads)])
        return table


def _text(name: str, value: float) -> str:
    return f"{value:.4f}" if name in _NO_SHARE else percent(value)


def figures_of(fold: Gathered) -> tuple[int, Figures]:
    """Of the photos that one fold held out, at least one of which can be read: how many were
    judged, and their figures.

    Without a calibration error: with few photos in a bin it is too large, the more so the fewer.
    """
    found = evaluated(fold)
    return len(found.good), {
        name: value
        for name, value in found.overall().items()
        if isinstance(value, float) and name != _NO_MEAN
    }
