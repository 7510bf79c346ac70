"""One answer for a clip: the mean of the probabilities of its frames."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Unpack

import numpy as np

from resnest_cli.images.sources import Source
from resnest_cli.inference.ranking import Record, probabilities_of, rank, record_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.inference.classifier import BatchOptions, Classifier
    from resnest_cli.model.loading import Model

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
    clips = deque[_Clip]()

    def noted() -> Iterator[Source]:
        clip, first = _Clip(None, 0), ""
        for source in sources:
            name = None if source.frame is None else source.name.rpartition("#")[0]
            if name != clip.name or source.name == first:  # a clip may be named twice
                clip, first = _Clip(name, clip.number + 1), source.name
            clips.append(clip)
            yield source

    how = {"threshold": threshold, "reject_below": reject_below}
    mean = _Mean(classifier.model, topk, how)
    for record, logits in classifier.answers(noted(), topk, **how, **reading):
        clip = clips.popleft()
        if clip != mean.clip:
            yield from mean.take()
        if clip.name is None or logits is None:
            yield record
        else:
            mean.add(clip, logits)
    yield from mean.take()


class _Clip(NamedTuple):
    """A file with frames, None for a photo that is none, and how many came before it."""

    name: str | None
    number: int


class _Mean:
    """The probabilities of the frames of one clip, added up."""

    def __init__(self, model: "Model", topk: int, how: "dict[str, float]") -> None:
        self._model, self._topk, self._how = model, topk, how
        self.clip = _Clip(None, 0)
        self._sum: NDArray[np.float64] | None = None  # (classes,)
        self._count = 0

    def add(self, clip: _Clip, logits: "NDArray[np.float32]") -> None:
        """One more frame of the clip: logits (classes,)."""
        found = probabilities_of(logits, self._model)
        self.clip, self._count = clip, self._count + 1
        self._sum = found if self._sum is None else self._sum + found

    def take(self) -> Iterator[Record]:
        """The clip's record, if a frame of one could be read; the next one may begin."""
        name, total, count = self.clip.name, self._sum, self._count
        self._sum, self._count = None, 0
        if name is None or total is None:
            return
        model, mean = self._model, np.clip(total / count, _LEAST, 1)
        # What `rank` makes probabilities of: those of a mean are no network's.
        odds = mean if model.thresholds is None else mean / np.maximum(1 - mean, _LEAST)
        (ranked,) = rank(np.log(odds)[None], model.class_names, self._topk, 1.0, model.thresholds)
        yield record_of(name, model, ranked, **self._how)
