"""`attention.png`: which split each channel preferred, block by block. All sizes are pixels.

A strip for each block, its channels sorted by the split that they prefer and how much; so the
place where the colour changes is the share of channels. That reads alike for 4 blocks and for 89,
for two splits and for four.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resnest_cli.report import canvas, fonts
from resnest_cli.report.placing import Place, lines_of

if TYPE_CHECKING:
    from resnest_cli.explanation.attention import Block

Pixels = NDArray[np.uint8]
Float32 = NDArray[np.float32]

# Okabe and Ito's colours, which colour-blind readers can tell apart: splits 1 to 4.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_GATE = "#0072B2"  # of the one split of radix 1

_MARGIN, _HEAD, _LINE, _STAGE = 24, 56, 22, 44
_LABEL, _STRIP, _NUMBER = 90, 760, 74  # widths: of a block's name, its strip, one of its numbers
_PARTING = 6  # between cardinal groups
_LEGEND = 48


@dataclass(frozen=True, slots=True)
class _Rows:
    """How high a block's strip is, and how much of a gap follows; `text` is its points."""

    strip: int
    gap: int
    text: float


def attention_figure(path: Path, name: str, model: str, blocks: Sequence["Block"]) -> None:
    """Draws the attention of all blocks, at least one, for the photo `name`.

    Raises:
        OSError: the file cannot be written.
    """
    radix = len(blocks[0].weights)
    cardinality = blocks[0].cardinality
    rows = _Rows(30, 8, 9) if len(blocks) <= 20 else _Rows(16, 3, 6.5)
    stages = {stage: list(group) for stage, group in groupby(blocks, lambda one: one.stage)}
    columns = radix + 1 if radix > 1 else 1
    width = 2 * _MARGIN + _LABEL + _STRIP + columns * _NUMBER
    title = f"Split attention of {model}: {name}"
    faces = fonts.faces_for([title])
    notes = lines_of(_explanation(radix, cardinality), width - 2 * _MARGIN, 8, faces)
    top = _HEAD + len(notes) * _LINE + _LEGEND
    height = top + len(stages) * _STAGE + len(blocks) * (rows.strip + rows.gap) + _MARGIN
    with canvas.figure(path, width, height, [face.family for face in faces]) as figure:
        place = Place(figure, width, height, faces)
        place.text(_MARGIN, 18, fonts.fitted(title, "", width - 2 * _MARGIN, 22, faces), 11)
        for line, note in enumerate(notes):
            place.text(_MARGIN, _HEAD + line * _LINE, note, 8, canvas.FAINT)
        _legend(place, top - _LEGEND + 14, radix)
        y = top
        for stage, members in stages.items():
            channels = members[0].weights.shape[1]
            place.text(_MARGIN, y + 12, f"Stage {stage}: {channels} channels", 9)
            y += _STAGE
            for block in members:
                _row(place, y, block, rows)
                y += rows.strip + rows.gap


def _explanation(radix: int, cardinality: int) -> str:
    groups = (
        f" Gaps part the {cardinality} cardinal groups, which share nothing."
        if cardinality > 1
        else ""
    )
    if radix == 1:
        return (
            "A block of this network makes one split, so there is nothing to choose: attention "
            "scales each channel by a weight between 0 (shut) and 1 (open), here for this one "
            "photo. Each strip is a block, its channels sorted by weight: the darker, the more of "
            f"the channel passes. The number is the mean weight.{groups}"
        )
    return (
        f"Every block makes {radix} splits of each of its channels and adds them up, weighted: "
        f"the {radix} weights of a channel add up to 1, and depend on the photo. Each strip is a "
        "block, its channels sorted: the colour says which split weighs most, and the paler it "
        f"is, the closer the weights are to 1/{radix} each. The numbers say how many of the "
        f"channels prefer each split, and what the preferred split weighs on average.{groups}"
    )


def _row(place: Place, y: int, block: "Block", rows: _Rows) -> None:
    middle = y + rows.strip / 2
    place.text(_MARGIN + 12, middle, f"block {block.block}", rows.text, middle=True)
    place.image(_MARGIN + _LABEL, y, strip(block.weights, block.cardinality, _STRIP, rows.strip))
    radix = len(block.weights)
    numbers = [f"{share:.0%}" for share in block.preferred] if radix > 1 else []
    for column, text in enumerate([*numbers, f"{block.strength:.2f}"], start=1):
        x = _MARGIN + _LABEL + _STRIP + column * _NUMBER - 12
        place.text(x, middle, text, rows.text, middle=True, right=True)


def _legend(place: Place, y: int, radix: int) -> None:
    """The colours, and what the numbers' columns are."""
    x = _MARGIN + _LABEL
    for split in range(radix):
        ramp = np.linspace(1 / radix if radix > 1 else 0, 1, 90, dtype=np.float32)
        place.image(x, y, np.repeat(_coloured(np.full(90, split), ramp, radix)[None], 18, axis=0))
        text = f"split {split + 1}" if radix > 1 else "weight 0 to 1"
        place.text(x + 98, y - 1, text, 8)
        x += 98 + 92
    heads = [f"split {split + 1}" for split in range(radix)] if radix > 1 else []
    for column, head in enumerate([*heads, "weight"], start=1):
        right = _MARGIN + _LABEL + _STRIP + column * _NUMBER - 12
        place.text(right, y - 1, head, 8, canvas.FAINT, right=True)


def strip(weights: Float32, cardinality: int, width: int, height: int) -> Pixels:
    """Weights (radix, C) of a block as a picture, uint8 (height, width, 3), group by group."""
    radix, channels = weights.shape
    each = (width - (cardinality - 1) * _PARTING) // cardinality
    picture = np.full((height, width, 3), 255, np.uint8)
    for group in range(cardinality):
        part = weights[:, group * channels // cardinality : (group + 1) * channels // cardinality]
        best, most = part.argmax(axis=0), part.max(axis=0)
        # By split; the most decided channels of the first come first, those of the last last.
        sign = np.where(best == radix - 1, 1, -1) if radix > 1 else np.full(len(best), -1)
        order = np.lexsort((sign * most, best))
        at = np.arange(each) * len(order) // each  # a column of pixels -> its channel
        colours = _coloured(best[order], most[order], radix)[at]  # (each, 3)
        left = group * (each + _PARTING)
        picture[:, left : left + each] = colours
    return picture


def _coloured(split: NDArray[np.int64], weight: Float32, radix: int) -> Pixels:
    """The colour of each split (N,), the paler the closer its weight (N,) is to 1 / radix."""
    if radix == 1:
        share = weight
        full = np.tile(_rgb(_GATE), (len(weight), 1))
    else:
        share = (weight - 1 / radix) / (1 - 1 / radix)
        full = np.array([_rgb(colour) for colour in _COLOURS])[split % len(_COLOURS)]
    # Undecided channels are pale, but tell their split.
    share = (0.12 + 0.88 * np.clip(share, 0, 1))[:, None]
    return np.rint(255 * (1 - share) + full * share).astype(np.uint8)


def _rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], np.float64)
