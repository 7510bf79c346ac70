"""Where in a photo a map is hot. Plain numpy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnest_cli.explanation.looking import Window

HOT = 0.5  # of the maximum; where a map is at least that, it is hot


@dataclass(frozen=True, slots=True)
class Region:
    """Where a photo is hot, in fractions of its sides: x from the left, y from the top.

    `box` is left, top, right, bottom around all hot places, `centre` their weighted mean.
    """

    box: tuple[float, float, float, float]
    centre: tuple[float, float]


def hot_region(heat: NDArray[np.float32], window: Window) -> Region | None:
    """Heat (H, W) in [0, 1] over a photo's `window` -> its hot part; None where nothing is hot."""
    hot = heat >= HOT
    if not hot.any():
        return None
    left, top, right, bottom = window
    first_x, last_x, x = _along(hot, heat, 0)
    first_y, last_y, y = _along(hot, heat, 1)
    across, down = right - left, bottom - top
    box = (left + across * first_x, top + down * first_y,
           left + across * last_x, top + down * last_y)  # fmt: skip
    clipped = tuple(min(max(value, 0.0), 1.0) for value in box)
    centre = left + across * x, top + down * y
    return Region(
        (clipped[0], clipped[1], clipped[2], clipped[3]),
        (min(max(centre[0], 0.0), 1.0), min(max(centre[1], 0.0), 1.0)),
    )


def _along(
    hot: NDArray[np.bool_], heat: NDArray[np.float32], axis: int
) -> tuple[float, float, float]:
    """First and last edge, and weighted mean, as fractions of the columns (axis 0) or rows."""
    length = hot.shape[1 - axis]
    found = np.flatnonzero(hot.any(axis=axis))
    weights = np.where(hot, heat, 0).sum(axis=axis, dtype=np.float64)
    middle = float((weights * (np.arange(length) + 0.5)).sum() / weights.sum()) / length
    return float(found[0]) / length, float(found[-1] + 1) / length, middle
