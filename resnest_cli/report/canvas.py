"""matplotlib as the plots use it: Agg, its own default style, files that appear whole.

Neither pyplot nor a display is involved, so that a plot can be drawn anywhere, and the user's
matplotlibrc changes nothing.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from resnest_cli.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 144  # a point is two pixels
INK, FAINT, GRID = "#222222", "#777777", "#e3e3e3"


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


@contextmanager
def figure(
    path: Path, width: int, height: int, families: Sequence[str] = ("DejaVu Sans",)
) -> Iterator["Figure"]:
    """A figure of so many pixels, to be drawn in the body; written to `path` after it.

    As JPEG where the name ends so, else as PNG.

    Raises:
        OSError: it cannot be written.
    """
    matplotlib()
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(["default", _settings(families)]):
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
