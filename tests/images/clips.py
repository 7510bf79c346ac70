"""Clips and animations that tests make for themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT, RATE = 64, 48, 10


def colour(number: int) -> tuple[int, int, int]:
    """Of the frame of this number; far from that of its neighbours."""
    return (number * 37) % 256, (number * 91 + 60) % 256, (number * 151 + 120) % 256


def animation(path: Path, count: int = 6, **how: Any) -> Path:
    """An animation, or a TIFF of several pages, by the extension."""
    first, *rest = (Image.new("RGB", (40, 30), colour(number)) for number in range(count))
    first.save(path, save_all=True, append_images=rest, **how)
    return path


def clip(path: Path, count: int = 30, codec: str = "mpeg4", **options: str) -> Path:
    """A clip of ten frames a second, the left half of each white, its contents in front."""
    av = pytest.importorskip("av")
    front = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=front) as out:
        stream = out.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(count):
            pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
            pixels[:] = colour(number)
            pixels[:, : WIDTH // 2] = 255
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
    return path


def turned(path: Path, matrix: tuple[int, ...]) -> Path:
    """An .mp4 whose track is shown turned, by the four numbers of its matrix."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    for index, number in zip((0, 1, 3, 4), matrix, strict=True):
        start = place + 4 * index
        data[start : start + 4] = (number << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path
