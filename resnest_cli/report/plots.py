"""Plots of a training run and of an evaluation. All sizes are pixels.

`curves.png`: how losses, accuracy and learning rate went over the epochs. `lr_finder.png`: the loss
over the learning rate of a range test.

`confusion_matrix.png`: which classes are taken for which, for two classes or a thousand. A cell's
colour is the share of its row: blue what is right, orange what is not. Few classes: every cell has
its count. Many: cells shrink to three pixels, names are thinned, and the lowest recalls and the
commonest mistakes are listed beside the matrix.

`reliability.png`: how often the model is right when it is so sure, after figure 1 of "On
Calibration of Modern Neural Networks" (arXiv 1706.04599).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.report import canvas
from resnest_cli.text import count, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Int = NDArray[np.int64]
Float = NDArray[np.float64]
Epoch = Mapping[str, Any]  # a row of results.csv

_TRAIN, _RAW, _EMA, _BEST = canvas.BLUE, canvas.ORANGE, canvas.GREEN, canvas.INK
_MARKERS_UP_TO = 40  # epochs; more dots than that hide the line

_MOST_CELLS = 1000  # a side; more classes are pooled, the largest share of a block shown
_NAME = 24  # characters of a name beside the matrix
_LISTED = 16
_LIST_FROM = 31  # classes; with fewer the matrix itself is read
_TOP, _RECALL, _GAP, _SCALE = 110, 150, 16, 210
_ARROW = "\N{RIGHTWARDS ARROW}"
_NOTE = "#n: class n, counted from 0; no font on this machine draws its name."


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


# Confusion matrix


@dataclass(frozen=True, slots=True)
class _Layout:
    cells: int  # a side of the picture of the matrix
    block: int  # classes that a cell stands for, along each axis
    cell: int  # side of a cell
    step: int  # every so many cells have their name shown
    font: float  # height of the names
    left: int  # room for the names of rows
    bottom: int  # and of columns
    upright: bool  # names of columns fit side by side

    @property
    def side(self) -> int:
        return self.cells * self.cell


def confusion_matrix(path: Path, confusion: Int, class_names: Sequence[str]) -> None:
    """Draws the matrix of counts, int64 (K, K): rows are the true classes, columns predictions.

    Beside each row stands its recall. A class without photos has a grey row. Takes one to a few
    seconds.
    """
    assert confusion.shape == (len(class_names), len(class_names))
    fonts = canvas.fonts_for(class_names)
    names = [
        shortened(name, _NAME) if fonts.draw(name) else f"#{index}"
        for index, name in enumerate(class_names)
    ]
    layout = _layout(names, fonts)
    lists = _lists(confusion, names) if len(names) >= _LIST_FROM else []
    # Bold letters are wider by a sixth.
    longest = max((1.17 * fonts.width(text, 16) for text, _ in lists), default=0)
    beside = layout.left + layout.side + 2 * _GAP + _RECALL
    width = max(beside + max(_SCALE, round(longest) + 40), 700)
    height = max(_TOP + layout.side + layout.bottom, 1500 if lists else 0)
    with canvas.figure(path, width, height, fonts) as figure:
        shares = _shares(confusion)
        axes = canvas.axes_at(figure, layout.left, _TOP, layout.side, layout.side)
        _matrix(axes, confusion, shares, layout)
        _names(axes, names, layout)
        _recalls(figure, np.diag(shares), layout)
        _scale(canvas.axes_at(figure, beside, _TOP, 60, min(layout.side, 420)))
        _title(figure, confusion, shares)
        for line, (text, weight) in enumerate(lists):
            canvas.text_at(figure, beside, _TOP + 500 + 25 * line, text, 8, weight=weight)
        if fonts.missing:
            figure.text(10 / width, 10 / height, _NOTE, fontsize=8, color=canvas.FAINT)


def _layout(names: Sequence[str], fonts: canvas.Fonts) -> _Layout:
    block = -(-len(names) // _MOST_CELLS)
    cells = -(-len(names) // block)
    cell = min(110, 1600 // cells)
    if cell < 12:  # names of every row would need more room: take it while it is not too much
        cell = 12 if cells <= 250 else max(3, 3000 // cells)
    font = min(18.0, max(10.0, 0.9 * cell))
    longest = max(fonts.width(name, font) for name in names)
    upright = longest < 0.9 * cell
    return _Layout(
        cells=cells,
        block=block,
        cell=cell,
        step=-(-12 // cell),
        font=font,
        left=round(longest) + 70,
        bottom=(30 if upright else round(longest) + 20) + 60,
        upright=upright,
    )


def _shares(confusion: Int) -> Float:
    """float64 (K, K): shares of each row's photos; NaN in the row of a class without any."""
    totals = confusion.sum(axis=1, keepdims=True).astype(np.float64)
    totals[totals == 0] = np.nan
    return np.asarray(confusion / totals, np.float64)


def _matrix(axes: "Axes", confusion: Int, shares: Float, layout: _Layout) -> None:
    """The coloured cells, and counts where they fit."""
    right = np.where(np.eye(len(shares), dtype=bool), shares, 0.0)
    wrong = np.where(np.eye(len(shares), dtype=bool) & np.isfinite(shares), 0.0, shares)
    picture = _colours(_pooled(wrong, layout.block), "Oranges")
    right = _pooled(right, layout.block)
    picture = np.where((right > 0)[..., None], _colours(right, "Blues"), picture)
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.spines[:].set_visible(True)
    digits = len(str(confusion.max()))
    size = min(18.0, layout.cell / (0.64 * digits + 0.3))
    if layout.block == 1 and size >= 9:
        for row, column in np.argwhere(confusion > 0):
            colour = "white" if shares[row, column] > 0.35 else canvas.INK
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center",
                      fontsize=size / 2, color=colour)  # fmt: skip
    if layout.cell >= 12:
        lines = np.arange(0.5, layout.cells - 1)
        axes.hlines(lines, -0.5, layout.cells - 0.5, color=canvas.GRID, lw=0.5, zorder=0.5)
        axes.vlines(lines, -0.5, layout.cells - 0.5, color=canvas.GRID, lw=0.5, zorder=0.5)


def _colours(shares: Float, name: str) -> Float:
    """RGBA for shares in [0, 1]: 0 is white, and one in a thousand can already be seen."""
    from matplotlib import colormaps

    colours = colormaps[name].with_extremes(bad="#d9d9d9")
    painted = np.asarray(colours(np.ma.masked_invalid(0.15 + 0.85 * np.sqrt(shares))), np.float64)
    painted[shares == 0] = 1.0
    return painted


def _scale(axes: "Axes") -> None:
    """What the colours mean."""
    steps = np.linspace(1, 0, 256) ** 2  # the axis is one of square roots, as the colours are
    bars = np.stack([_colours(steps, "Blues"), _colours(steps, "Oranges")], axis=1)
    axes.imshow(bars, extent=(0, 2, 0, 1), aspect="auto", interpolation="nearest")
    shares = np.array([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    axes.yaxis.tick_right()
    axes.set_yticks(np.sqrt(shares), [f"{share:.0%}" for share in shares], fontsize=8)
    axes.set_xticks([0.5, 1.5], ["right", "wrong"], fontsize=8, rotation=90)
    axes.tick_params(axis="x", length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("share of row", fontsize=8, loc="left")


def _pooled(shares: Float, block: int) -> Float:
    """The largest share of each block of cells; NaN only where all are."""
    if block == 1:
        return shares
    starts = np.arange(0, len(shares), block)
    rows = np.fmax.reduceat(shares, starts, axis=0)
    return np.asarray(np.fmax.reduceat(rows, starts, axis=1), np.float64)


def _names(axes: "Axes", names: Sequence[str], layout: _Layout) -> None:
    shown = range(0, layout.cells, layout.step)
    labels = [names[cell * layout.block] for cell in shown]
    size = layout.font / 2
    axes.set_yticks(shown, labels, fontsize=size)
    axes.set_xticks(shown, labels, fontsize=size, rotation=0 if layout.upright else 90)
    axes.tick_params(length=0 if layout.step == 1 else 3, pad=4)
    axes.set_ylabel("true class")
    axes.set_xlabel("predicted class")


def _recalls(figure: "Figure", recalls: Float, layout: _Layout) -> None:
    """A bar for each row, and its recall in percent where there is room."""
    left = layout.left + layout.side + _GAP
    axes = canvas.axes_at(figure, left, _TOP, _RECALL, layout.side)
    classes = np.arange(len(recalls)) / layout.block
    axes.barh(classes, np.nan_to_num(recalls), height=0.8 / layout.block, color="#9ecae1", lw=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(layout.cells - 0.5, -0.5)
    axes.set_axis_off()
    axes.set_title("recall", fontsize=8, loc="left")
    if layout.step == 1 and layout.block == 1:
        for index, recall in enumerate(recalls):
            text = "no photos" if np.isnan(recall) else f"{recall:.1%}"
            axes.text(0.04, index, text, va="center", fontsize=min(layout.font, 16) / 2)


def _title(figure: "Figure", confusion: Int, shares: Float) -> None:
    total, right = int(confusion.sum()), int(np.trace(confusion))
    text = "no photos"
    if total:
        text = f"{right:,} of {total:,} photos right ({right / total:.2%}), "
        text += f"mean recall {np.nanmean(np.diag(shares)):.2%}"
    canvas.text_at(figure, 14, 14, "Confusion matrix", 11, weight="bold")
    canvas.text_at(figure, 14, 44, text, 9, canvas.FAINT)


def _lists(confusion: Int, names: Sequence[str]) -> list[tuple[str, str]]:
    """Lines of text, with their weight: the lowest recalls and the commonest mistakes."""
    totals, right = confusion.sum(axis=1), np.diag(confusion)
    recalls = np.diag(_shares(confusion))
    lines = [("Lowest recall", "bold")]
    for index in np.argsort(recalls, kind="stable")[:_LISTED]:  # NaN is sorted to the end
        if not np.isnan(recalls[index]):
            counts = f"{recalls[index]:.1%} ({right[index]} of {totals[index]})"
            lines.append((f"{names[index]}: {counts}", "normal"))
    mistakes = confusion - np.diag(right)
    true, predicted = np.nonzero(mistakes)  # of a million cells, most are 0
    most = np.argsort(-mistakes[true, predicted], kind="stable")[:_LISTED]
    if len(most):
        lines += [("", "normal"), (f"Commonest mistakes (true {_ARROW} predicted)", "bold")]
    for row, column in zip(true[most], predicted[most], strict=True):
        pair = f"{names[row]} {_ARROW} {names[column]}"
        lines.append((f"{pair}: {mistakes[row, column]} of {totals[row]}", "normal"))
    return lines


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
