"""`confusion_matrix.png`: the right cells in the right colours, legible names, few or many."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from resnest_cli.report import canvas
from resnest_cli.report.confusion_matrix import _TOP, _layout, _shown, confusion_matrix
from resnest_cli.text import shortened


def names_of(count: int) -> list[str]:
    return [f"class {index}" for index in range(count)]


def random_matrix(count: int, per_class: int = 50) -> NDArray[np.int64]:
    generator = np.random.default_rng(0)
    matrix = np.zeros((count, count), np.int64)
    for label in range(count):
        wrong = generator.integers(0, count, generator.integers(1, 10))
        np.add.at(matrix[label], wrong, 1)
        matrix[label, label] += per_class - len(wrong)
    return matrix


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def colour(path: Path, names: list[str], row: int, column: int) -> tuple[int, int, int]:
    """The colour of a cell, beside its centre, where its count may stand."""
    layout = _layout(names, canvas.fonts_for(names))
    at = layout.cell * np.array([column, row]) + layout.cell // 8 + 1
    with Image.open(path) as image:
        pixel = image.convert("RGB").getpixel((int(layout.left + at[0]), int(_TOP + at[1])))
    assert isinstance(pixel, tuple)
    red, green, blue = map(int, pixel)
    return red, green, blue


def is_blue(rgb: tuple[int, int, int]) -> bool:
    return rgb[2] > rgb[0] + 30


def is_orange(rgb: tuple[int, int, int]) -> bool:
    return rgb[0] > rgb[2] + 30


@pytest.mark.parametrize("count", [2, 20, 40])
def test_cells_have_their_colours_and_names_are_legible(
    tmp_path: Path, drawn: list[Figure], count: int
) -> None:
    path, names = tmp_path / "matrix.png", names_of(count)
    names[0] = "a very long name that would take all the room there is, and more"
    matrix = random_matrix(count)
    matrix[[0, -1]] = 0
    matrix[0, 0], matrix[0, -1], matrix[-1, -1] = 49, 1, 50  # row: the truth
    confusion_matrix(path, matrix, names)
    names = [shortened(name, 24) for name in names]
    assert is_blue(colour(path, names, 0, 0))
    assert is_blue(colour(path, names, count - 1, count - 1))
    assert is_orange(colour(path, names, 0, count - 1))
    assert colour(path, names, count - 1, 0) == (255, 255, 255)
    figure = drawn[0]
    for axes in filter(lambda axes: axes.axison, figure.axes):
        for labels, side in ((axes.get_yticklabels(), "y"), (axes.get_xticklabels(), "x")):
            boxes = [label.get_window_extent() for label in labels if label.get_text()]
            for box in boxes:
                assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
                assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
            centres = [(box.x0 + box.x1) / 2 if side == "x" else (box.y0 + box.y1) / 2
                       for box in boxes]  # fmt: skip
            assert all(abs(after - before) >= 10 for before, after in pairwise(centres))
    for text in figure.texts:
        assert text.get_window_extent().x1 <= figure.bbox.x1
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == names


def test_counts_recalls_and_totals(tmp_path: Path, drawn: list[Figure]) -> None:
    matrix = np.array([[8, 2, 0], [0, 0, 0], [1, 0, 4]])
    confusion_matrix(tmp_path / "matrix.png", matrix, ["cat", "dog", "fox"])
    found = texts(drawn[0])
    assert "12 of 15 photos right (80.00%), mean recall 80.00%" in found
    assert [text for text in found if text in {"8", "2", "1", "4"}] == ["8", "2", "1", "4"]
    assert "no photos" in found
    assert found.count("80.0%") == 2
    grey = colour(tmp_path / "matrix.png", ["cat", "dog", "fox"], 1, 1)
    assert grey == colour(tmp_path / "matrix.png", ["cat", "dog", "fox"], 1, 0) == (217, 217, 217)


def test_no_photos_at_all(tmp_path: Path, drawn: list[Figure]) -> None:
    confusion_matrix(tmp_path / "matrix.png", np.zeros((40, 40), np.int64), names_of(40))
    found = texts(drawn[0])
    assert "no photos" in found
    assert not [text for text in found if "mistakes" in text]


def test_many_classes_list_the_worst(tmp_path: Path, drawn: list[Figure]) -> None:
    matrix = 50 * np.eye(100, dtype=np.int64)
    matrix[7, 7], matrix[7, 9] = 20, 30
    matrix[3, 3], matrix[3, 4] = 45, 5
    confusion_matrix(tmp_path / "matrix.png", matrix, names_of(100))
    found = texts(drawn[0])
    worst = found.index("Lowest recall")
    assert found[worst + 1 : worst + 3] == [
        "class 7: 40.0% (20 of 50)", "class 3: 90.0% (45 of 50)",
    ]  # fmt: skip
    mistakes = next(i for i, text in enumerate(found) if text.startswith("Commonest mistakes"))
    assert found[mistakes + 1 : mistakes + 3] == [
        "class 7 → class 9: 30 of 50", "class 3 → class 4: 5 of 50",
    ]  # fmt: skip
    assert len([text for text in found if "→" in text]) == 3


def test_of_many_classes_those_with_mistakes_are_shown(tmp_path: Path, drawn: list[Figure]) -> None:
    """Alike ones side by side, shares and recalls of all photos; and all of them in small."""
    matrix = 50 * np.eye(900, dtype=np.int64)
    matrix[7, 7], matrix[7, 800] = 20, 30
    matrix[3, 3], matrix[3, 400] = 45, 5
    matrix[400, 400], matrix[400, 7] = 49, 1
    shown = _shown(matrix)
    assert shown == [800, 7, 400, 3]
    confusion_matrix(path := tmp_path / "matrix.png", matrix, names_of(900))
    names = [f"class {index}" for index in shown]
    figure = drawn[0]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    assert "Confusion matrix: the 4 classes taken for each other most" in texts(figure)
    assert "40.0%" in texts(figure)
    assert is_orange(colour(path, names, 1, 0))
    assert is_blue(colour(path, names, 1, 1))
    (small,) = (axes for axes in figure.axes if axes.get_title("left").startswith("all 900"))
    cells = np.asarray(small.get_images()[0].get_array())  # three classes in one
    assert cells.shape == (300, 300, 4)
    assert cells[1, 133, 2] < cells[1, 133, 0]  # orange
    assert (cells[5, 5, :3] < [0.2, 0.4, 0.7]).all()  # blue


def test_without_a_mistake_the_first_classes_are_shown(drawn: list[Figure], tmp_path: Path) -> None:
    confusion_matrix(tmp_path / "matrix.png", np.eye(50, dtype=np.int64), names_of(50))
    assert len(drawn[0].axes[0].get_yticklabels()) == 30
    assert "Confusion matrix: the first 30 classes" in texts(drawn[0])


def test_no_more_classes_than_can_be_read() -> None:
    shown = _shown(random_matrix(300))
    assert 29 <= len(set(shown)) == len(shown) <= 30


def test_odd_names(tmp_path: Path, drawn: list[Figure], only_dejavu: None) -> None:
    """Dollars are no formula; what no font draws has its number; nothing warns."""
    names = ["$5 bill$", "狗", "кошка", "a\x1b[31m\nb", r"\frac{1}", "_[bold]",
             "caf\udce9"]  # fmt: skip
    confusion_matrix(tmp_path / "matrix.png", random_matrix(7), names)
    shown = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert shown == ["$5 bill$", "#1", "кошка", r"a\x1b[31m\nb", r"\frac{1}", "_[bold]",
                     r"caf\xe9"]  # fmt: skip
    assert [text for text in texts(drawn[0]) if text.startswith("#n: class n")]


def test_the_matrix_must_fit_the_names(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        confusion_matrix(tmp_path / "matrix.png", random_matrix(3), ["cat", "dog"])
