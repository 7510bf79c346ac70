"""What the page of a run shows where a photo may have several labels.

Labels are given at the thresholds that the weights of the best epoch have in their checkpoint.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resnest_cli.evaluation import thresholds
from resnest_cli.evaluation.label_scores import label_confusion, label_scores, worst_photos
from resnest_cli.evaluation.scores import confusions
from resnest_cli.inference.ranking import Prediction
from resnest_cli.output.results import class_table, mistakes_table
from resnest_cli.report.pages import PageTable
from resnest_cli.text import percent
from resnest_cli.training.state import BestLabelAnswers, EpochRow

CLASSES = "Classes in the best epoch"  # the title of their table
_PAIRS = 20


def epochs(rows: Sequence[EpochRow]) -> PageTable:
    """A line for each epoch."""
    columns = ["Epoch", "Learning rate", "Training loss", "Validation loss", "mAP", "EMA mAP",
               "Micro F1", "Macro F1", "Seconds"]  # fmt: skip
    cells = [
        [str(row.epoch), f"{row.lr:.3g}", f"{row.train_loss:.4f}", f"{row.val_loss:.4f}",
         percent(row.map), percent(row.ema_map), percent(row.micro_f1), percent(row.macro_f1),
         f"{row.seconds:.3f}"]
        for row in rows
    ]  # fmt: skip
    return PageTable("Epochs", columns, cells, frozenset(range(len(columns))))


@dataclass(frozen=True, slots=True)
class LabelAnswers:
    """The best epoch's answers to the validation photos that could be read, which are `places`.

    `truth` bool (N, K), `probabilities` float32 (N, K), and a threshold for each of K `names`.
    """

    names: Sequence[str]
    places: NDArray[np.int64]
    truth: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    limits: tuple[float, ...]

    @classmethod
    def of(cls, best: BestLabelAnswers, names: Sequence[str], min_precision: float | None) -> Self:
        """At the thresholds of the largest F1, or of a wanted precision."""
        places = np.flatnonzero(~np.isnan(best.probabilities).any(axis=1))
        truth, probabilities = best.truth[places], best.probabilities[places]
        limits = thresholds.fitted(truth, probabilities, min_precision)
        return cls(names, places, truth, probabilities, limits)

    @property
    def given(self) -> NDArray[np.bool_]:
        """Which labels are given, bool (N, K)."""
        return np.asarray(self.probabilities >= np.asarray(self.limits), np.bool_)

    def tables(self) -> list[PageTable]:
        """The classes, and the labels that are given in place of others most often."""
        found = label_scores(self.truth, self.probabilities, 0.0, self.limits)
        figures = {
            "map": found.mean_average_precision,
            "classes": [
                {"label": name, "threshold": limit, **asdict(one)}
                for name, one, limit in zip(self.names, found.classes, self.limits, strict=True)
            ],
            "confusions": [
                {"truth": self.names[has], "predicted": self.names[given], "photos": count}
                for has, given, count in confusions(label_confusion(self.truth, self.given), _PAIRS)
            ],
        }
        classes = class_table(figures, CLASSES, every=True)
        return [PageTable(*classes), PageTable(*mistakes_table(figures))]

    def mistakes(self, most: int) -> Iterator[tuple[int, tuple[Prediction, ...], list[str]]]:
        """The photos with wrong labels and the largest loss: place, answer, and true labels.

        The answer has the labels that were given and those that were missed.
        """
        given = self.given
        for row in worst_photos(self.truth, self.probabilities, given, most):
            shown = np.flatnonzero(given[row] | self.truth[row])
            order = np.argsort(-self.probabilities[row, shown], kind="stable")
            answer = tuple(
                Prediction(
                    rank, k, self.names[k], float(self.probabilities[row, k]), bool(given[row, k])
                )
                for rank, k in enumerate(shown[order].tolist(), start=1)
            )
            true = [self.names[k] for k in np.flatnonzero(self.truth[row]).tolist()]
            yield int(self.places[row]), answer, true
