"""Heat over photos: colours where it is hot, a line around it, the window, and the figure."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from resnest_cli.report.heat import SIDE, Panel, heat_figure
from resnest_cli.report.overlay import cuts, enlarged, overlaid, windowed

WHOLE = (0.0, 0.0, 1.0, 1.0)
MIDDLE = (0.25, 0.0, 0.75, 1.0)


def saturation(pixels: np.ndarray) -> np.ndarray:
    wide = pixels.astype(int)
    return wide.max(axis=-1) - wide.min(axis=-1)


def test_colour_is_where_the_heat_is() -> None:
    grey = np.full((40, 40, 3), 100, np.uint8)
    heat = np.zeros((40, 40), np.float32)
    heat[10:20, 24:36] = 1
    found = overlaid(grey, heat, 80, 0.5)
    colour = saturation(found)
    assert colour[25:35, 54:66].min() > 60
    assert colour[:15].max() == 0
    assert colour[:, :40].max() == 0
    np.testing.assert_array_equal(found[0, 0], 100)  # what is cold stays as it is
    line = (found == 255).all(axis=-1)
    ys, xs = np.nonzero(line)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == pytest.approx((20, 39, 48, 71), abs=1)
    assert not line[24:36, 54:66].any()
    nothing = overlaid(grey, np.zeros((40, 40), np.float32), 80, 0.5)
    assert (nothing == 100).all()


def test_few_pixels_stay_squares_and_many_are_smooth() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(enlarged(pixels, 480), pixels.repeat(10, 0).repeat(10, 1))
    assert enlarged(pixels, 96).shape == (96, 96, 3)


def test_what_the_network_did_not_see_is_dimmed() -> None:
    photo = np.full((60, 120, 3), 80, np.uint8)
    assert (windowed(photo, WHOLE, 120) == 80).all()
    assert not cuts(WHOLE)
    assert not cuts((0, -0.5, 1, 1.5))  # padded
    shown = windowed(photo, MIDDLE, 240)
    assert shown.shape == (120, 240, 3)
    assert (shown[10:110, 65:175] == 80).all()
    assert shown[10:110, :55].min() > 120
    assert shown[10:110, 185:].min() > 120
    assert saturation(shown[60, 60]) > 100  # the frame
    assert saturation(shown[60, 179]) > 100


@pytest.mark.parametrize("size", [(1, 900), (900, 1), (1, 1)])
@pytest.mark.parametrize("window", [WHOLE, (0.0, 0.4995, 1.0, 0.5005), (0.4995, 0.0, 0.5005, 1.0)])
def test_strips(size: tuple[int, int], window: tuple[float, float, float, float]) -> None:
    shown = windowed(np.zeros((*size, 3), np.uint8), window, SIDE)
    assert max(shown.shape) == SIDE
    assert min(shown.shape[:2]) >= 1


@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_the_figure(tmp_path: Path, drawn: list[Figure], count: int, ending: str) -> None:
    tile = np.full((SIDE, SIDE, 3), 60, np.uint8)
    names = ["$1 bill", "собака", "a" * 90, "[x]", "кот"] * 3
    panels = [Panel(name, 0.1234, tile, empty=not at) for at, name in enumerate(names[:count])]
    path = tmp_path / f"heat.{ending}"
    heat_figure(path, "photos/" + "x" * 300 + ".jpg", tile[:100], MIDDLE, panels, "By a test.")
    with Image.open(path) as picture:
        assert picture.format == {"png": "PNG", "jpg": "JPEG"}[ending]
        assert picture.size[0] == 48 + min(4, count + 1) * (SIDE + 18) - 18
        assert picture.size[1] < 200 + (count // 4 + 1) * (SIDE + 110)
    (figure,) = drawn
    words = [text.get_text() for text in figure.texts]
    assert "$1 bill" in words
    assert "12.34%, nothing speaks for it" in words
    assert any("By a test." in text or text.endswith("test.") for text in words)
    assert any("Orange frame" in text for text in words)
    assert len(figure.axes) == count + 1
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for text in figure.texts:
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y0 >= 0
