"""Plots of a training run and of an evaluation. All sizes are pixels.

`curves.png`: how losses, accuracy and learning rate went over the epochs. `lr_finder.png`: the loss
over the learning rate of a range test.

`reliability.png`: how often the model is right when it is so sure, after figure 1 of "On
Calibration of Modern Neural Networks" (arXiv 1706.04599).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.report import canvas
from resnest_cli.text import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Epoch = Mapping[str, Any]  # a row of results.csv

_TRAIN, _RAW, _EMA, _BEST = canvas.BLUE, canvas.ORANGE, canvas.GREEN, canvas.INK
_MARKERS_UP_TO = 40  # epochs; more dots than that hide the line


# Curves


def curves(path: Path, rows: Sequence[Epoch]) -> None:
    """Draws losses, accuracies and learning rate of the rows (at least one), best epoch marked.

    Takes about a second, most of it to import matplotlib the first time.
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
        _line(rate, rows, "lr", _TRAIN, "learning rate")
        rate.set_ylabel("learning rate")
        rate.set_ylim(bottom=0)
        rate.yaxis.set_major_formatter("{x:g}")
        _epochs(loss, accuracy, rate, rows)
        figure.align_ylabels([loss, accuracy, rate])
        last = rows[-1]
        figure.suptitle(
            f"{count(last['epoch'], 'epoch')}, {last['step']:,} steps",
            x=0.09, y=0.985, ha="left", fontsize=9, color=canvas.FAINT,
        )  # fmt: skip


def _losses(axes: "Axes", rows: Sequence[Epoch]) -> None:
    _line(axes, rows, "train_loss", _TRAIN, "training")
    _line(axes, rows, "val_loss", _RAW, "validation")
    _line(axes, rows, "ema_loss", _EMA, "validation, EMA")
    losses = [row[key] for row in rows for key in ("train_loss", "val_loss", "ema_loss")]
    known = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    if known and min(known) > 0 and max(known) > 30 * min(known):
        axes.set_yscale("log")  # else the end, which matters, is a flat line
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel("loss (log scale)")
    else:
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _accuracies(axes: "Axes", rows: Sequence[Epoch]) -> None:
    """Top-1, top-5 (thin, dashed) and the best epoch; the axis spans what happened.

    Where a photo may have several labels: mean average precision, and both kinds of F1.
    """
    _line(axes, rows, "top1", _RAW, "top-1", factor=100)
    _line(axes, rows, "ema_top1", _EMA, "top-1, EMA", factor=100)
    _line(axes, rows, "top5", _RAW, "top-5", factor=100, thin=True)
    _line(axes, rows, "ema_top5", _EMA, "top-5, EMA", factor=100, thin=True)
    _line(axes, rows, "map", _RAW, "mAP", factor=100)
    _line(axes, rows, "ema_map", _EMA, "mAP, EMA", factor=100)
    _line(axes, rows, "macro_f1", _TRAIN, "macro F1", factor=100, thin=True)
    _line(axes, rows, "micro_f1", canvas.INK, "micro F1", factor=100, thin=True)
    score = "top1" if rows[0]["map"] is None else "map"
    for row in [row for row in rows if row["best"]][-1:]:
        ema = row["which"] == "ema"
        best = row[f"ema_{score}"] if ema and row[f"ema_{score}"] is not None else row[score]
        label = f"best: {best:.2%}\n({'EMA, ' * ema}epoch {row['epoch']})"
        axes.plot(row["epoch"], 100 * best, "*", color=_BEST, ms=13, mec="white", zorder=5,
                  label=label, clip_on=False)  # fmt: skip
    axes.set_ylabel("validation accuracy (%)")
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(100.0, high))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _line(
    axes: "Axes", rows: Sequence[Epoch], key: str, colour: str, label: str, *,
    factor: int = 1, thin: bool = False,
) -> None:  # fmt: skip
    """One curve; nothing where no row has the value."""
    values = [math.nan if row[key] is None else factor * row[key] for row in rows]
    if all(row[key] is None for row in rows):
        return
    marker = "o" if len(rows) <= _MARKERS_UP_TO else ""
    axes.plot([row["epoch"] for row in rows], values, "--" if thin else "-", color=colour,
              label=label, marker=marker, ms=4, lw=1.2 if thin else 1.8, clip_on=False)  # fmt: skip


def _epochs(loss: "Axes", accuracy: "Axes", rate: "Axes", rows: Sequence[Epoch]) -> None:
    """The axis that all three share, labelled once."""
    from matplotlib.ticker import MaxNLocator

    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    space = 0.5 if first == last else 0.0
    rate.set_xlim(first - space, last + space)
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    rate.set_xlabel("epoch")
    for axes in (loss, accuracy):
        axes.tick_params(labelbottom=False)
    best = [row["epoch"] for row in rows if row["best"]]
    for axes in (loss, accuracy, rate):
        for epoch in best[-1:]:
            axes.axvline(epoch, color=canvas.FAINT, lw=0.8, ls=":")


def lr_finder(
    path: Path, rates: Sequence[float], losses: Sequence[float], suggestion: float | None
) -> None:
    """Draws the loss over the learning rate, and the suggested rate."""
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


# Reliability

_ONE = (
    "accuracy", "mean confidence", "share of the bin's photos that is right", "photos",
    "confidence: the probability of the class that is named first",
)  # fmt: skip
_SEVERAL = (
    "has the label", "mean probability", "share of the bin's answers whose photo has the label",
    "answers (log scale)", "probability that a photo has a label",
)  # fmt: skip


def reliability(
    path: Path, bins: Sequence[Mapping[str, float]], error: float, temperature: float, *,
    several: bool = False,
) -> None:  # fmt: skip
    """Accuracy against confidence, bin by bin, and how many photos each bin has; or answers, one
    for each photo and class, where a photo may have `several` labels.

    A bin has `low`, `high`, `photos`, `confidence` and `accuracy`; `error` is the expected
    calibration error.
    """
    bar, line, share, counted, confidence = _SEVERAL if several else _ONE
    with canvas.figure(path, 1080, 1240) as figure:
        grid = figure.add_gridspec(
            2, 1, height_ratios=(4, 1), hspace=0.1, left=0.12, right=0.96, top=0.92, bottom=0.07
        )
        upper = figure.add_subplot(grid[0])
        lower = figure.add_subplot(grid[1], sharex=upper)
        upper.plot([0, 1], [0, 1], "--", color=canvas.FAINT, lw=1, label="well calibrated")
        for index, one in enumerate(bins):
            low, width = one["low"], one["high"] - one["low"]
            middle, ends = low + width / 2, (low + 0.1 * width, low + 0.9 * width)
            upper.bar(
                middle,
                one["accuracy"],
                0.92 * width,
                color=canvas.BLUE,
                label=None if index else bar,
            )
            upper.plot(ends, [one["confidence"]] * 2, color=canvas.ORANGE, lw=2.5,
                       label=None if index else line)  # fmt: skip
            lower.bar(middle, one["photos"], 0.92 * width, color="#999999")
        upper.set_xlim(0, 1)
        upper.set_ylim(0, 1)
        upper.set_ylabel(share)
        upper.tick_params(labelbottom=False)
        upper.legend(loc="upper left")
        lower.set_ylabel(counted)
        if several:  # most are near 0
            lower.set_yscale("log")
            lower.set_ylim(bottom=0.5)
            lower.yaxis.set_major_formatter("{x:,.0f}")
        lower.set_xlabel(confidence)
        warmed = "" if temperature == 1 else f", temperature {temperature:.3g}"
        figure.suptitle(
            f"Expected calibration error {error:.2%}{warmed}",
            x=0.12, y=0.975, ha="left", fontsize=11,
        )  # fmt: skip
