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

NOT_FINITE = "gives no finite numbers: the weights or the preprocessing are not fit for it"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One ranked class: `rank` from 1, class `index` from 0, `probability` in [0, 1]."""

    rank: int
    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Record:
    """The answer for one input: ranked classes, or the reason why there are none.

    `unsure` says whether the best class is less probable than what the user accepts as an answer;
    None where nothing was said, or there is an error. `unknown` says in the same way whether the
    photo is farther from the training photos than the user accepts, `distance` how far it is; see
    `inference.unknown`. `kind` is that of the error.
    """

    input: str
    model: str
    error: str | None = None
    predictions: tuple[Prediction, ...] = ()
    unsure: bool | None = None
    kind: ErrorKind = "other"
    unknown: bool | None = None
    distance: float | None = None

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

        Last, where they were asked for, `unsure`, then `unknown` and `distance`.
        """
        record: dict[str, Any] = {
            "input": self.input,
            "status": self.status,
            "error": self.error,
            "model": self.model,
            "predictions": [asdict(prediction) for prediction in self.predictions],
        }
        record |= {} if self.unsure is None else {"unsure": self.unsure}
        if self.unknown is not None:
            record |= {"unknown": self.unknown, "distance": self.distance}
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


def rank(
    logits: "NDArray[np.float32]",
    class_names: Sequence[str],
    topk: int = 5,
    temperature: float = 1.0,
) -> list[tuple[Prediction, ...]]:
    """The `topk` most probable classes of each row of (N, classes), best first.

    Of equal probabilities the lower index comes first, so that a run can be repeated; a `topk`
    above the number of classes gives them all.
    """
    import numpy as np

    probabilities = softmax(logits, temperature)
    order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :topk]
    return [
        tuple(
            Prediction(place, int(index), class_names[index], float(row[index]))
            for place, index in enumerate(indices, start=1)
        )
        for row, indices in zip(probabilities, order, strict=True)
    ]
