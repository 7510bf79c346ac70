"""What an evaluation comes to where a photo has one label: accuracy, confusion, surest mistakes."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from resnest_cli.evaluation.calibration import Calibration, calibration
from resnest_cli.evaluation.evaluate import Answered, Gathered
from resnest_cli.evaluation.scores import Answers, Scores, scores, worst
from resnest_cli.inference.ranking import softmax
from resnest_cli.report import plots
from resnest_cli.report.confusion_matrix import confusion_matrix


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Figures of the `judged` ones among the photos that were `gathered`.

    `answers`, and `logits` (N, K) if they were kept, are of the readable ones of them, `good`, in
    the same order.
    """

    corner: ClassVar[str] = "true \\ predicted"  # of a table of `confusion`

    gathered: Gathered
    judged: tuple[Answered, ...]
    good: list[Answered]
    answers: Answers
    scores: Scores
    calibration: Calibration
    logits: NDArray[np.float32] | None

    @classmethod
    def of(cls, gathered: Gathered, judged: tuple[Answered, ...]) -> Self:
        """Of at least one readable photo."""
        good = [item for item in judged if item.record.error is None]
        answers = Answers(
            truth=np.array([item.truth[0] for item in good], np.int64),
            predicted=np.array([item.given[0] for item in good], np.int64),
            place=np.array([item.place for item in good], np.int64),
            confidence=np.array([one.record.predictions[0].probability for one in good]),
            loss=np.array([item.loss for item in good], np.float64),
        )
        kept = [item.logits for item in good if item.logits is not None]
        figures = scores(answers, len(gathered.class_names))
        calibrated = calibration(answers.confidence, answers.right)
        logits = np.stack(kept) if len(kept) == len(good) else None
        return cls(gathered, judged, good, answers, figures, calibrated, logits)

    @property
    def truth(self) -> NDArray[np.int64]:
        """The true class of each readable photo, int64 (N,)."""
        return self.answers.truth

    @property
    def confusion(self) -> NDArray[np.int64]:
        """How many photos of a class (rows) were taken for which."""
        return self.scores.confusion

    def overall(self) -> dict[str, Any]:
        """The figures of all photos together, as JSON has them."""
        figures, top5 = self.scores, self.scores.top5
        return {
            "top1": figures.top1.value,
            "top1_interval": [figures.top1.low, figures.top1.high],
            "top5": top5.value if top5 else None,
            "top5_interval": [top5.low, top5.high] if top5 else None,
            "loss": figures.loss,
            "mean_recall": figures.mean_recall,
            "mean_f1": figures.mean_f1,
            "ece": self.calibration.ece,
        }

    def classes(self) -> list[dict[str, Any]]:
        """The figures of each class."""
        return [asdict(one) for one in self.scores.classes]

    def worst(self, most: int) -> Iterator[tuple[Answered, dict[str, float]]]:
        """The photos that the model was surest of while it was wrong, and how sure."""
        for index in worst(self.answers, most):
            yield self.good[index], {"probability": float(self.answers.confidence[index])}

    def pictures(self) -> dict[str, tuple[str, Callable[[Path], None]]]:
        """By the names of their files: their titles, and what draws them."""
        return {
            "confusion_matrix.png": ("Which classes are taken for which", self._draw_confusion),
            "reliability.png": ("Whether probabilities mean what they say", self._draw_reliability),
        }

    def _draw_confusion(self, path: Path) -> None:
        matrix, names = self.confusion, self.gathered.class_names
        occur = np.flatnonzero(matrix.sum(0) + matrix.sum(1))  # as truth or as answer
        confusion_matrix(path, matrix[np.ix_(occur, occur)], [names[n] for n in occur])

    def _draw_reliability(self, path: Path) -> None:
        bins = [asdict(one) for one in self.calibration.bins]
        plots.reliability(path, bins, self.calibration.ece, self.gathered.temperature)

    def at(self, temperature: float) -> tuple[float, float]:
        """Calibration error and loss at another temperature."""
        assert self.logits is not None
        probabilities = softmax(self.logits, temperature)
        own = probabilities[np.arange(len(self.truth)), self.truth]
        found = calibration(probabilities.max(axis=1), self.answers.right)
        return found.ece, float(-np.log(np.maximum(own, 1e-300)).mean())
