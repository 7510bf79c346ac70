"""`train_batch.jpg` and `val_predictions.jpg`: sheets of photos as the network sees them.

They show at a glance what goes wrong most often: labels that do not belong to their photos, and
augmentation that leaves nothing to recognise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from resnest_cli.images.batches import Float32
from resnest_cli.report import canvas
from resnest_cli.text import printable_name

_MOST, _COLUMNS = 16, 4
_SIDE = 224  # of a photo on the sheet, about
_SPACE, _FRAME, _TEXT = 14, 4, 15
_LINE = _TEXT + 6
_RIGHT, _WRONG = "#1a7f37", "#c62828"
_YES, _NO = "\N{CHECK MARK}", "\N{BALLOT X}"


@dataclass(frozen=True, slots=True)
class _Tile:
    photo: Float32
    lines: tuple[str, ...]
    colour: str = canvas.INK
    framed: bool = False


def train_batch(path: Path, photos: Float32, titles: Sequence[str]) -> None:
    """A sheet of augmented photos with their labels below; the first 16 are shown.

    `photos` are float32 (B, 3, H, W) in [0, 1], not normalised; `titles` may be as long as
    "cat 0.7 + dog 0.3" or longer and take up to two lines.
    """
    fonts, side = canvas.fonts_for(titles), _size(photos)
    tiles = [
        _Tile(photo, _wrapped(title, side, fonts))
        for photo, title in zip(photos, titles, strict=True)
    ]
    _write(path, tiles[:_MOST], side, fonts)


def val_predictions(
    path: Path,
    photos: Float32,
    truths: Sequence[str],
    predictions: Sequence[str],
    probabilities: Sequence[float] = (),
    right: Sequence[bool] | None = None,
) -> None:
    """A sheet of validation photos: prediction and probability, and the truth where they differ.

    `photos` as for `train_batch`. A right prediction has a green frame and a check mark, a wrong
    one a red frame and a cross. `right` says which is which, needed where two classes have one
    name; by default equal names are right. Predictions of several labels have no `probabilities`.
    """
    fonts, side = canvas.fonts_for([*truths, *predictions]), _size(photos)
    if right is None:
        right = [truth == predicted for truth, predicted in zip(truths, predictions, strict=True)]
    shares = [f" {one:.0%}" for one in probabilities] or [""] * len(truths)
    captions = zip(truths, predictions, shares, right, strict=True)
    tiles = []
    for photo, (truth, predicted, share, good) in zip(photos, captions, strict=True):
        if good:
            lines = _wrapped(f"{_YES} {predicted}{share}", side, fonts)
        else:
            first = fonts.fitted(f"{_NO} {predicted}", share, side, _TEXT)
            lines = first, fonts.fitted(f"truth: {truth}", "", side, _TEXT)
        tiles.append(_Tile(photo, lines, _RIGHT if good else _WRONG, framed=True))
    _write(path, tiles[:_MOST], side, fonts)


def _size(photos: Float32) -> int:
    """The side of a photo on the sheet: small ones grow by whole factors, so pixels stay square."""
    longest = max(photos.shape[2:])
    return longest * max(1, _SIDE // longest) if longest <= _SIDE else _SIDE


def _write(path: Path, tiles: list[_Tile], side: int, fonts: canvas.Fonts) -> None:
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // _COLUMNS)
    lines = max(len(tile.lines) for tile in tiles)
    across, down = side + _SPACE, side + _SPACE + lines * _LINE
    sheet = Image.new("RGB", (columns * across + _SPACE, rows * down + _SPACE), "white")
    places = [
        (_SPACE + number % _COLUMNS * across, _SPACE + number // _COLUMNS * down)
        for number in range(len(tiles))
    ]
    for tile, (left, top) in zip(tiles, places, strict=True):
        if tile.framed:
            box = (left - _FRAME, top - _FRAME, left + side + _FRAME - 1, top + side + _FRAME - 1)
            ImageDraw.Draw(sheet).rectangle(box, fill=tile.colour)
        photo = _picture(tile.photo, side)
        sheet.paste(photo, (left + (side - photo.width) // 2, top + (side - photo.height) // 2))
    with canvas.figure(path, sheet.width, sheet.height, fonts) as figure:
        canvas.image_at(figure, 0, 0, np.asarray(sheet))
        for tile, (left, top) in zip(tiles, places, strict=True):
            for line, text in enumerate(tile.lines):
                y = top + side + _FRAME + 5 + line * _LINE
                canvas.text_at(figure, left, y, fonts.escaped(text), _TEXT / 2, tile.colour)


def _picture(photo: Float32, side: int) -> Image.Image:
    pixels = np.rint(np.clip(np.nan_to_num(photo), 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    factor = side / max(image.size)
    size = round(image.width * factor), round(image.height * factor)
    return image.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)


def _wrapped(title: str, side: int, fonts: canvas.Fonts) -> tuple[str, ...]:
    """The title on at most two lines of this width, broken at a space where there is one."""
    title = printable_name(title)
    if fonts.width(title, _TEXT) <= side:
        return (title,)
    breaks = [at for at, c in enumerate(title) if c == " " and at]
    fit = [at for at in breaks if fonts.width(title[:at], _TEXT) <= side]
    if not fit:
        return (fonts.fitted(title, "", side, _TEXT),)
    return title[: fit[-1]], fonts.fitted(title[fit[-1] + 1 :], "", side, _TEXT)
