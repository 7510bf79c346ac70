"""Cases that are timed in turn, their figures, and the machine's own rate.

The method is that of `timeit` and of torch.utils.benchmark's `blocked_autorange`: a repeat is a
block of as many runs as fill `min_time`, and its sample is the mean of the block. All cases have
one block before any has its second, so that a machine that slows down, or a neighbour that comes
and goes, meets all of them alike. Medians with quartiles: a mean would follow every disturbance.

The machine's own rate: multiply-adds a second of a float32 matrix product, by torch. A convolution
is a matrix product at heart, so this is what a network could reach if it were nothing else. It is
no hard limit: an engine's kernels may suit this processor better than torch's library does.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch

LEAST_REPEATS = 5  # quartiles of fewer say nothing
_SIDE = {"cpu": 1024, "cuda": 4096, "mps": 2048}  # of the square matrices
_PRODUCTS = 8


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


class Matmul:
    """Square products on one device with a number of threads (of the CPU)."""

    def __init__(self, device: str, threads: int) -> None:
        self.device, self.threads = device, threads
        self.side = _SIDE[device.partition(":")[0]]
        generator = torch.Generator().manual_seed(0)
        shape = (self.side, self.side)
        self._a, self._b = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
        self._seconds: list[float] = []

    @property
    def title(self) -> str:
        """What it is called while it runs."""
        return f"matrix product, {self.device}"

    @property
    def best(self) -> float:
        """Multiply-adds a second of the quickest product so far."""
        return self.side**3 / min(self._seconds)

    def run(self) -> None:
        """A few products, each timed. The number of threads and the precision are put back."""
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        torch.set_num_threads(self.threads)
        if self.device.startswith("cuda") and torch.backends.cudnn.allow_tf32:
            torch.set_float32_matmul_precision("high")  # as its convolutions, which take TF32
        try:
            for _ in range(_PRODUCTS):
                start = time.perf_counter()
                torch.mm(self._a, self._b)
                synchronise(self.device)
                self._seconds.append(time.perf_counter() - start)
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)


def synchronise(device: str) -> None:
    """Waits until an accelerator has done what it was given; nothing on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
