"""`curves.png`: how losses, accuracy and learning rate went over the epochs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.report import canvas
from resnest_cli.report.confusion import confusion_matrix
from resnest_cli.report.reliability import reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from resnest_cli.training.history import EpochRow

__all__ = ["confusion_matrix", "curves", "reliability"]

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_TRAIN, _RAW, _EMA, _BEST = "#0072B2", "#D55E00", "#009E73", "#222222"
_MARKERS_UP_TO = 40  # epochs; more dots than that hide the line


def curves(path: Path, rows: Sequence["EpochRow"]) -> None:
    """Draws losses, accuracies and learning rate of the rows (at least one), best epoch marked.

    Takes about a second, most of it to import matplotlib the first time.

    Raises:
        OSError: the file cannot be written.
    """
    assert rows
    with canvas.figure(path, 1440, 1300) as figure:
        grid = figure.add_gridspec(
            3, 1, height_ratios=(3, 3, 1), hspace=0.12, left=0.09, right=0.8, top=0.95, bottom=0.07
        )
        loss = figure.add_subplot(grid[0])
        accuracy = figure.add_subplot(grid[1], sharex=loss)
        rate = figure.add_subplot(grid[2], sharex=loss)
        _losses(loss, rows)
        _accuracies(accuracy, rows)
        _line(rate, rows, [row.lr for row in rows], _TRAIN, "-", "learning rate")
        rate.set_ylabel("learning rate")
        rate.set_ylim(bottom=0)
        rate.yaxis.set_major_formatter("{x:g}")
        _epochs(loss, accuracy, rate, rows)
        figure.align_ylabels([loss, accuracy, rate])
        last = rows[-1]
        figure.suptitle(
            f"{last.epoch} epoch{'s' * (last.epoch > 1)}, {last.step:,} steps",
            x=0.09, y=0.985, ha="left", fontsize=9, color=canvas.FAINT,
        )  # fmt: skip


def _losses(axes: "Axes", rows: Sequence["EpochRow"]) -> None:
    _line(axes, rows, [row.train_loss for row in rows], _TRAIN, "-", "training")
    _line(axes, rows, [row.val_loss for row in rows], _RAW, "-", "validation")
    _line(axes, rows, [row.ema_loss for row in rows], _EMA, "-", "validation, EMA")
    losses = [loss for row in rows for loss in (row.train_loss, row.val_loss, row.ema_loss)]
    known = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    if known and min(known) > 0 and max(known) > 30 * min(known):
        axes.set_yscale("log")  # else the end, which matters, is a flat line
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel("loss (log scale)")
    else:
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _accuracies(axes: "Axes", rows: Sequence["EpochRow"]) -> None:
    """Top-1, top-5 (thin, dashed) and the best epoch; the axis spans what happened."""
    _line(axes, rows, [_percent(row.top1) for row in rows], _RAW, "-", "top-1")
    _line(axes, rows, [_percent(row.ema_top1) for row in rows], _EMA, "-", "top-1, EMA")
    _line(axes, rows, [_percent(row.top5) for row in rows], _RAW, "--", "top-5")
    _line(axes, rows, [_percent(row.ema_top5) for row in rows], _EMA, "--", "top-5, EMA")
    best = [row for row in rows if row.best]
    if best:
        row = best[-1]
        top1 = row.ema_top1 if row.which == "ema" and row.ema_top1 is not None else row.top1
        label = f"best: {top1:.2%}\n({'EMA, ' * (row.which == 'ema')}epoch {row.epoch})"
        axes.plot(row.epoch, 100 * top1, "*", color=_BEST, ms=13, mec="white", zorder=5,
                  label=label, clip_on=False)  # fmt: skip
    axes.set_ylabel("validation accuracy (%)")
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(100.0, high) if high > 100 else high)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _line(axes: "Axes", rows: Sequence["EpochRow"], values: Sequence[float | None], colour: str,
          style: str, label: str) -> None:  # fmt: skip
    """One curve; nothing where no row has the value."""
    if all(value is None for value in values):
        return
    known = [math.nan if value is None else value for value in values]
    marker = "o" if len(rows) <= _MARKERS_UP_TO else ""
    axes.plot([row.epoch for row in rows], known, style, color=colour, label=label, marker=marker,
              ms=4, lw=1.2 if style == "--" else 1.8, clip_on=False)  # fmt: skip


def _epochs(loss: "Axes", accuracy: "Axes", rate: "Axes", rows: Sequence["EpochRow"]) -> None:
    """The axis that all three share, labelled once."""
    from matplotlib.ticker import MaxNLocator

    first, last = rows[0].epoch, rows[-1].epoch
    space = 0.5 if first == last else 0.0
    rate.set_xlim(first - space, last + space)
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    rate.set_xlabel("epoch")
    for axes in (loss, accuracy):
        axes.tick_params(labelbottom=False)
    best = [row.epoch for row in rows if row.best]
    for axes in (loss, accuracy, rate):
        for epoch in best[-1:]:
            axes.axvline(epoch, color=canvas.FAINT, lw=0.8, ls=":")


def lr_finder(
    path: Path, rates: Sequence[float], losses: Sequence[float], suggestion: float | None
) -> None:
    """Draws the loss over the learning rate of a range test, and the suggested rate.

    Raises:
        OSError: the file cannot be written.
    """
    assert len(rates) == len(losses) > 1
    with canvas.figure(path, 1200, 760) as figure:
        axes = figure.add_axes((0.1, 0.13, 0.86, 0.78))
        axes.plot(rates, losses, color=_TRAIN)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        low, high = min(losses), max(losses[: max(2, len(losses) // 2)])
        axes.set_ylim(low - 0.1 * (high - low) - 1e-3, high + 0.3 * (high - low) + 1e-3)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss, smoothed")
        if suggestion is not None:
            axes.axvline(suggestion, color=_RAW, linestyle="--", linewidth=1.2)
            axes.set_title(f"suggested: {suggestion:.1e}", color=_RAW, fontsize=10, loc="left")
