"""Sheets of photos: every photo in its place, right and wrong told apart, captions that fit."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from resnest_cli.report import canvas, sheets
from resnest_cli.report.sheets import train_batch, val_predictions

RED, GREEN = np.array([198, 40, 40]), np.array([26, 127, 55])


def plain_photos(count: int, side: int = 64) -> sheets.Float32:
    """Each photo of one colour, all different: float32 (count, 3, side, side)."""
    colours = np.stack([np.linspace(0, 1, count), np.linspace(1, 0, count), np.full(count, 0.5)], 1)
    return np.broadcast_to(colours[:, :, None, None], (count, 3, side, side)).astype(np.float32)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "JPEG"
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize(("count", "shape"), [(1, (241, 220)), (4, (241, 838)), (16, (922, 838)),
                                             (20, (922, 838))])  # fmt: skip
def test_up_to_sixteen_photos_in_order(tmp_path: Path, count: int, shape: tuple[int, int]) -> None:
    photos = plain_photos(count)
    train_batch(path := tmp_path / "sheet.jpg", photos, [f"class {i}" for i in range(count)])
    sheet = pixels(path)
    assert sheet.shape[:2] == shape
    for index in range(min(count, 16)):
        top, left = 14 + index // 4 * 227, 14 + index % 4 * 206
        tile = sheet[top + 16 : top + 176, left + 16 : left + 176]  # inside of JPEG's blocks
        assert np.abs(tile - 255 * photos[index, :, 0, 0]).max() <= 6
        caption = sheet[top + 196 : top + 219, left : left + 192]
        assert caption.min() < 100  # there are letters


def test_small_photos_keep_their_pixels_and_large_ones_shrink(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for side, expected in ((8, 224), (64, 192), (200, 200), (224, 224), (320, 224)):
        photos = generator.random((2, 3, side, side), np.float32)
        photos[0, :, 0, 0] = [np.nan, 7.0, -1.0]  # clipped, without a warning
        train_batch(path := tmp_path / "sheet.jpg", photos, ["a", "b"])
        assert pixels(path).shape[1] == 2 * expected + 3 * 14
        if side == 8:
            tile = pixels(path)[14 + 28 + 4 : 14 + 2 * 28 - 4, 14 + 4 : 14 + 28 - 4]
            assert np.abs(tile - 255 * photos[0, :, 1, 0]).max() <= 12


def test_right_is_green_and_wrong_is_red(tmp_path: Path) -> None:
    photos = plain_photos(3)
    val_predictions(
        path := tmp_path / "sheet.jpg", photos, ["cat", "dog", "crane"],
        ["cat", "cat", "crane"], [0.9, 0.8, 0.7], [True, False, False],
    )  # fmt: skip
    frames = [pixels(path)[100, 14 + index * 206 - 2] for index in range(3)]
    assert [np.abs(frame - GREEN).max() < 30 for frame in frames] == [True, False, False]
    assert [np.abs(frame - RED).max() < 30 for frame in frames] == [False, True, True]
    val_predictions(path, photos, ["cat", "dog", "crane"], ["cat", "cat", "crane"], [1, 1, 1])
    assert np.abs(pixels(path)[100, 14 + 2 * 206 - 2] - GREEN).max() < 30


def test_captions(tmp_path: Path, drawn: list[Figure], only_dejavu: None) -> None:
    photos = plain_photos(5)
    long = "a name of many words that goes on and on without any end to it"
    train_batch(tmp_path / "a.jpg", photos, ["cat", "cat 0.7 + wire-haired fox terrier 0.3", long,
                                             "x" * 99, "a\nb\x1b"])  # fmt: skip
    fonts = canvas.fonts_for(["x"])
    written = [text.get_text() for text in drawn[0].texts]
    assert written == [
        "cat", "cat 0.7 + wire-haired fox", "terrier 0.3", "a name of many words", written[4],
        written[5], r"a\nb\x1b",
    ]  # fmt: skip
    assert "…" in written[4]
    assert "…" in written[5]
    assert all(fonts.width(text, 15) <= 192 for text in written)
    val_predictions(tmp_path / "b.jpg", photos[:2], ["cat", long], ["cat", "x" * 99], [0.999, 0.5])
    assert [text.get_color() for text in drawn[1].texts] == ["#1a7f37", "#c62828", "#c62828"]
    right, wrong, truth = (text.get_text() for text in drawn[1].texts)
    assert right == "✓ cat 100%"
    assert wrong.startswith("✗ xxx")
    assert wrong.endswith("xxx 50%")
    assert truth.startswith("truth: a na")
    assert all(fonts.width(text, 15) <= 192 for text in (right, wrong, truth))


def test_letters_without_a_font_are_escaped_and_nothing_is_left_behind(tmp_path: Path) -> None:
    train_batch(
        path := tmp_path / "sheet.jpg", plain_photos(2), ["狗 0.5 + \N{DOG FACE} 0.5", "🦊"]
    )
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="No such file"):
        train_batch(tmp_path / "gone" / "sheet.jpg", plain_photos(1), ["a"])
