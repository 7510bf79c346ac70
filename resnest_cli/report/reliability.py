"""`reliability.png`: how often the model is right when it is so sure.

After figure 1 of "On Calibration of Modern Neural Networks" (arXiv 1706.04599).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.report import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from resnest_cli.evaluation.calibration import Calibration

_BAR, _GAP, _COUNT = "#0072B2", "#D55E00", "#999999"


def reliability(path: Path, found: "Calibration", temperature: float) -> None:
    """Accuracy against confidence, bin by bin, and how many photos each bin has.

    Raises:
        OSError: the file cannot be written.
    """
    with canvas.figure(path, 1080, 1240) as figure:
        grid = figure.add_gridspec(
            2, 1, height_ratios=(4, 1), hspace=0.1, left=0.12, right=0.96, top=0.92, bottom=0.07
        )
        upper = figure.add_subplot(grid[0])
        lower = figure.add_subplot(grid[1], sharex=upper)
        _accuracies(upper, found)
        _counts(lower, found)
        warmed = "" if temperature == 1 else f", temperature {temperature:.3g}"
        figure.suptitle(
            f"Expected calibration error {found.ece:.2%}{warmed}",
            x=0.12, y=0.975, ha="left", fontsize=11,
        )  # fmt: skip


def _accuracies(axes: "Axes", found: "Calibration") -> None:
    axes.plot([0, 1], [0, 1], "--", color=canvas.FAINT, lw=1, label="well calibrated")
    for index, one in enumerate(found.bins):
        width, middle = one.high - one.low, (one.low + one.high) / 2
        axes.bar(middle, one.accuracy, 0.92 * width, color=_BAR,
                 label="accuracy" if not index else None)  # fmt: skip
        axes.plot([one.low + 0.1 * width, one.high - 0.1 * width], [one.confidence] * 2,
                  color=_GAP, lw=2.5, label="mean confidence" if not index else None)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of the bin's photos that is right")
    axes.tick_params(labelbottom=False)
    axes.legend(loc="upper left")


def _counts(axes: "Axes", found: "Calibration") -> None:
    for one in found.bins:
        middle = (one.low + one.high) / 2
        axes.bar(middle, one.photos, 0.92 * (one.high - one.low), color=_COUNT)
    axes.set_ylabel("photos")
    axes.set_xlabel("confidence: the probability of the class that is named first")
