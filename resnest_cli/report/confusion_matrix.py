"""`confusion_matrix.png`: which classes are taken for which, for two classes or a thousand.

All sizes are pixels. A cell's colour is the share of its row: blue what is right, orange what is
not. Up to 40 classes are shown whole, with their names and a count in every cell. Of more, only
those that are taken for each other most are shown so, alike ones side by side; beside them are all
classes in small, the lowest recalls and the commonest mistakes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resnest_cli.report import canvas
from resnest_cli.text import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Int = NDArray[np.int64]
Float = NDArray[np.float64]

_READABLE = 40  # classes
_SHOWN = 30  # of more
_SIDE = 1100  # of the matrix, about
_NAME = 24  # characters of a name beside the matrix
_LISTED = 16
_LIST_FROM = 31  # classes; with fewer the matrix itself is read
_TOP, _RECALL, _GAP, _SCALE = 120, 150, 16, 160
_SMALL = 420  # side of the picture of all classes
_ARROW = "\N{RIGHTWARDS ARROW}"
_NOTE = "#n: class n, counted from 0; no font on this machine draws its name."


@dataclass(frozen=True, slots=True)
class _Layout:
    side: int  # of the matrix
    cell: int
    font: float  # height of the names
    left: int  # room for the names of rows
    bottom: int  # and of columns
    upright: bool  # names of columns fit side by side


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
    shown, shares = _shown(confusion), _shares(confusion)
    layout = _layout([names[index] for index in shown], fonts)
    lists = _lists(confusion, names) if len(names) >= _LIST_FROM else []
    # Bold letters are wider by a sixth.
    longest = max((1.17 * fonts.width(text, 16) for text, _ in lists), default=0)
    beside = layout.left + layout.side + 2 * _GAP + _RECALL
    small = _SMALL if len(shown) < len(names) else 0
    width = max(beside + max(_SCALE + small + _GAP, round(longest) + 40), 700)
    height = max(_TOP + layout.side + layout.bottom, 1500 if lists else 0)
    with canvas.figure(path, width, height, fonts) as figure:
        axes = canvas.axes_at(figure, layout.left, _TOP, layout.side, layout.side)
        _matrix(axes, confusion, shares, shown, layout)
        _names(axes, [names[index] for index in shown], layout)
        _recalls(figure, np.diag(shares)[shown], layout)
        _scale(canvas.axes_at(figure, beside, _TOP, 60, _SMALL if lists else min(layout.side, 420)))
        if small:
            _all_classes(figure, shares, beside + _SCALE)
        _title(figure, confusion, shares, len(shown))
        for line, (text, weight) in enumerate(lists):
            canvas.text_at(figure, beside, _TOP + 500 + 25 * line, text, 8, weight=weight)
        if fonts.missing:
            figure.text(10 / width, 10 / height, _NOTE, fontsize=8, color=canvas.FAINT)


def _shown(confusion: Int) -> list[int]:
    """The classes of the matrix: all where they can be read, else those with most mistakes.

    From the pair that is taken for each other most downwards, pairs grow together into groups until
    there are as many classes as can be read; so those of a group stand side by side.
    """
    if len(confusion) <= _READABLE:
        return list(range(len(confusion)))
    mistakes = np.triu(confusion + confusion.T, 1)
    pairs = np.argwhere(mistakes)
    order = np.argsort(-mistakes[tuple(pairs.T)], kind="stable")
    groups = dict[int, list[int]]()
    for one, other in pairs[order].tolist():
        if len(groups.keys() | {one, other}) > _SHOWN:
            break
        first, second = groups.get(one, [one]), groups.get(other, [other])
        if first is not second:
            # At the ends where the two stand, if they do.
            first = first[::-1] if first[0] == one else first
            second = second[::-1] if second[-1] == other else second
            together = first + second
            groups |= dict.fromkeys(together, together)
    found = [index for group in {id(g): g for g in groups.values()}.values() for index in group]
    return found or list(range(_SHOWN))


def _layout(names: Sequence[str], fonts: canvas.Fonts) -> _Layout:
    cell = min(110, _SIDE // len(names))
    font = min(18.0, 0.9 * cell)
    longest = max(fonts.width(name, font) for name in names)
    upright = longest < 0.9 * cell
    return _Layout(
        side=cell * len(names),
        cell=cell,
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


def _matrix(
    axes: "Axes", confusion: Int, shares: Float, shown: Sequence[int], layout: _Layout
) -> None:
    """The coloured cells, and their counts."""
    some = np.ix_(shown, shown)
    confusion, shares = confusion[some], shares[some]
    axes.imshow(_painted(shares), interpolation="nearest", aspect="auto")
    axes.spines[:].set_visible(True)
    size = min(18.0, layout.cell / (0.64 * len(str(confusion.max())) + 0.3))
    if size >= 9:
        for row, column in np.argwhere(confusion > 0):
            colour = "white" if shares[row, column] > 0.35 else canvas.INK
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center",
                      fontsize=size / 2, color=colour)  # fmt: skip
    lines, end = np.arange(0.5, len(shown) - 1), len(shown) - 0.5
    axes.hlines(lines, -0.5, end, color=canvas.GRID, lw=0.5, zorder=0.5)
    axes.vlines(lines, -0.5, end, color=canvas.GRID, lw=0.5, zorder=0.5)


def _painted(shares: Float, block: int = 1) -> Float:
    """RGBA of the cells, each the largest share of `block` classes either way: what is right in
    blue where there is any, else what is wrong in orange; grey without photos.
    """
    diagonal = np.eye(len(shares), dtype=bool)
    right = np.where(diagonal, shares, 0.0)
    wrong = np.where(diagonal & np.isfinite(shares), 0.0, shares)
    starts = np.arange(0, len(shares), block)
    right, wrong = (
        np.fmax.reduceat(np.fmax.reduceat(one, starts, axis=0), starts, axis=1)
        for one in (right, wrong)
    )
    return np.where((right > 0)[..., None], _colours(right, "Blues"), _colours(wrong, "Oranges"))


def _colours(shares: Float, name: str) -> Float:
    """RGBA for shares in [0, 1]: 0 is white, and one in a thousand can already be seen."""
    from matplotlib import colormaps

    colours = colormaps[name].with_extremes(bad="#d9d9d9")
    painted = np.asarray(colours(np.ma.masked_invalid(0.15 + 0.85 * np.sqrt(shares))), np.float64)
    painted[shares == 0] = 1.0
    return painted


def _all_classes(figure: "Figure", shares: Float, left: int) -> None:
    """The matrix of all classes in their order, in small, without names."""
    block = -(-len(shares) // _SMALL)
    picture = _painted(shares, block)
    side = len(picture) * (_SMALL // len(picture))  # whole pixels, so that no cell is lost
    axes = canvas.axes_at(figure, left, _TOP, side, side)
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.spines[:].set_visible(True)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"all {len(shares):,} classes, in their order", fontsize=8, loc="left")


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


def _names(axes: "Axes", names: Sequence[str], layout: _Layout) -> None:
    size, places = layout.font / 2, range(len(names))
    axes.set_yticks(places, names, fontsize=size)
    axes.set_xticks(places, names, fontsize=size, rotation=0 if layout.upright else 90)
    axes.tick_params(length=0, pad=4)
    axes.set_ylabel("true class")
    axes.set_xlabel("predicted class")


def _recalls(figure: "Figure", recalls: Float, layout: _Layout) -> None:
    """A bar for each row, and its recall in percent."""
    left = layout.left + layout.side + _GAP
    axes = canvas.axes_at(figure, left, _TOP, _RECALL, layout.side)
    axes.barh(np.arange(len(recalls)), np.nan_to_num(recalls), color="#9ecae1", lw=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(recalls) - 0.5, -0.5)
    axes.set_axis_off()
    axes.set_title("recall", fontsize=8, loc="left")
    for index, recall in enumerate(recalls):
        text = "no photos" if np.isnan(recall) else f"{recall:.1%}"
        axes.text(0.04, index, text, va="center", fontsize=min(layout.font, 16) / 2)


def _title(figure: "Figure", confusion: Int, shares: Float, shown: int) -> None:
    total, right = int(confusion.sum()), int(np.trace(confusion))
    text = "no photos"
    if total:
        text = f"{right:,} of {total:,} photos right ({right / total:.2%}), "
        text += f"mean recall {np.nanmean(np.diag(shares)):.2%}"
    head = "Confusion matrix"
    if shown < len(confusion):
        which = "first {} classes" if total == right else "{} classes taken for each other most"
        head += f": the {which.format(shown)}"
    canvas.text_at(figure, 14, 14, head, 11, weight="bold")
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
