"""`heat.png`: a photo, and beside it where a network looked for each of several classes.

All sizes are pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnest_cli.report import canvas, fonts
from resnest_cli.report.overlay import Pixels, cuts
from resnest_cli.report.placing import Place, lines_of

SIDE = 360  # of a photo
_ACROSS = 4  # photos in a row
_MARGIN, _GAP, _HEAD, _CAPTION, _FOOT, _LINE = 24, 18, 56, 54, 24, 22
_TEXT, _SMALL = 9, 8  # points; a point is two pixels


@dataclass(frozen=True, slots=True)
class Panel:
    """One class: its name, how probable it is, its heat over the photo, uint8 (SIDE, SIDE, 3).

    `empty` says that nothing in the photo speaks for it.
    """

    label: str
    probability: float
    pixels: Pixels
    empty: bool = False


def heat_figure(
    path: Path,
    name: str,
    photo: Pixels,
    window: tuple[float, float, float, float],
    panels: Sequence[Panel],
    how: str,
) -> None:
    """Draws the photo, uint8 (h, w, 3) with the `window` that was seen, and a panel a class.

    `name` is what the photo is called; `how` says in a sentence or two what the heat is.

    Raises:
        OSError: the file cannot be written.
    """
    faces = fonts.faces_for([name, how, *(panel.label for panel in panels)])
    columns = min(_ACROSS, len(panels) + 1)
    rows = -(-(len(panels) + 1) // _ACROSS)
    width = 2 * _MARGIN + columns * (SIDE + _GAP) - _GAP
    text = f"{_legend(window, several=len(panels) > 1)} {how}"
    notes = lines_of(text, width - 2 * _MARGIN, _SMALL, faces)
    row = _CAPTION + SIDE + _GAP
    height = _HEAD + rows * row + _FOOT + len(notes) * _LINE
    with canvas.figure(path, width, height, [face.family for face in faces]) as figure:
        place = Place(figure, width, height, faces)
        place.text(_MARGIN, 18, fonts.fitted(name, "", width - 2 * _MARGIN, 22, faces), 11)
        _photo(place, 0, "the photo", "with what the network saw" if cuts(window) else "", photo)
        for number, panel in enumerate(panels, start=1):
            tail = ", nothing speaks for it" if panel.empty else ""
            below = f"{panel.probability:.2%}{tail}"
            _photo(place, number, panel.label, below, panel.pixels)
        for line, note in enumerate(notes):
            place.text(_MARGIN, _HEAD + rows * row + line * _LINE, note, _SMALL, canvas.FAINT)


def _photo(place: Place, number: int, name: str, below: str, pixels: Pixels) -> None:
    """A photo of the grid, in the middle of its field, with two lines above."""
    row, column = divmod(number, _ACROSS)
    x, y = _MARGIN + column * (SIDE + _GAP), _HEAD + row * (_CAPTION + SIDE + _GAP)
    place.text(x, y, fonts.fitted(name, "", SIDE, 2 * _TEXT, place.faces), _TEXT)
    place.text(x, y + 25, below, _SMALL, canvas.FAINT)
    height, width = pixels.shape[:2]
    place.image(x + (SIDE - width) // 2, y + _CAPTION + (SIDE - height) // 2, pixels)


def _legend(window: tuple[float, float, float, float], *, several: bool) -> str:
    seen = "Orange frame: what the network saw of the photo. " if cuts(window) else ""
    scale = " Each map has its own scale." if several else ""
    return (
        f"{seen}The lighter and the more yellow a place, the more it speaks for the class; "
        f"the white line goes where it is half the most.{scale}"
    )
