"""What 8 bits change, measured on this machine: speed here, accuracy on photos kept apart."""

import time
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ResnestError
from resnest_cli.inference.ranking import softmax

Float32 = NDArray[np.float32]
Run = Callable[[Float32], Float32]

_BATCH = 8
_ROUNDS = 5, 31  # least and most of each
_SECONDS = 10.0  # for the rounds of one batch size


def speeds(runs: Mapping[str, Run], photos: Float32) -> dict[str, dict[str, float]]:
    """Milliseconds for one photo and photos a second in batches of 8, of each network.

    Medians of rounds in which all take turns, after one that does not count. `photos` are at least
    one, float32 (N, 3, H, W).
    """
    batch = np.resize(photos, (_BATCH, *photos.shape[1:]))
    alone, many = (_medians(runs, batch[:size]) for size in (1, _BATCH))
    return {
        name: {"ms": alone[name] * 1e3, "photos_per_second": _BATCH / many[name]} for name in runs
    }


def _medians(runs: Mapping[str, Run], batch: Float32) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(batch)
    least, most = _ROUNDS
    start = time.perf_counter()
    for number in range(most):
        if number >= least and time.perf_counter() - start > _SECONDS:
            break
        for name, run in runs.items():
            before = time.perf_counter()
            run(batch)
            taken[name].append(time.perf_counter() - before)
    return {name: median(times) for name, times in taken.items()}


def accuracy(
    batches: Iterable[tuple[list[str], Float32]],
    before: Run,
    after: Run,
    truth: Mapping[str, int] | None,
    temperature: float,
) -> dict[str, Any]:
    """How often both have the same first class, and how far probabilities moved.

    With the `truth` (path -> class) also the top-1 of both. Photos come as paths and arrays.

    Raises:
        ResnestError: there is no photo.
    """
    photos = same = 0
    right = [0, 0]
    largest = 0.0
    for paths, batch in batches:
        first, second = (softmax(run(batch), temperature) for run in (before, after))
        largest = max(largest, float(np.abs(first - second).max()))
        same += int((first.argmax(-1) == second.argmax(-1)).sum())
        photos += len(paths)
        if truth is not None:
            wanted = np.array([truth[path] for path in paths])
            for place, found in enumerate((first, second)):
                right[place] += int((found.argmax(-1) == wanted).sum())
    if not photos:
        raise ResnestError("none of the photos kept apart from the calibration can be read.")
    top1 = [None, None] if truth is None else [hits / photos for hits in right]
    return {
        "photos": photos,
        "agreement": same / photos,
        "difference": largest,
        "top1_before": top1[0],
        "top1_after": top1[1],
    }
