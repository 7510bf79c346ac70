"""One answer for a clip: the mean of the probabilities of its frames."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Unpack

import numpy as np

from resnest_cli.images.sources import Source
from resnest_cli.inference.ranking import Record, probabilities_of, rank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.inference.classifier import BatchOptions, Classifier

_LEAST = 1e-300  # a probability whose logarithm is finite


def clip_records(
    classifier: "Classifier",
    sources: Iterable[Source],
    *,
    topk: int,
    threshold: float,
    reject_below: float,
    **reading: "Unpack[BatchOptions]",
) -> Iterator[Record]:
    """One record for each file whose frames follow one another, and for each other source.

    Frames that cannot be read keep records of their own, with their errors; the mean is that of the
    others. See `Classifier.records`.
    """
    clips = deque[str | None]()

    def noted() -> Iterator[Source]:
        for source in sources:
            clips.append(None if source.frame is None else source.name.rpartition("#")[0])
            yield source

    how = {"threshold": threshold, "reject_below": reject_below}
    mean = _Mean(classifier, topk, threshold, reject_below)
    for record, logits in classifier.answers(noted(), topk, **how, **reading):
        clip = clips.popleft()
        if clip != mean.clip:
            yield from mean.take()
        if clip is None or logits is None:
            yield record
        else:
            mean.add(clip, logits)
    yield from mean.take()


class _Mean:
    """The probabilities of the frames of one clip, added up."""

    def __init__(
        self, classifier: "Classifier", topk: int, threshold: float, reject_below: float
    ) -> None:
        self._classifier, self._topk = classifier, topk
        self._threshold, self._reject_below = threshold, reject_below
        self.clip: str | None = None
        self._sum: NDArray[np.float64] | None = None  # (classes,)
        self._count = 0

    def add(self, clip: str, logits: "NDArray[np.float32]") -> None:
        """One more frame of the clip: logits (classes,)."""
        found = probabilities_of(logits, self._classifier.model)
        self.clip, self._count = clip, self._count + 1
        self._sum = found if self._sum is None else self._sum + found

    def take(self) -> Iterator[Record]:
        """The clip's record, if a frame of one could be read; the next one may begin."""
        clip, total, count = self.clip, self._sum, self._count
        self.clip, self._sum, self._count = None, None, 0
        if clip is None or total is None:
            return
        model, mean = self._classifier.model, np.clip(total / count, _LEAST, 1)
        several = model.thresholds is not None
        # What `rank` makes probabilities of: those of a mean are no network's.
        odds = mean / np.maximum(1 - mean, _LEAST) if several else mean
        (ranked,) = rank(np.log(odds)[None], model.class_names, self._topk, 1.0, model.thresholds)
        below = self._reject_below
        unsure = ranked[0].probability < below if below > 0 else None
        kept = tuple(one for one in ranked if one.probability >= self._threshold)
        yield Record(clip, model.name, predictions=kept, unsure=unsure, several=several)
