"""Heat over photos, and strips of split attention: colours, places, and figures of every size."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from resnest_cli.explanation.pictures import (
    SIDE,
    Block,
    Panel,
    attention_figure,
    cuts,
    enlarged,
    heat_figure,
    overlaid,
    strip,
    windowed,
)

WHOLE = (0.0, 0.0, 1.0, 1.0)
MIDDLE = (0.25, 0.0, 0.75, 1.0)
BLUE, ORANGE, GREEN, PINK = (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)


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


@pytest.mark.parametrize(("count", "ending"), [(1, "png"), (3, "jpg"), (12, "png")])
def test_the_figure_of_heat(tmp_path: Path, drawn: list[Figure], count: int, ending: str) -> None:
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


def drawn_weights(radix: int, channels: int, seed: int = 0) -> np.ndarray:
    logits = 2 * np.random.default_rng(seed).standard_normal((radix, channels)).astype(np.float32)
    if radix == 1:
        return 1 / (1 + np.exp(-logits))
    shares = np.exp(logits)
    return shares / shares.sum(axis=0)


def test_two_splits() -> None:
    weights = np.array([[1, 0, 0.5001, 1], [0, 1, 0.4999, 0]], np.float32)
    row = strip(weights, 1, 400, 5)
    assert row.shape == (5, 400, 3)
    assert (row == row[0]).all()
    np.testing.assert_array_equal(row[0, 50], BLUE)
    np.testing.assert_array_equal(row[0, 150], BLUE)
    assert row[0, 250].min() > 200  # undecided: pale
    np.testing.assert_array_equal(row[0, 350], ORANGE)


def test_the_place_of_the_change_is_the_share() -> None:
    weights = drawn_weights(2, 640)
    row = strip(weights, 1, 640, 1)[0].astype(int)
    blue = row[:, 2] > row[:, 0]
    assert blue.mean() == (weights[0] > weights[1]).mean()
    assert (np.diff(blue.astype(int)) != 0).sum() == 1
    assert (np.diff(row[blue][:, 0]) >= 0).all()  # ever paler up to the change
    assert (np.diff(row[~blue][:, 2]) <= 0).all()


def test_four_splits_and_two_groups() -> None:
    weights = np.repeat(np.eye(4, dtype=np.float32), [2, 2, 2, 2], axis=1)
    one = strip(weights, 1, 80, 1)[0]
    for at, colour in enumerate((BLUE, ORANGE, GREEN, PINK)):
        np.testing.assert_array_equal(one[20 * at + 10], colour)
    two = strip(weights, 2, 86, 1)[0]
    np.testing.assert_array_equal(two[0], BLUE)  # the first group prefers splits 1 and 2
    np.testing.assert_array_equal(two[39], ORANGE)
    assert (two[40:46] == 255).all()
    np.testing.assert_array_equal(two[46], GREEN)
    np.testing.assert_array_equal(two[85], PINK)


def test_one_split_is_a_gate() -> None:
    row = strip(np.array([[0.0, 1.0]], np.float32), 1, 20, 1)[0]
    np.testing.assert_array_equal(row[0], BLUE)
    assert row[19].min() > 200


@pytest.mark.parametrize(
    ("blocks", "radix", "groups"),
    [((1, 2, 2, 1), 2, 1), ((3, 30, 48, 8), 2, 1), ((3, 4, 6, 3), 4, 2), ((3, 4, 6, 3), 1, 4)],
)
def test_figures_of_attention(
    tmp_path: Path, drawn: list[Figure], blocks: tuple[int, ...], radix: int, groups: int
) -> None:
    found = [
        Block(stage, block, groups, drawn_weights(radix, 32 * 2**stage, seed=block))
        for stage, count in enumerate(blocks, start=1)
        for block in range(1, count + 1)
    ]
    attention_figure(tmp_path / "attention.png", "собака.jpg", "resnest", found)
    with Image.open(tmp_path / "attention.png") as picture:
        assert picture.size[0] < 1300
        assert picture.size[1] < 2200
        small = np.asarray(picture.convert("RGB").resize((200, 200)))
        seen = len(np.unique(small.reshape(-1, 3), axis=0))
    assert seen > 100
    (figure,) = drawn
    assert len(figure.axes) == len(found) + radix  # strips, and a legend for each split
    words = [text.get_text() for text in figure.texts]
    assert sum(word.startswith("Stage ") for word in words) == 4
    assert sum(word.startswith("block ") for word in words) == len(found)
    assert words.count(f"{found[-1].strength:.2f}") >= 1
    if radix > 1:
        assert f"{found[-1].preferred[0]:.0%}" in words
        assert any(f"1/{radix}" in word for word in words)
    assert any("cardinal" in word for word in words) == (groups > 1)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    assert min(box.x0 for box in boxes) >= 0
    assert min(box.y0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.width
    for at, box in enumerate(boxes):  # nothing is written over anything else
        for other in boxes[at + 1 :]:
            apart = box.x1 <= other.x0 or other.x1 <= box.x0
            assert apart or box.y1 <= other.y0 + 4 or other.y1 <= box.y0 + 4
