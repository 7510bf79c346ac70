"""Does the exported file say what the model says? Compared on photos, or on seeded noise.

The model is the torch network, whatever made the file: another implementation than the graph's. The
user's photos are preprocessed as `predict` does; one on which a decoder crashes (`images.pool`) is
one that cannot be read, and the export goes on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import EngineError, ResnestError, UsageError
from resnest_cli.images.batches import Float32, Preparation, prepared_batches
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source, iter_sources
from resnest_cli.model.variants import Preprocessing
from resnest_cli.progress import Progress, silent

if TYPE_CHECKING:
    from resnest_cli.model.loading import Model

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
    same first class, `top1` the share that is right, of both, where the truth is known.
    """

    photos: int
    difference: float
    agreement: float
    top1: tuple[float, float] | None


def compared(
    batches: Iterable[tuple[list[str], Float32]],
    original: Run,
    exported: Run,
    probabilities: Callable[[Float32], NDArray[np.float64]],
    truth: Mapping[str, int] | None = None,
) -> Agreement:
    """Runs both on all batches, which have paths and arrays; `truth` is the class of each path.

    `probabilities` says what logits mean.
    """
    photos = same = 0
    right = [0, 0]
    largest = 0.0
    for paths, batch in batches:
        ours, theirs = (probabilities(run(batch)) for run in (original, exported))
        if ours.shape != theirs.shape or not np.isfinite(theirs).all():
            raise EngineError("the exported network gives no numbers for some photos.")
        largest = max(largest, float(np.abs(ours - theirs).max()))
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        photos += len(batch)
        if truth is not None:
            wanted = np.array([truth[path] for path in paths])
            for place, found in enumerate((ours, theirs)):
                right[place] += int((found.argmax(-1) == wanted).sum())
    count = max(1, photos)
    top1 = None if truth is None else (right[0] / count, right[1] / count)
    return Agreement(photos, largest, same / count, top1)


def noise(model: "Model") -> Float32:
    """Seeded normal noise of the model's input size: float32 (8, channels, size, size)."""
    side = model.preprocessing.size
    shape = (BATCH, model.in_channels, side, side)
    return np.random.default_rng(_SEED).standard_normal(shape, dtype=np.float32)


def photos_of(folder: str) -> list[str]:
    """The paths of all photos in a folder and below it, in order."""
    if not Path(folder).is_dir():
        raise UsageError(f"{folder}: there is no such folder of photos.")
    found = []
    for source in iter_sources([folder]):
        if source.path is None:
            raise ResnestError(f"{source.name} {source.error}.")
        found.append(source.path)
    if not found:
        raise UsageError(f"{folder}: no photo in it has a known image extension.")
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
) -> Iterator[tuple[list[str], Float32]]:
    """Paths and arrays, float32 (N, 3, size, size), of up to `BATCH` photos a time.

    Photos that cannot be read are noted in `unreadable`: path -> why.
    """
    preparation, done = Preparation(fed), 0
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
