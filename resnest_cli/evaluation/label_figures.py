"""What an evaluation comes to where a photo may have several labels: mean average precision, F1,
which labels are given in place of others, and the photos that are answered worst.

All at the model's thresholds; intervals are the bootstrap's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from resnest_cli.evaluation.bootstrap import Drawn, draws, interval
from resnest_cli.evaluation.calibration import Calibration, calibration
from resnest_cli.evaluation.evaluate import Answered, Gathered
from resnest_cli.evaluation.label_scores import (
    Bool,
    Float,
    Float32,
    LabelScores,
    curve,
    label_scores,
)
from resnest_cli.evaluation.scores import share
from resnest_cli.inference.ranking import sigmoid
from resnest_cli.report import plots
from resnest_cli.report.pr_curves import PrCurve, pr_curves


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """Figures of the `judged` ones among the photos that were `gathered`.

    `truth` bool (N, K), `logits` float32 (N, K) and `probabilities` float64 (N, K) are of the
    readable ones of them, `good`, in the same order.
    """

    corner: ClassVar[str] = "has, and not the other \\ given"  # of a table of `confusion`

    gathered: Gathered
    judged: tuple[Answered, ...]
    good: list[Answered]
    truth: Bool
    logits: Float32
    probabilities: Float
    scores: LabelScores
    calibration: Calibration
    drawn: Drawn

    @classmethod
    def of(cls, gathered: Gathered, judged: tuple[Answered, ...]) -> Self:
        """Of at least one readable photo."""
        good = [item for item in judged if item.record.error is None]
        truth, logits = answers_of(good)
        probabilities = sigmoid(logits, gathered.temperature)
        loss, limits = float(np.mean([item.loss for item in good])), gathered.thresholds or ()
        return cls(
            gathered,
            judged,
            good,
            truth,
            logits,
            probabilities,
            label_scores(truth, probabilities, loss, limits),
            calibration(probabilities.ravel(), truth.ravel()),
            draws(truth, probabilities, limits),
        )

    @property
    def given(self) -> Bool:
        """Which classes are selected, bool (N, K)."""
        return np.asarray(self.probabilities >= np.asarray(self.gathered.thresholds), np.bool_)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """int64 (K, K): how many photos have label b (rows), and not a, and were given a; on the
        diagonal, how many have it and were given it.
        """
        has, given = self.truth.astype(np.float64), self.given  # a product of integers is slow
        counts = has.T @ (given & ~self.truth) + np.diag((self.truth & given).sum(axis=0))
        return counts.astype(np.int64)

    def overall(self) -> dict[str, Any]:
        """The figures of all photos together, as JSON has them.

        `exact_match` is the share of photos that were given all of their labels and no other.
        """
        figures, drawn, known = self.scores, self.drawn, bool(self.truth.any())
        exact = share(sum(item.right for item in self.good), len(self.good))
        record: dict[str, Any] = {}
        for name, value, values in (
            ("map", figures.mean_average_precision, drawn.mean_average_precision),
            ("micro_f1", figures.micro_f1, drawn.micro_f1),
            ("macro_f1", figures.macro_f1, drawn.macro_f1),
            ("micro_precision", figures.micro_precision, drawn.micro_precision),
            ("micro_recall", figures.micro_recall, drawn.micro_recall),
        ):
            figure = value if known else None
            record |= {name: figure, f"{name}_interval": interval(figure, values)}
        record |= {"exact_match": exact.value, "exact_match_interval": [exact.low, exact.high]}
        return record | {"loss": figures.loss, "ece": self.calibration.ece}

    def classes(self) -> list[dict[str, Any]]:
        """The figures of each class, its threshold, and the interval of its average precision."""
        drawn, limits = self.drawn.average_precision.T, self.gathered.thresholds or ()
        return [
            asdict(one)
            | {"average_precision_interval": interval(one.average_precision, values)}
            | {"threshold": limit}
            for one, values, limit in zip(self.scores.classes, drawn, limits, strict=True)
        ]

    def worst(self, most: int) -> Iterator[tuple[Answered, dict[str, float]]]:
        """The photos with wrong labels and the largest loss, and that loss."""
        wrong = [item for item in self.good if not item.right]
        for item in sorted(wrong, key=lambda item: -item.loss)[:most]:
            yield item, {"loss": item.loss}

    def pictures(self) -> dict[str, tuple[str, Callable[[Path], None]]]:
        """By the names of their files: their titles, and what draws them."""
        return {
            "pr_curves.png": ("Precision over recall of each label", self._draw_curves),
            "reliability.png": ("Whether probabilities mean what they say", self._draw_reliability),
        }

    def _draw_curves(self, path: Path) -> None:
        names, total = self.gathered.class_names, max(1, int(self.truth.sum()))
        _, selected, hits = curve(self.truth.ravel(), self.probabilities.ravel())
        curves = [PrCurve("all together", hits / total, hits / selected)]
        for k, one in enumerate(self.scores.classes):
            if one.support:
                _, selected, hits = curve(self.truth[:, k], self.probabilities[:, k])
                at = None if one.precision is None else (one.recall or 0.0, one.precision)
                drawn = hits / one.support, hits / selected, one.average_precision, at
                curves.append(PrCurve(names[k], *drawn))
        pr_curves(path, curves)

    def _draw_reliability(self, path: Path) -> None:
        bins, temperature = (
            [asdict(one) for one in self.calibration.bins],
            self.gathered.temperature,
        )
        plots.reliability(path, bins, self.calibration.ece, temperature, several=True)

    def at(self, temperature: float) -> tuple[float, float]:
        """Calibration error and loss at another temperature."""
        scaled = self.logits.astype(np.float64) / temperature
        loss = float((np.logaddexp(0, scaled) - scaled * self.truth).mean())
        return calibration(sigmoid(self.logits, temperature).ravel(), self.truth.ravel()).ece, loss


def answers_of(good: Sequence[Answered]) -> tuple[Bool, Float32]:
    """What is true of readable photos and what was answered: bool and float32 (N, K)."""
    logits = np.stack([item.logits for item in good if item.logits is not None])
    truth = np.zeros(logits.shape, np.bool_)
    for row, item in zip(truth, good, strict=True):
        row[list(item.truth)] = True
    return truth, logits


def compared_precision(
    found: Gathered, ours: Sequence[Answered], other: Gathered, theirs: Sequence[Answered]
) -> dict[str, Any]:
    """The mean average precision of two models on the same photos, in the same order, of the
    classes that both know by name; and how sure their difference is, of pairs of draws.
    """
    names = [name for name in found.class_names if name in other.class_names]
    drawn, means = [], []
    for gathered, items in ((found, ours), (other, theirs)):
        columns = [gathered.class_names.index(name) for name in names]
        truth, logits = answers_of(items)
        answers = truth[:, columns], sigmoid(logits[:, columns], gathered.temperature)
        limits = [(gathered.thresholds or ())[column] for column in columns]
        means.append(label_scores(*answers, 0.0, limits).mean_average_precision)
        drawn.append(draws(*answers, limits).mean_average_precision)
    return {
        "classes": len(names),
        "map": means[1],
        "this_map": means[0],
        "map_difference_interval": interval(means[1] - means[0], drawn[1] - drawn[0], least=-1.0),
    }
