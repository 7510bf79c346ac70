"""Does the exported file say what the model says? Compared on photos, or on seeded noise.

The model is the torch network, whatever made the file: another implementation than the graph's. The
user's photos are preprocessed as `predict` does; one on which a decoder crashes (`images.pool`) is
one that cannot be read, and the export goes on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import EngineError, ResnestError, UsageError
from resnest_cli.images.batches import Float32, Preparation, prepared_batches
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source, is_photo, iter_sources
from resnest_cli.inference.ranking import probabilities_of
from resnest_cli.model.variants import Preprocessing
from resnest_cli.progress import Progress, silent

if TYPE_CHECKING:
    from resnest_cli.data.labelled_photos import LabelledData
    from resnest_cli.model.loading import Model

Float64 = NDArray[np.float64]
Run = Callable[[Float32], Float32]  # photos (N, 3, H, W) -> logits (N, classes)
T = TypeVar("T")

TOLERANCE = 1e-4  # of a probability, for float32
BATCH = 8
_AHEAD = 3 * BATCH
_SEED = 0


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two networks agree on so many photos.

    `difference` is the largest of any class's probability, `agreement` the share of photos with the
    same first class, or the same labels selected. `score` is how good both are where the truth is
    known: the share of photos that is right (top-1), or mAP of several labels.
    """

    photos: int
    difference: float
    agreement: float
    score: tuple[float, float] | None


def compared(
    batches: Iterable[tuple[list[str], Float32]],
    original: Run,
    exported: Run,
    model: "Model",
    truth: Mapping[str, Sequence[int]] | None = None,
) -> Agreement:
    """Runs both on all batches, which have paths and arrays; `truth` are the classes of each path.

    `model` says what logits mean.
    """
    photos = same = 0
    largest = 0.0
    wanted: list[Sequence[int]] = []
    answers: tuple[list[Float64], list[Float64]] = [], []
    for paths, batch in batches:
        ours, theirs = (probabilities_of(run(batch), model) for run in (original, exported))
        if ours.shape != theirs.shape or not np.isfinite(theirs).all():
            raise EngineError("the exported network gives no numbers for some photos.")
        largest = max(largest, float(np.abs(ours - theirs).max()))
        same += int((_answer(ours, model) == _answer(theirs, model)).all(axis=-1).sum())
        photos += len(batch)
        if truth is not None:
            wanted += (truth[path] for path in paths)
            answers[0].append(ours)
            answers[1].append(theirs)
    score = None
    if truth is not None and wanted:
        one, other = (_score(wanted, np.concatenate(found), model) for found in answers)
        score = one, other
    return Agreement(photos, largest, same / max(1, photos), score)


def _answer(probabilities: Float64, model: "Model") -> NDArray[Any]:
    """(N, classes) -> what is said of each photo: its first class (N, 1), or its labels."""
    if model.thresholds is None:
        return np.asarray(probabilities.argmax(axis=-1)[:, None])
    return np.asarray(probabilities >= np.asarray(model.thresholds))


def _score(wanted: Sequence[Sequence[int]], probabilities: Float64, model: "Model") -> float:
    """Top-1, or mAP, in [0, 1]."""
    if model.thresholds is None:
        return float(
            np.mean([row.argmax() in of for row, of in zip(probabilities, wanted, strict=True)])
        )
    from resnest_cli.evaluation.label_scores import label_scores

    truth = np.zeros(probabilities.shape, np.bool_)
    for row, labels in zip(truth, wanted, strict=True):
        row[list(labels)] = True
    return label_scores(truth, probabilities, 0.0, model.thresholds).mean_average_precision


def noise(model: "Model") -> Float32:
    """Seeded normal noise of the model's input size: float32 (8, channels, size, size)."""
    side = model.preprocessing.size
    shape = (BATCH, model.in_channels, side, side)
    return np.random.default_rng(_SEED).standard_normal(shape, dtype=np.float32)


def listed(data: str, *, several: bool = False) -> "LabelledData":
    """The photos of class folders or a table, which may have `several` labels each.

    Raises:
        UsageError: they are no such data.
    """
    from resnest_cli.data.class_folders import list_data
    from resnest_cli.data.labelled_photos import Reading

    return list_data(data, Reading(multi_label=several or None))


def photos_of(data: str, *, several: bool = False) -> list[str]:
    """The paths of all photos in a folder and below it, or of a table, in order."""
    if Path(data).is_file() and not is_photo(data):
        return [photo.path for photo in listed(data, several=several).photos]
    if not Path(data).is_dir():
        raise UsageError(f"{data}: there is no such folder of photos, or table of them.")
    found = []
    for source in iter_sources([data]):
        if source.path is None:
            raise ResnestError(f"{source.name} {source.error}.")
        found.append(source.path)
    if not found:
        raise UsageError(f"{data}: no photo in it has a known image extension.")
    return found


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, in order, spread over all of them."""
    if len(items) <= most:
        return list(items)
    return [items[(2 * index + 1) * len(items) // (2 * most)] for index in range(most)]


def batches(
    paths: Sequence[str],
    fed: Preprocessing,
    unreadable: dict[str, str],
    progress: Progress = silent,
    *,
    grey: bool = False,
) -> Iterator[tuple[list[str], Float32]]:
    """Paths and arrays, float32 (N, 3, size, size), of up to `BATCH` photos a time.

    For a network that sees `grey`, (N, 1, size, size). Photos that cannot be read are
    noted in `unreadable`: path -> why.
    """
    preparation, done = Preparation(fed, grey=grey), 0
    sources = (Source(path, path=path) for path in paths)
    with Decoders() as decoders:

        def prepare(source: Source) -> tuple[Float32, None]:
            assert source.path is not None
            return decoders.run(preparation, source.path), None

        for group in prepared_batches(sources, prepare, size=BATCH, workers=1, ahead=_AHEAD):
            photos = {one.source.name: one.photo for one in group if one.photo is not None}
            unreadable |= {one.source.name: one.error for one in group if one.error is not None}
            if photos:
                yield list(photos), np.stack(list(photos.values()))
            done += len(group)
            progress(done, len(paths))
