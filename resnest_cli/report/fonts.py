"""Which fonts can draw the class names, and what stands for names that none can draw.

DejaVu Sans, which comes with matplotlib, draws the Latin, Greek, Cyrillic, Arabic and Hebrew
scripts and many signs. Other scripts need a font of this machine; where it has none, matplotlib
would draw empty boxes and warn about each.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.output.messages import printable_name
from resnest_cli.report import canvas

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

# Fonts that have a glyph for every character, and it says nothing, or that Agg cannot draw.
_USELESS = ("LastResort", "Last Resort", "Emoji", "Unicode BMP Fallback", "Adobe Blank")


@dataclass(frozen=True, slots=True)
class Face:
    """A font file: its family as matplotlib calls it, and the code points that it draws."""

    family: str
    file: str
    characters: frozenset[int] = field(repr=False)


def faces_for(names: Iterable[str]) -> tuple[Face, ...]:
    """DejaVu Sans, then the fonts of this machine that draw what it cannot; as few as do."""
    return _faces(frozenset().union(*map(set, map(printable_name, names))))


@lru_cache(maxsize=8)
def _faces(characters: frozenset[str]) -> tuple[Face, ...]:
    found = [_dejavu()]
    missing = set(map(ord, characters)) - found[0].characters
    for family, file in _candidates() if missing else ():
        drawn = _characters(file)
        if drawn & missing:
            found.append(Face(family, file, drawn))
            missing -= drawn
        if not missing:
            break
    return tuple(found)


def drawable(name: str, faces: Iterable[Face]) -> bool:
    """Whether these fonts can draw all of the name."""
    return set(map(ord, printable_name(name))) <= frozenset().union(*(f.characters for f in faces))


def shortened(name: str, most: int) -> str:
    """The name in at most so many characters; the middle goes, names may differ at either end."""
    name = printable_name(name)
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def runs(text: str, faces: tuple[Face, ...]) -> Iterator[tuple[str, Face]]:
    """The text in pieces that one font draws; a character that none draws is escaped."""
    pieces: list[tuple[str, Face]] = []
    for character in text:
        able = [face for face in faces if ord(character) in face.characters]
        last = pieces[-1][1] if pieces else None
        # A run goes on in its font where it can: scripts are shaped within a run.
        face = last if last in able else (able or faces)[0]
        assert face is not None
        shown = character if able else ascii(character)[1:-1]
        if face is last:
            pieces[-1] = pieces[-1][0] + shown, face
        else:
            pieces.append((shown, face))
    yield from pieces


def escaped(text: str, faces: tuple[Face, ...]) -> str:
    """The text on one line, with escapes for what none of the fonts draws."""
    return "".join(piece for piece, _ in runs(printable_name(text), faces))


def fitted(text: str, tail: str, most: float, size: float, faces: tuple[Face, ...]) -> str:
    """The text, its middle left out where it is wider than `most` pixels, and then the tail."""
    text = printable_name(text)
    short, letters = text, len(text)
    while letters > 3 and width(short + tail, size, faces) > most:
        letters -= 1
        short = shortened(text, letters)
    return short + tail


@lru_cache(maxsize=1)
def _dejavu() -> Face:
    file = str(Path(canvas.matplotlib().get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    return Face("DejaVu Sans", file, _characters(file))


@lru_cache(maxsize=64)
def _characters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):  # a font that FreeType cannot read
        return frozenset()


def _candidates() -> list[tuple[str, str]]:
    """(family, file) of the fonts on this machine, upright sans-serif ones of normal weight first.

    Source: matplotlib's list of fonts, which it keeps in a cache of its own.
    """
    from matplotlib.font_manager import fontManager

    usable = [e for e in fontManager.ttflist if not any(name in e.name for name in _USELESS)]
    usable.sort(
        key=lambda e: (e.style != "normal", "Sans" not in e.name, e.weight != 400, e.name, e.fname)
    )
    return [(entry.name, entry.fname) for entry in usable]


def width(text: str, size: float, faces: tuple[Face, ...]) -> float:
    """How wide a text is when drawn `size` pixels high."""
    return sum(font(face.file, size).getlength(piece) for piece, face in runs(text, faces))


@lru_cache(maxsize=32)
def font(file: str, size: float) -> "FreeTypeFont":
    """A font for PIL, of `size` pixels."""
    from PIL import ImageFont

    return ImageFont.truetype(file, size)
