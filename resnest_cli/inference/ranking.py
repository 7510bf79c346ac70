"""Logits -> probabilities -> ranked classes, and the record of every input. Plain numpy.

Numpy is imported where numbers are handled: a process that only writes records needs none.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from resnest_cli.errors import ErrorKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resnest_cli.model.loading import Model

NOT_FINITE = "gives no finite numbers: the weights or the preprocessing are not fit for it"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One ranked class: `rank` from 1, class `index` from 0, `probability` in [0, 1].

    `selected` says whether the photo has this label, of a model that may give it several; None of
    others.
    """

    rank: int
    index: int
    label: str
    probability: float
    selected: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it: `selected` only where there may be several labels."""
        record = asdict(self)
        if self.selected is None:
            del record["selected"]
        return record


@dataclass(frozen=True, slots=True)
class Record:
    """The answer for one input: ranked classes, or the reason why there are none.

    `unsure` says whether the best class is less probable than what the user accepts as an answer;
    None where nothing was said, or there is an error. `unknown` says in the same way whether the
    photo is farther from the training photos than the user accepts, `distance` how far it is; see
    `inference.unknown`. `kind` is that of the error. `several` says that the model may give a photo
    several labels, or none: those that are `selected`. `sorted_to` are the places that --sort-into
    gives the photo below its folder, none where it stays; None where nothing is sorted.
    """

    input: str
    model: str
    error: str | None = None
    predictions: tuple[Prediction, ...] = ()
    unsure: bool | None = None
    kind: ErrorKind = "other"
    unknown: bool | None = None
    distance: float | None = None
    several: bool = False
    sorted_to: tuple[str, ...] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are selected, the most probable first."""
        return tuple(one.label for one in self.predictions if one.selected)

    @property
    def status(self) -> Literal["ok", "error"]:
        """`ok`, or `error` where the input could not be read."""
        return "ok" if self.error is None else "error"

    @property
    def verdict(self) -> Literal["unknown", "unsure", ""]:
        """What is said in place of the best class, if anything."""
        return "unknown" if self.unknown else "unsure" if self.unsure else ""

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON has it; the order of the keys is fixed.

        Last, where they were asked for, `unsure`, then `unknown` and `distance`, then `sorted_to`.
        """
        record: dict[str, Any] = {
            "input": self.input,
            "status": self.status,
            "error": self.error,
            "model": self.model,
            "predictions": [prediction.as_dict() for prediction in self.predictions],
        }
        record |= {} if self.unsure is None else {"unsure": self.unsure}
        if self.unknown is not None:
            record |= {"unknown": self.unknown, "distance": self.distance}
        record |= {} if self.sorted_to is None else {"sorted_to": list(self.sorted_to)}
        return record


def softmax(logits: "NDArray[np.float32]", temperature: float = 1.0) -> "NDArray[np.float64]":
    """Probabilities along the last axis, in float64: (..., classes) -> (..., classes).

    Logits are divided by the `temperature` first (arXiv 1706.04599, section 4.2).
    """
    import numpy as np

    shifted = logits.astype(np.float64)
    if temperature != 1:
        shifted /= temperature
    shifted -= shifted.max(axis=-1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def sigmoid(logits: "NDArray[np.float32]", temperature: float = 1.0) -> "NDArray[np.float64]":
    """Each class's probability by itself, in float64, without overflow: any shape -> the same."""
    import numpy as np

    scaled = logits.astype(np.float64) / temperature
    small = np.exp(-np.abs(scaled))
    found: NDArray[np.float64] = np.where(scaled >= 0, 1, small) / (1 + small)
    return found


def probabilities_of(logits: "NDArray[np.float32]", model: "Model") -> "NDArray[np.float64]":
    """What a model's logits (..., classes) mean: shares of one whole, or each class by itself."""
    activation = softmax if model.thresholds is None else sigmoid
    return activation(logits, model.temperature)


def record_of(
    name: str,
    model: "Model",
    ranked: Sequence[Prediction],
    *,
    threshold: float,
    reject_below: float,
    **more: Any,
) -> Record:
    """The answer for an input: its ranked classes, without those less probable than `threshold`.

    It is unsure where the best one is less probable than `reject_below`; 0 asks nothing.
    """
    unsure = ranked[0].probability < reject_below if reject_below > 0 else None
    kept = tuple(one for one in ranked if one.probability >= threshold)
    several = model.thresholds is not None
    return Record(name, model.name, predictions=kept, unsure=unsure, several=several, **more)


def rank(
    logits: "NDArray[np.float32]",
    class_names: Sequence[str],
    topk: int = 5,
    temperature: float = 1.0,
    thresholds: Sequence[float] | None = None,
) -> list[tuple[Prediction, ...]]:
    """The `topk` most probable classes of each row of (N, classes), best first.

    Of equal probabilities the lower index comes first, so that a run can be repeated; a `topk`
    above the number of classes gives them all. With `thresholds` each class is a question by
    itself, and those that are selected, whose probability is at least their threshold, are there
    however many they are.
    """
    import numpy as np

    if thresholds is not None:
        return _selected(sigmoid(logits, temperature), class_names, topk, thresholds)
    probabilities = softmax(logits, temperature)
    order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :topk]
    return [
        tuple(
            Prediction(place, int(index), class_names[index], float(row[index]))
            for place, index in enumerate(indices, start=1)
        )
        for row, indices in zip(probabilities, order, strict=True)
    ]


def _selected(
    probabilities: "NDArray[np.float64]",
    class_names: Sequence[str],
    topk: int,
    thresholds: Sequence[float],
) -> list[tuple[Prediction, ...]]:
    import numpy as np

    limits = np.asarray(thresholds)
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    return [
        tuple(
            Prediction(place, int(index), class_names[index], float(row[index]), bool(given[index]))
            for place, index in enumerate(indices, start=1)
            if place <= topk or given[index]
        )
        for row, indices, given in zip(probabilities, order, probabilities >= limits, strict=True)
    ]
