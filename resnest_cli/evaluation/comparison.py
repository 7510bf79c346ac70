"""Two models on the same photos: which answers changed, and whether that is more than chance."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Comparison:
    """`mended` are the photos that only the second model has right, `broken` those it alone has
    wrong, both by index; `p_value` is that of the exact McNemar test (two-sided): how often two
    equally good models would differ as much.
    """

    mended: tuple[int, ...]
    broken: tuple[int, ...]
    p_value: float


def compare(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Comparison:
    """Whether each of N photos was right with the first and with the second model."""
    assert first.shape == second.shape
    mended = tuple(int(i) for i in np.flatnonzero(second & ~first))
    broken = tuple(int(i) for i in np.flatnonzero(first & ~second))
    return Comparison(mended, broken, mcnemar(len(mended), len(broken)))


def mcnemar(one: int, other: int) -> float:
    """Two-sided exact p-value of so many changes either way, under a fair coin."""
    total, fewer = one + other, min(one, other)
    if total == 0:
        return 1.0
    logs = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
            for k in range(fewer + 1)]  # fmt: skip
    most = max(logs)
    tail = math.exp(most - total * math.log(2)) * sum(math.exp(value - most) for value in logs)
    return min(1.0, 2 * tail)
