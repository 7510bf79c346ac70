"""What `--batch-size auto` comes to: sizes are tried out on this device."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from resnest_cli.errors import EngineError, UsageError
from resnest_cli.options import AUTO

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.inference.engine import Output

# Sizes that are tried, in photos. Beyond 32 a CPU's caches are long full; a GPU is busy only from
# some number on, which depends on the network, the photos' size and the card.
_FIRST, _MOST, _MOST_OF_CPU = 8, 1024, 32
_NEARLY = 0.98  # of the best rate: a larger batch for less than that is not worth its memory
_REPEATS, _ENOUGH = 3, 0.5  # runs of a size, and seconds after which no more are made


def batch_size_for(classifier: "Classifier", output: "Output", batch_size: int) -> int:
    """`batch_size`, unless that is `AUTO`: then the best one for this output on this device.

    Takes seconds, and notifies of what it found.

    Raises:
        UsageError: the network is compiled for each size, which would take minutes.
        EngineError: not even one photo fits into the device's memory.
    """
    if batch_size != AUTO:
        return batch_size
    if classifier.compiled:
        raise UsageError("--batch-size auto with --compile would compile many times: name a size.")
    side = classifier.preprocessing.size

    # Not zeros: a GPU draws less power with them, and is quicker than with photos.
    shape = (1 if classifier.preparation.grey else 3, side, side)
    batch = photos = np.random.default_rng(0).standard_normal((_FIRST, *shape), np.float32)

    def run(count: int) -> None:
        nonlocal batch
        if len(batch) != count:  # in the first run of a size, which is not timed
            batch = np.resize(photos, (count, *shape))
        classifier.engine.output(batch, output)

    rates = measured_rates(run, most=_MOST_OF_CPU if classifier.engine.device == "cpu" else _MOST)
    size = best(rates)
    tried = ", ".join(f"{count}: {rate:,.0f}" for count, rate in rates.items())
    if classifier.graphs:  # one was recorded for the largest size, and would have all padded to it
        del classifier.engine
    classifier.notify(f"Batches of {size}; photos/s by size of batch: {tried}.")
    return size


def measured_rates(run: Callable[[int], None], *, most: int) -> dict[int, float]:
    """Photos a second of `run(count)` for 8, 16, 32, ... as fit into memory, else for 4, 2 or 1."""
    rates: dict[int, float] = {}
    count = _FIRST
    while count <= most:
        try:
            rates[count] = count / _seconds(run, count)
        except (EngineError, MemoryError):
            if rates:
                break
            if count == 1:
                raise
            count //= 2
            continue
        if count < _FIRST:
            break  # the next size has failed already
        count *= 2
    return rates


def best(rates: dict[int, float]) -> int:
    """The smallest size whose rate is nearly the best."""
    enough = _NEARLY * max(rates.values())
    return min(count for count, rate in rates.items() if rate >= enough)


def _seconds(run: Callable[[int], None], count: int) -> float:
    """Of the quickest of a few runs, after one that gets the device ready."""
    run(count)
    taken: list[float] = []
    while len(taken) < _REPEATS and sum(taken) < _ENOUGH:
        begin = time.perf_counter()
        run(count)
        taken.append(time.perf_counter() - begin)
    return min(taken)
