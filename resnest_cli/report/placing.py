"""Text and pictures at whole pixels of a figure, from its upper left corner."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resnest_cli.report import canvas, fonts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Place:
    """A figure of `width` x `height` pixels, and the fonts that its names need."""

    figure: "Figure"
    width: int
    height: int
    faces: tuple[fonts.Face, ...]

    def text(
        self, x: float, y: float, text: str, points: float, colour: str = canvas.INK, *,
        right: bool = False, middle: bool = False,
    ) -> None:  # fmt: skip
        """A line with its upper left corner there; its `right` end, or the `middle` of its height.

        A point is two pixels.
        """
        self.figure.text(
            x / self.width, 1 - y / self.height, fonts.escaped(text, self.faces), fontsize=points,
            ha="right" if right else "left", va="center" if middle else "top", color=colour,
        )  # fmt: skip

    def image(self, x: int, y: int, pixels: NDArray[np.uint8]) -> None:
        """A picture, uint8 (h, w, 3), pixel for pixel."""
        height, width = pixels.shape[:2]
        place = (x / self.width, 1 - (y + height) / self.height)
        axes = self.figure.add_axes((*place, width / self.width, height / self.height))
        axes.imshow(pixels, interpolation="nearest", aspect="auto")
        axes.set_axis_off()


def lines_of(text: str, width: float, points: float, faces: tuple[fonts.Face, ...]) -> list[str]:
    """The text in lines of at most `width` pixels, broken at spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and fonts.width(longer, 2 * points, faces) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
