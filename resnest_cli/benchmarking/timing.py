"""Cases that are timed in turn, and what is told of them.

The method is that of `timeit` and of torch.utils.benchmark's `blocked_autorange`: a repeat is a
block of as many runs as fill `min_time`, and its sample is the mean of the block. All cases have
one block before any has its second, so that a machine that slows down, or a neighbour that comes
and goes, meets all of them alike. Medians with quartiles: a mean would follow every disturbance.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

LEAST_REPEATS = 5  # quartiles of fewer say nothing


@dataclass(slots=True)
class Case:
    """Something to be timed; `run` returns when its work is done, on an accelerator too.

    `samples` are seconds a run, one for each block of `runs`.
    """

    title: str
    run: Callable[[], object]
    runs: int = 1
    samples: list[float] = field(default_factory=list)

    def warm_up(self, min_time: float) -> None:
        """Two untimed runs: the first allocates, the second says how many fill `min_time`."""
        self.run()
        self.runs = max(1, math.ceil(min_time / max(self._block(1), 1e-9)))

    def repeat(self) -> None:
        """One more block, and its sample."""
        self.samples.append(self._block(self.runs) / self.runs)

    def _block(self, runs: int) -> float:
        start = time.perf_counter()
        for _ in range(runs):
            self.run()
        return time.perf_counter() - start


def in_turn(cases: Sequence[Case], repeats: int, min_time: float) -> Iterator[tuple[int, str]]:
    """Warms up all cases and then times them in turn; before each step, how many are done and what
    comes. There are `len(cases) * (repeats + 1)` steps.
    """
    done = 0
    for number in range(repeats + 1):
        for case in cases:
            yield done, case.title
            if number:
                case.repeat()
            else:
                case.warm_up(min_time)
            done += 1


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and extremes of samples, in milliseconds."""
    low, _, high = quantiles(seconds, n=4, method="inclusive")
    values = {"median": median(seconds), "min": min(seconds), "p25": low, "p75": high}
    return {name: 1e3 * value for name, value in (values | {"max": max(seconds)}).items()}
