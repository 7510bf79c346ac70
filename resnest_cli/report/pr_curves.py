"""`pr_curves.png`: precision over recall of each label, and where its threshold lies. Sizes are
pixels.

Lines are steps, as the average precision adds them up, and end where all photos are found. The
thick one is of all answers together. Up to `_NAMED` classes each has a colour and a name; of more
those with the lowest average precision do, and the others are grey: they show what is usual.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnest_cli.report import canvas
from resnest_cli.text import shortened

_NAMED, _NAME = 8, 24  # classes with a name, and its characters
_COLOURS = (canvas.BLUE, canvas.ORANGE, canvas.GREEN, canvas.PINK)
_DASHES = ("-", "--")


class PrCurve(NamedTuple):
    """Of one class: recall and precision float (M,) of its thresholds, highest first; its average
    precision, and (recall, precision) at its own threshold, None where that selects nothing.
    """

    name: str
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    average_precision: float | None = None
    at: tuple[float, float] | None = None


def pr_curves(path: Path, curves: Sequence[PrCurve]) -> None:
    """Draws them; the first is of all classes together."""
    every, *classes = curves
    classes.sort(key=lambda one: one.average_precision or 0.0)
    named, others = classes[:_NAMED], classes[_NAMED:]
    fonts = canvas.fonts_for(one.name for one in named)
    with canvas.figure(path, 1440, 1000, fonts) as figure:
        axes = figure.add_axes((0.08, 0.1, 0.6, 0.84))
        for one in others:
            axes.plot(*_steps(one), color="#c9c9c9", lw=0.8, zorder=1)
        for place, one in enumerate(named):
            colour = _COLOURS[place % len(_COLOURS)]
            dashes = _DASHES[place // len(_COLOURS) % len(_DASHES)]
            label = f"{shortened(fonts.escaped(one.name), _NAME)}: {one.average_precision:.1%}"
            axes.plot(*_steps(one), dashes, color=colour, lw=1.5, label=label)
            if one.at is not None:
                axes.plot(*one.at, "o", color=colour, ms=6, mec="white", zorder=4, clip_on=False)
        axes.plot(*_steps(every), color=canvas.INK, lw=2.6, label=every.name)
        axes.plot([], [], "o", color=canvas.FAINT, ms=6, label="at the class's threshold")
        if others:
            axes.plot([], [], color="#c9c9c9", label=f"the {len(others):,} better classes")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.005)
        axes.set_xlabel("recall: share of the photos with a label that are given it")
        axes.set_ylabel("precision: share of the photos given it that have it")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0),
                    title="Average precision", alignment="left")  # fmt: skip


def _steps(one: PrCurve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners of the line: the precision at each recall holds since the recall before it."""
    higher = np.diff(one.recall, prepend=0.0) > 0
    recall = np.concatenate([[0.0], one.recall[higher]])
    return np.repeat(recall, 2)[1:-1], np.repeat(one.precision[higher], 2)
