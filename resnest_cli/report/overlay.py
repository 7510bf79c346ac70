"""Heat over a photo, and the part of a photo that a network saw, as arrays of pixels."""

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from resnest_cli.report import canvas

Pixels = NDArray[np.uint8]

_STRONGEST = 0.72  # share of the colour where the heat is 1
_LINE = 2  # pixels


def overlaid(pixels: Pixels, heat: NDArray[np.float32], side: int, level: float) -> Pixels:
    """Heat (S, S) in [0, 1] over the network's input, uint8 (S, S, 3) -> uint8 (side, side, 3).

    The photo is paler, so that colour means heat; a white line goes along the heat of `level`.
    """
    photo = enlarged(pixels, side).astype(np.float32)
    grey = photo.mean(axis=2, keepdims=True)
    photo = 0.35 * photo + 0.65 * grey
    wide = Image.fromarray(heat.astype(np.float32))  # mode F
    large = np.asarray(wide.resize((side, side), Image.Resampling.BILINEAR)).clip(0, 1)
    colours = _colours()[np.rint(large * 255).astype(np.uint8)]  # (side, side, 3)
    share = _STRONGEST * np.sqrt(large)[..., None]
    mixed = (1 - share) * photo + share * colours
    mixed[_edge(large >= level)] = 255
    found: Pixels = np.rint(mixed).clip(0, 255).astype(np.uint8)
    return found


def _edge(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost places of what is inside."""
    core = np.pad(inside, _LINE, mode="edge")  # the picture's own edge is none
    kept = inside.copy()
    height, width = inside.shape
    for step in (-_LINE, _LINE):
        kept &= core[_LINE + step : _LINE + step + height, _LINE : _LINE + width]
        kept &= core[_LINE : _LINE + height, _LINE + step : _LINE + step + width]
    return inside & ~kept


@lru_cache(maxsize=1)
def _colours() -> NDArray[np.float32]:
    """Matplotlib's `inferno`, float32 (256, 3): lighter is hotter, for colour-blind readers too."""
    table = canvas.matplotlib().colormaps["inferno"](np.linspace(0, 1, 256))
    return np.asarray(255 * table[:, :3], np.float32)


def enlarged(pixels: Pixels, side: int) -> Pixels:
    """A square picture of another side; far fewer pixels stay squares, as the network sees them."""
    sharp = side >= 4 * len(pixels)
    how = Image.Resampling.NEAREST if sharp else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((side, side), how))


def windowed(preview: Pixels, window: tuple[float, float, float, float], side: int) -> Pixels:
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
    draw = ImageDraw.Draw(shown)
    for grown, colour in ((0, "#D55E00"), (1, "#D55E00")):
        edges = (left + grown, top + grown, right - 1 - grown, bottom - 1 - grown)
        if edges[0] < edges[2] and edges[1] < edges[3]:
            draw.rectangle(edges, outline=colour)
    return np.asarray(shown)


def cuts(window: tuple[float, float, float, float]) -> bool:
    """Whether the network sees less than the whole photo."""
    left, top, right, bottom = window
    return left > 0 or top > 0 or right < 1 or bottom < 1


def jpeg(pixels: Pixels, quality: int = 80) -> bytes:
    """A JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()
