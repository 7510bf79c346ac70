"""`confusion_matrix.png`: which classes are taken for which, for two classes or a thousand.

A cell's colour is the share of its row: blue what is right, orange what is not. Few classes:
every cell has its count. Many: cells shrink to three pixels, names are thinned, and the lowest
recalls and the commonest mistakes are listed beside the matrix. All sizes are pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resnest_cli.report import canvas, fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_CELLS = 1000  # a side; more classes are pooled, the largest share of a block shown
_NAME = 24  # characters of a name beside the matrix
_LISTED = 16
_LIST_FROM = 31  # classes; with fewer the matrix itself is read
_TOP, _RECALL, _GAP, _SCALE = 110, 150, 16, 210
_ARROW = "\N{RIGHTWARDS ARROW}"
_NOTE = "#n: class n, counted from 0; no font on this machine draws its name."


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


def confusion_matrix(path: Path, confusion: NDArray[np.int64], class_names: Sequence[str]) -> None:
    """Draws the matrix of counts, int64 (K, K): rows are the true classes, columns predictions.

    Beside each row stands its recall. A class without photos has a grey row. Takes one to a few
    seconds.

    Raises:
        OSError: the file cannot be written.
    """
    assert confusion.shape == (len(class_names), len(class_names))
    faces = fonts.faces_for(class_names)
    able = [fonts.drawable(name, faces) for name in class_names]
    names = [
        fonts.shortened(name, _NAME) if drawn else f"#{index}"
        for index, (name, drawn) in enumerate(zip(class_names, able, strict=True))
    ]
    layout = _layout(names, faces)
    lists = _lists(confusion, names) if len(names) >= _LIST_FROM else []
    # Bold letters are wider by a sixth.
    longest = max((1.17 * fonts.width(text, 16, faces) for text, _ in lists), default=0)
    beside = layout.left + layout.side + 2 * _GAP + _RECALL
    width = max(beside + max(_SCALE, round(longest) + 40), 700)
    height = max(_TOP + layout.side + layout.bottom, 1500 if lists else 0)
    with canvas.figure(path, width, height, [face.family for face in faces]) as figure:
        shares = _shares(confusion)
        axes = _axes(figure, layout.left, _TOP, layout.side, layout.side)
        _matrix(axes, confusion, shares, layout)
        _names(axes, names, layout)
        _recalls(figure, np.diag(shares), layout)
        _scale(_axes(figure, beside, _TOP, 60, min(layout.side, 420)))
        _title(figure, confusion, shares)
        for line, (text, weight) in enumerate(lists):
            y = 1 - (_TOP + 500 + 25 * line) / height
            figure.text(beside / width, y, text, fontsize=8, va="top", weight=weight)
        if not all(able):
            figure.text(10 / width, 10 / height, _NOTE, fontsize=8, color=canvas.FAINT)


def _layout(names: Sequence[str], faces: tuple[fonts.Face, ...]) -> _Layout:
    block = -(-len(names) // _MOST_CELLS)
    cells = -(-len(names) // block)
    cell = min(110, 1600 // cells)
    if cell < 12:  # names of every row would need more room: take it while it is not too much
        cell = 12 if cells <= 250 else max(3, 3000 // cells)
    font = min(18.0, max(10.0, 0.9 * cell))
    longest = max(fonts.width(name, font, faces) for name in names)
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


def _axes(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes at a place in pixels from the figure's upper left corner: cells stay whole pixels."""
    full_width, full_height = figure.get_size_inches() * figure.dpi
    place = (left / full_width, 1 - (top + height) / full_height)
    axes = figure.add_axes((*place, width / full_width, height / full_height))
    axes.grid(visible=False)
    return axes


def _shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 (K, K): shares of each row's photos; NaN in the row of a class without any."""
    totals = confusion.sum(axis=1, keepdims=True).astype(np.float64)
    totals[totals == 0] = np.nan
    return np.asarray(confusion / totals, np.float64)


def _matrix(axes: "Axes", confusion: NDArray[np.int64], shares: NDArray[np.float64],
            layout: _Layout) -> None:  # fmt: skip
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


def _colours(shares: NDArray[np.float64], name: str) -> NDArray[np.float64]:
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


def _pooled(shares: NDArray[np.float64], block: int) -> NDArray[np.float64]:
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


def _recalls(figure: "Figure", recalls: NDArray[np.float64], layout: _Layout) -> None:
    """A bar for each row, and its recall in percent where there is room."""
    left = layout.left + layout.side + _GAP
    axes = _axes(figure, left, _TOP, _RECALL, layout.side)
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


def _title(figure: "Figure", confusion: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    width, height = figure.get_size_inches() * figure.dpi
    total, right = int(confusion.sum()), int(np.trace(confusion))
    text = "no photos"
    if total:
        text = f"{right:,} of {total:,} photos right ({right / total:.2%}), "
        text += f"mean recall {np.nanmean(np.diag(shares)):.2%}"
    left = 14 / width
    figure.text(left, 1 - 14 / height, "Confusion matrix", fontsize=11, weight="bold", va="top")
    figure.text(left, 1 - 44 / height, text, fontsize=9, va="top", color=canvas.FAINT)


def _lists(confusion: NDArray[np.int64], names: Sequence[str]) -> list[tuple[str, str]]:
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
