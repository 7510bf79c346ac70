"""`train_batch.jpg` and `val_predictions.jpg`: sheets of photos as the network sees them.

They show at a glance what goes wrong most often: labels that do not belong to their photos, and
augmentation that leaves nothing to recognise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resnest_cli.files import atomic_file
from resnest_cli.output.messages import printable_name
from resnest_cli.report import fonts

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from PIL.ImageDraw import ImageDraw

Float32 = NDArray[np.float32]

_MOST, _COLUMNS = 16, 4
_SIDE = 224  # of a photo on the sheet, about
_SPACE, _FRAME, _TEXT = 14, 4, 15
_LINE = _TEXT + 6
_INK, _RIGHT, _WRONG = "#222222", "#1a7f37", "#c62828"
_YES, _NO = "\N{CHECK MARK}", "\N{BALLOT X}"


@dataclass(frozen=True, slots=True)
class _Tile:
    photo: Float32
    lines: tuple[str, ...]
    colour: str
    framed: bool


def train_batch(path: Path, photos: Float32, titles: Sequence[str]) -> None:
    """A sheet of augmented photos with their labels below; the first 16 are shown.

    `photos` are float32 (B, 3, H, W) in [0, 1], not normalised; `titles` may be as long as
    "cat 0.7 + dog 0.3" or longer and take up to two lines.

    Raises:
        OSError: the file cannot be written.
    """
    faces = fonts.faces_for(titles)
    side = _size(photos)
    tiles = [
        _Tile(photo, _wrapped(title, side, faces), _INK, framed=False)
        for photo, title in zip(photos, titles, strict=True)
    ]
    _write(path, tiles[:_MOST], side, faces)


def val_predictions(
    path: Path,
    photos: Float32,
    truths: Sequence[str],
    predictions: Sequence[str],
    probabilities: Sequence[float],
    right: Sequence[bool] | None = None,
) -> None:
    """A sheet of validation photos: prediction and probability, and the truth where they differ.

    `photos` as for `train_batch`. A right prediction has a green frame and a check mark, a wrong
    one a red frame and a cross. `right` says which is which, needed where two classes have one
    name; by default equal names are right.

    Raises:
        OSError: the file cannot be written.
    """
    faces = fonts.faces_for([*truths, *predictions])
    side = _size(photos)
    if right is None:
        right = [truth == predicted for truth, predicted in zip(truths, predictions, strict=True)]
    captions = zip(truths, predictions, probabilities, right, strict=True)
    tiles = []
    for photo, (truth, predicted, probability, good) in zip(photos, captions, strict=True):
        if good:
            lines = _wrapped(f"{_YES} {predicted} {probability:.0%}", side, faces)
        else:
            first = _fitting(f"{_NO} {predicted}", f" {probability:.0%}", side, faces)
            lines = first, _fitting(f"truth: {truth}", "", side, faces)
        tiles.append(_Tile(photo, lines, _RIGHT if good else _WRONG, framed=True))
    _write(path, tiles[:_MOST], side, faces)


def _size(photos: Float32) -> int:
    """The side of a photo on the sheet: small ones grow by whole factors, so pixels stay square."""
    longest = max(photos.shape[2:])
    return longest * max(1, _SIDE // longest) if longest <= _SIDE else _SIDE


def _write(path: Path, tiles: list[_Tile], side: int, faces: tuple[fonts.Face, ...]) -> None:
    from PIL import Image, ImageDraw

    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // _COLUMNS)
    lines = max(len(tile.lines) for tile in tiles)
    across, down = side + _SPACE, side + _SPACE + lines * _LINE
    sheet = Image.new("RGB", (columns * across + _SPACE, rows * down + _SPACE), "white")
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        left = _SPACE + number % _COLUMNS * across
        top = _SPACE + number // _COLUMNS * down
        if tile.framed:
            box = (left - _FRAME, top - _FRAME, left + side + _FRAME - 1, top + side + _FRAME - 1)
            draw.rectangle(box, fill=tile.colour)
        photo = _picture(tile.photo, side)
        sheet.paste(photo, (left + (side - photo.width) // 2, top + (side - photo.height) // 2))
        for line, text in enumerate(tile.lines):
            _text(draw, (left, top + side + _FRAME + 2 + line * _LINE), text, tile.colour, faces)
    with atomic_file(path) as file:
        # No chroma subsampling: it smears coloured letters.
        sheet.save(file, format="JPEG", quality=92, subsampling=0)


def _picture(photo: Float32, side: int) -> "PilImage":
    from PIL import Image

    pixels = np.rint(np.clip(np.nan_to_num(photo), 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    factor = side / max(image.size)
    size = round(image.width * factor), round(image.height * factor)
    return image.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)


def _text(draw: "ImageDraw", at: tuple[float, float], text: str, colour: str,
          faces: tuple[fonts.Face, ...]) -> None:  # fmt: skip
    x, y = at
    for piece, face in fonts.runs(text, faces):
        font = fonts.font(face.file, _TEXT)
        # Fonts are aligned at their baselines.
        draw.text((x, y + _TEXT), piece, fill=colour, font=font, anchor="ls")
        x += font.getlength(piece)


def _wrapped(title: str, side: int, faces: tuple[fonts.Face, ...]) -> tuple[str, ...]:
    """The title on at most two lines of this width, broken at a space where there is one."""
    title = printable_name(title)
    if fonts.width(title, _TEXT, faces) <= side:
        return (title,)
    breaks = [at for at, c in enumerate(title) if c == " " and at]
    fit = [at for at in breaks if fonts.width(title[:at], _TEXT, faces) <= side]
    if not fit:
        return (_fitting(title, "", side, faces),)
    return title[: fit[-1]], _fitting(title[fit[-1] + 1 :], "", side, faces)


def _fitting(text: str, tail: str, side: int, faces: tuple[fonts.Face, ...]) -> str:
    """The text, its middle left out where it is too wide, and then the tail."""
    return fonts.fitted(text, tail, side, _TEXT, faces)
