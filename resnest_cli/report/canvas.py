"""matplotlib as the plots use it: Agg, its own default style, files that appear whole.

Neither pyplot nor a display is involved, so that a plot can be drawn anywhere, and the user's
matplotlibrc changes nothing. A figure's sizes are pixels.

matplotlib takes each glyph from the first font of a list that has it. The list is made here: DejaVu
Sans, which comes with matplotlib and draws Latin, Greek, Cyrillic, Arabic, Hebrew and many signs,
and then those fonts of this machine that draw what it cannot. What none draws is escaped:
matplotlib would draw a box for it, and warn.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.files import atomic_file
from resnest_cli.text import printable_name, shortened, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]

DPI = 144  # a point is two pixels
INK, FAINT, GRID = "#222222", "#777777", "#e3e3e3"
# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"

# Fonts that have a glyph for every character, and it says nothing, or that Agg cannot draw.
_USELESS = ("LastResort", "Last Resort", "Emoji", "Unicode BMP Fallback", "Adobe Blank")


def matplotlib() -> ModuleType:
    """The library, imported on first use; a backend named in the environment is ignored.

    A notebook names its own in MPLBACKEND, which commands started from it inherit, and matplotlib
    refuses to be imported where that package is missing.
    """
    # It logs about its caches and fonts; none of that concerns the user of a run.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    return matplotlib


# Fonts


@dataclass(frozen=True, slots=True)
class Fonts:
    """Families, the first that has a glyph draws it, and the characters that none has."""

    families: tuple[str, ...] = ("DejaVu Sans",)
    missing: frozenset[str] = frozenset()

    def draw(self, name: str) -> bool:
        """Whether they draw all of the name."""
        return not self.missing & set(printable_name(name))

    def escaped(self, text: str) -> str:
        """The text on one line, with escapes for what they do not draw."""
        return "".join(ascii(c)[1:-1] if c in self.missing else c for c in printable_name(text))

    def width(self, text: str, size: float) -> float:
        """How many pixels wide a text is that is drawn `size` pixels high."""
        from matplotlib.font_manager import FontProperties

        font = FontProperties(family=list(self.families), size=72 * size / DPI)
        width, _, _ = _renderer().get_text_width_height_descent(self.escaped(text), font, False)
        return float(width)

    def fitted(self, text: str, tail: str, most: float, size: float) -> str:
        """The text, its middle left out where it is wider than `most` pixels, and then the tail."""
        text = printable_name(text)
        short, letters = text, len(text)
        while letters > 3 and self.width(short + tail, size) > most:
            letters -= 1
            short = shortened(text, letters)
        return short + tail

    def lines(self, text: str, most: float, size: float) -> list[str]:
        """The text in lines of at most `most` pixels, broken at spaces."""
        return wrapped(text, most, lambda line: self.width(line, size))


def fonts_for(texts: Iterable[str]) -> Fonts:
    """The fonts that these texts need, as few as do."""
    return _fonts(frozenset().union(*map(set, map(printable_name, texts))))


@lru_cache(maxsize=8)
def _fonts(characters: frozenset[str]) -> Fonts:
    matplotlib()
    families, missing = ["DejaVu Sans"], set(map(ord, characters))
    for family, file in _candidates():
        if not missing:
            break
        drawn = missing & _characters(file)
        missing -= drawn
        if drawn and family not in families:
            families.append(family)
    return Fonts(tuple(families), frozenset(map(chr, missing)))


def _candidates() -> list[tuple[str, str]]:
    """(family, file): DejaVu Sans, then the fonts of this machine, upright sans-serif ones of
    normal weight first. Source: matplotlib's list of fonts, which it keeps in a cache of its own.
    """
    from matplotlib import get_data_path
    from matplotlib.font_manager import fontManager

    usable = [e for e in fontManager.ttflist if not any(name in e.name for name in _USELESS)]
    usable.sort(
        key=lambda e: (e.style != "normal", "Sans" not in e.name, e.weight != 400, e.name, e.fname)
    )
    own = str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    return [("DejaVu Sans", own), *((entry.name, entry.fname) for entry in usable)]


@lru_cache(maxsize=64)
def _characters(file: str) -> frozenset[int]:
    """The code points that a font draws."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):  # a font that FreeType cannot read
        return frozenset()


@lru_cache(maxsize=1)
def _renderer() -> Any:
    """Measures text."""
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)  # type: ignore[no-untyped-call]


# Figures


@contextmanager
def figure(path: Path, width: int, height: int, fonts: Fonts | None = None) -> Iterator["Figure"]:
    """A figure of so many pixels, to be drawn in the body; written to `path` after it.

    As JPEG where the name ends so, else as PNG.
    """
    matplotlib()
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(["default", _settings((fonts or Fonts()).families)]):
        drawn = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        FigureCanvasAgg(drawn)
        yield drawn
        with atomic_file(path) as file:
            if path.suffix.lower() in {".jpg", ".jpeg"}:
                # No chroma subsampling: it smears coloured letters.
                options = {"quality": 92, "subsampling": 0}
                drawn.savefig(file, format="jpeg", dpi=DPI, pil_kwargs=options)
            else:
                drawn.savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def _settings(families: Sequence[str]) -> dict[str, Any]:
    return {
        "font.family": list(families),
        "font.size": 9,
        "text.parse_math": False,  # a class may be called "$1 bill" or "$5"
        "text.color": INK,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.use_mathtext": False,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
    }


def axes_at(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes at a place in pixels from the figure's upper left corner: what is in them stays whole
    pixels.
    """
    full_width, full_height = figure.get_size_inches() * figure.dpi
    place = (left / full_width, 1 - (top + height) / full_height)
    axes = figure.add_axes((*place, width / full_width, height / full_height))
    axes.grid(visible=False)
    return axes


def image_at(figure: "Figure", x: float, y: float, pixels: Pixels) -> None:
    """A picture, uint8 (h, w, 3), pixel for pixel, with its upper left corner there."""
    height, width = pixels.shape[:2]
    axes = axes_at(figure, x, y, width, height)
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def text_at(
    figure: "Figure", x: float, y: float, text: str, points: float, colour: str = INK, *,
    right: bool = False, middle: bool = False, weight: str = "normal",
) -> None:  # fmt: skip
    """A line with its upper left corner there; its `right` end, or the `middle` of its height."""
    width, height = figure.get_size_inches() * figure.dpi
    figure.text(
        x / width, 1 - y / height, text, fontsize=points, color=colour, weight=weight,
        ha="right" if right else "left", va="center" if middle else "top",
    )  # fmt: skip
