"""Pictures of an explanation: heat over a photo, and split attention. All sizes are pixels.

`heat.png`: a photo, and beside it where a network looked for each of several classes.

`attention.png`: which split each channel preferred, block by block. A strip for each block, its
channels sorted by the split that they prefer and how much; so the place where the colour changes is
the share of channels. That reads alike for 4 blocks and for 89, for two splits and for four.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from resnest_cli.explanation.photo_view import Window
from resnest_cli.images.batches import Float32
from resnest_cli.report import canvas
from resnest_cli.report.canvas import FAINT, Pixels, image_at, text_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SIDE = 360  # of a photo
_MARGIN, _HEAD, _LINE = 24, 56, 22
_TEXT, _SMALL = 9, 8  # points; a point is two pixels

_ACROSS = 4  # photos in a row
_GAP, _CAPTION, _FOOT = 18, 54, 24
_STRONGEST = 0.72  # share of the colour where the heat is 1
_EDGE = 2  # pixels

_STAGE, _LEGEND = 44, 48  # heights
_LABEL, _STRIP, _NUMBER = 90, 760, 74  # widths: of a block's name, its strip, one of its numbers
_PARTING = 6  # between cardinal groups
_SPLITS = (canvas.BLUE, canvas.ORANGE, canvas.GREEN, canvas.PINK)  # 1 to 4


# Heat


@dataclass(frozen=True, slots=True)
class Panel:
    """One class: its name, how probable it is, its heat over the photo, uint8 (SIDE, SIDE, 3).

    `empty`: nothing in the photo speaks for it.
    """

    label: str
    probability: float
    pixels: Pixels
    empty: bool = False


def heat_figure(
    path: Path, name: str, photo: Pixels, window: Window, panels: Sequence[Panel], how: str
) -> None:
    """Draws the photo, uint8 (h, w, 3) with the `window` that was seen, and a panel a class.

    `name` is what the photo is called; `how` says in a sentence or two what the heat is.
    """
    fonts = canvas.fonts_for([name, how, *(panel.label for panel in panels)])
    columns = min(_ACROSS, len(panels) + 1)
    rows = -(-(len(panels) + 1) // _ACROSS)
    width = 2 * _MARGIN + columns * (SIDE + _GAP) - _GAP
    row = _CAPTION + SIDE + _GAP
    seen = "Orange frame: what the network saw of the photo. " if cuts(window) else ""
    scale = " Each map has its own scale." if len(panels) > 1 else ""
    text = (
        f"{seen}The lighter and the more yellow a place, the more it speaks for the class; the "
        f"white line goes where it is half the most.{scale} {how}"
    )
    notes = fonts.lines(text, width - 2 * _MARGIN, 2 * _SMALL)
    height = _HEAD + rows * row + _FOOT + len(notes) * _LINE
    fields = [("the photo", "with what the network saw" if cuts(window) else "", photo)]
    for panel in panels:
        tail = ", nothing speaks for it" if panel.empty else ""
        fields.append((panel.label, f"{panel.probability:.2%}{tail}", panel.pixels))
    with canvas.figure(path, width, height, fonts) as figure:
        title = fonts.fitted(name, "", width - 2 * _MARGIN, 22)
        text_at(figure, _MARGIN, 18, fonts.escaped(title), 11)
        for number, (above, below, pixels) in enumerate(fields):
            down, across = divmod(number, _ACROSS)
            x, y = _MARGIN + across * (SIDE + _GAP), _HEAD + down * row
            text_at(figure, x, y, fonts.escaped(fonts.fitted(above, "", SIDE, 2 * _TEXT)), _TEXT)
            text_at(figure, x, y + 25, below, _SMALL, FAINT)
            high, wide = pixels.shape[:2]  # in the middle of its field
            image_at(figure, x + (SIDE - wide) // 2, y + _CAPTION + (SIDE - high) // 2, pixels)
        for line, note in enumerate(notes):
            y = _HEAD + rows * row + line * _LINE
            text_at(figure, _MARGIN, y, fonts.escaped(note), _SMALL, FAINT)


def overlaid(pixels: Pixels, heat: Float32, side: int, level: float) -> Pixels:
    """Heat (S, S) in [0, 1] over the network's input, uint8 (S, S, 3) -> uint8 (side, side, 3).

    The photo is paler, so that colour means heat; a white line goes along the heat of `level`.
    """
    photo = enlarged(pixels, side).astype(np.float32)
    photo = 0.35 * photo + 0.65 * photo.mean(axis=2, keepdims=True)
    wide = Image.fromarray(heat.astype(np.float32))  # mode F
    large = np.asarray(wide.resize((side, side), Image.Resampling.BILINEAR)).clip(0, 1)
    colours = _inferno()[np.rint(large * 255).astype(np.uint8)]  # (side, side, 3)
    share = _STRONGEST * np.sqrt(large)[..., None]
    mixed = (1 - share) * photo + share * colours
    mixed[_edge(large >= level)] = 255
    found: Pixels = np.rint(mixed).clip(0, 255).astype(np.uint8)
    return found


def _edge(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost places of what is inside."""
    core = np.pad(inside, _EDGE, mode="edge")  # the picture's own edge is none
    kept = inside.copy()
    height, width = inside.shape
    for step in (0, 2 * _EDGE):
        kept &= core[step : step + height, _EDGE : _EDGE + width]
        kept &= core[_EDGE : _EDGE + height, step : step + width]
    return inside & ~kept


@lru_cache(maxsize=1)
def _inferno() -> Float32:
    """Matplotlib's colours, float32 (256, 3): lighter is hotter, for colour-blind readers too."""
    table = canvas.matplotlib().colormaps["inferno"](np.linspace(0, 1, 256))
    return np.asarray(255 * table[:, :3], np.float32)


def enlarged(pixels: Pixels, side: int) -> Pixels:
    """A square picture of another side; far fewer pixels stay squares, as the network sees them."""
    sharp = side >= 4 * len(pixels)
    how = Image.Resampling.NEAREST if sharp else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((side, side), how))


def windowed(preview: Pixels, window: Window, side: int) -> Pixels:
    """A photo, uint8 (h, w, 3), at most `side` pixels a side; what lies outside of the window is
    dimmed, with a line around it.
    """
    height, width = preview.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    photo = Image.fromarray(preview).resize(size, Image.Resampling.LANCZOS)
    if not cuts(window):
        return np.asarray(photo)
    # Edges in pixels: where the window goes beyond the photo, its line is outside, too.
    box = [round(edge * length) for edge, length in zip(window, size * 2, strict=True)]
    left, top, right, bottom = box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1)
    mask = Image.new("L", size, 110)
    ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
    shown = Image.composite(photo, Image.new("RGB", size, "white"), mask)
    for grown in (0, 1):
        edges = (left + grown, top + grown, right - 1 - grown, bottom - 1 - grown)
        if edges[0] < edges[2] and edges[1] < edges[3]:
            ImageDraw.Draw(shown).rectangle(edges, outline=canvas.ORANGE)
    return np.asarray(shown)


def cuts(window: Window) -> bool:
    """Whether the network sees less than the whole photo."""
    left, top, right, bottom = window
    return left > 0 or top > 0 or right < 1 or bottom < 1


def jpeg(pixels: Pixels) -> bytes:
    """A JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return file.getvalue()


# Split attention


@dataclass(frozen=True, slots=True)
class Block:
    """The attention in one block, `block` of `stage`, both from 1.

    `weights` are float32 (radix, C) in [0, 1]: of `radix` > 1 splits, a channel's add up to one.
    The C channels belong to `cardinality` groups, one after the other.
    """

    stage: int
    block: int
    cardinality: int
    weights: NDArray[np.float32]

    @property
    def preferred(self) -> tuple[float, ...]:
        """The share of the channels that each split weighs most for."""
        radix, channels = self.weights.shape
        counts = np.bincount(self.weights.argmax(axis=0), minlength=radix)
        return tuple(float(count) / channels for count in counts)

    @property
    def strength(self) -> float:
        """Mean weight of the split that a channel prefers: 1 / radix to 1; mean gate of radix 1."""
        return float(self.weights.max(axis=0).mean())

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "stage": self.stage,
            "block": self.block,
            "preferred": [round(share, 4) for share in self.preferred],
            "mean": [round(float(mean), 4) for mean in self.weights.mean(axis=1)],
        }


def attention_figure(path: Path, name: str, model: str, blocks: Sequence[Block]) -> None:
    """Draws the attention of all blocks, at least one, for the photo `name`."""
    radix, cardinality = len(blocks[0].weights), blocks[0].cardinality
    strip_height, gap, points = (30, 8, 9.0) if len(blocks) <= 20 else (16, 3, 6.5)
    stages = {stage: list(group) for stage, group in groupby(blocks, lambda one: one.stage)}
    columns = radix + 1 if radix > 1 else 1
    width = 2 * _MARGIN + _LABEL + _STRIP + columns * _NUMBER
    title = f"Split attention of {model}: {name}"
    fonts = canvas.fonts_for([title])
    notes = fonts.lines(_explanation(radix, cardinality), width - 2 * _MARGIN, 2 * _SMALL)
    y = _HEAD + len(notes) * _LINE + _LEGEND
    height = y + len(stages) * _STAGE + len(blocks) * (strip_height + gap) + _MARGIN
    with canvas.figure(path, width, height, fonts) as figure:
        title = fonts.fitted(title, "", width - 2 * _MARGIN, 22)
        text_at(figure, _MARGIN, 18, fonts.escaped(title), 11)
        for line, note in enumerate(notes):
            text_at(figure, _MARGIN, _HEAD + line * _LINE, note, _SMALL, FAINT)
        _legend(figure, y - _LEGEND + 14, radix)
        for stage, members in stages.items():
            channels = members[0].weights.shape[1]
            text_at(figure, _MARGIN, y + 12, f"Stage {stage}: {channels} channels", _TEXT)
            y += _STAGE
            for block in members:
                _block(figure, y, block, strip_height, points)
                y += strip_height + gap


def _explanation(radix: int, cardinality: int) -> str:
    groups = f" Gaps part the {cardinality} cardinal groups, which share nothing."
    groups = groups if cardinality > 1 else ""
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


def _block(figure: "Figure", y: int, block: Block, height: int, points: float) -> None:
    middle = y + height / 2
    text_at(figure, _MARGIN + 12, middle, f"block {block.block}", points, middle=True)
    picture = strip(block.weights, block.cardinality, _STRIP, height)
    image_at(figure, _MARGIN + _LABEL, y, picture)
    numbers = [f"{share:.0%}" for share in block.preferred] if len(block.weights) > 1 else []
    for column, text in enumerate([*numbers, f"{block.strength:.2f}"], start=1):
        text_at(figure, _right(column), middle, text, points, middle=True, right=True)


def _legend(figure: "Figure", y: int, radix: int) -> None:
    """The colours, and what the numbers' columns are."""
    names = [f"split {split + 1}" for split in range(radix)] if radix > 1 else []
    for split, name in enumerate(names or ["weight 0 to 1"]):
        x = _MARGIN + _LABEL + split * (98 + 92)
        ramp = np.linspace(1 / radix if radix > 1 else 0, 1, 90, dtype=np.float32)
        colours = _coloured(np.full(90, split), ramp, radix)
        image_at(figure, x, y, np.repeat(colours[None], 18, axis=0))
        text_at(figure, x + 98, y - 1, name, _SMALL)
    for column, head in enumerate([*names, "weight"], start=1):
        text_at(figure, _right(column), y - 1, head, _SMALL, FAINT, right=True)


def _right(column: int) -> int:
    """The right end of a column of numbers, from 1."""
    return _MARGIN + _LABEL + _STRIP + column * _NUMBER - 12


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
        left = group * (each + _PARTING)
        picture[:, left : left + each] = _coloured(best[order], most[order], radix)[at]
    return picture


def _coloured(split: NDArray[np.int64], weight: Float32, radix: int) -> Pixels:
    """The colour of each split (N,), the paler the closer its weight (N,) is to 1 / radix.

    Of radix 1 the paler, the less weight.
    """
    share = weight if radix == 1 else (weight - 1 / radix) / (1 - 1 / radix)
    # Undecided channels are pale, but show their split.
    share = (0.12 + 0.88 * np.clip(share, 0, 1))[:, None]
    colours = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in _SPLITS]
    full = np.array(colours, np.float64)[split % len(_SPLITS)]
    return np.rint(255 * (1 - share) + full * share).astype(np.uint8)
