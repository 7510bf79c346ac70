"""What comes out for each input: one record, always. Plain data, without numpy."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

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
    None where nothing was said, or there is an error.
    """

    input: str
    model: str
    error: str | None = None
    predictions: tuple[Prediction, ...] = ()
    unsure: bool | None = None

    @property
    def status(self) -> Literal["ok", "error"]:
        """`ok`, or `error` where the input could not be read."""
        return "ok" if self.error is None else "error"

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON has it; the order of the keys is fixed, `unsure` last, if at all."""
        record: dict[str, Any] = {
            "input": self.input,
            "status": self.status,
            "error": self.error,
            "model": self.model,
            "predictions": [asdict(prediction) for prediction in self.predictions],
        }
        return record if self.unsure is None else record | {"unsure": self.unsure}
