"""`predict` on this machine, and the classifier that commands ask for."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from resnest_cli import output
from resnest_cli.images.pool import Decoders
from resnest_cli.options import ModelOptions, RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resnest_cli.images.sources import Source
    from resnest_cli.inference.classifier import BatchOptions, Classifier
    from resnest_cli.inference.engine import Output
    from resnest_cli.inference.ranking import Record


@dataclass(frozen=True, slots=True)
class Ranking:
    """What is kept of each photo's answer; see the options of `resnest predict`."""

    topk: int
    threshold: float
    reject_below: float
    tta: bool
    unknown: float | None = None  # accepted share of false alarms

    def words(self) -> list[str]:
        """What was asked for beside the classes, for people."""
        named = {
            f"classes from {self.threshold:.0%} on": self.threshold > 0,
            f"unsure below {self.reject_below:.0%}": self.reject_below > 0,
            f"unknown at {self.unknown or 0:.1%} false alarms": self.unknown is not None,
            "averaged with mirror images": self.tta,
        }
        return [text for text, given in named.items() if given]

    @property
    def output(self) -> "Output":
        """The engine's output that answers are made of."""
        return "logits" if self.unknown is None else "features+logits"


def predictor(
    options: RunOptions,
    model: ModelOptions,
    ranking: Ranking,
    decoders: Decoders,
    ready: "Callable[[Classifier], None]" = lambda _: None,
    *,
    per_clip: bool = False,
) -> "tuple[tuple[str, ...], Callable[[Iterator[Source]], Iterator[Record]]]":
    """The class names of a model, and what gives one record for each source, in order.

    With `per_clip` one for all frames of a file; see `inference.clips`.

    `ready` takes the classifier before the first photo.

    Raises:
        CheckpointError: the network has no classifier.
    """
    from resnest_cli.inference.batch_size import batch_size_for

    found = classifier(model, tta=ranking.tta, ready_for=ranking.output)
    found.model.need_classifier()
    ready(found)
    reading: BatchOptions = {
        "batch_size": batch_size_for(found, ranking.output, options.batch_size),
        "workers": options.workers,
        "decoders": decoders,
    }
    how: dict[str, Any] = {
        "topk": ranking.topk,
        "threshold": ranking.threshold,
        "reject_below": ranking.reject_below,
    }

    def predict(sources: "Iterator[Source]") -> "Iterator[Record]":
        if per_clip:
            from resnest_cli.inference.clips import clip_records

            return clip_records(found, sources, **how, **reading)
        return found.records(sources, **how, unknown=ranking.unknown, **reading)

    return found.class_names, predict


def classifier(
    options: ModelOptions, *, tta: bool = False, ready_for: "Output" = "logits"
) -> "Classifier":
    """The classifier that was asked for, with progress and messages on stderr."""
    from resnest_cli.inference.classifier import Classifier

    given: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(options)}
    access = output.access(given.pop("mirror"), given.pop("offline"))
    given |= {"tta": tta, "ready_for": ready_for, "access": access, "background": True}
    return Classifier(**given)
