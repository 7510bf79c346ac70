"""`pr_curves.png`: a line for each class, as the average precision adds it up."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from resnest_cli.report.pr_curves import PrCurve, pr_curves

RECALL, PRECISION = np.array([0.5, 0.5, 1.0, 1.0]), np.array([1.0, 0.5, 2 / 3, 0.5])


def test_the_area_below_a_line_is_the_average_precision(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    found = 0.5 + 0.5 * 2 / 3
    curve = PrCurve("$5 & \N{SNOWMAN}\n", RECALL, PRECISION, found, (1.0, 2 / 3))
    pr_curves(tmp_path / "x.png", [PrCurve("all together", RECALL, PRECISION), curve])
    (axes,) = drawn[0].axes
    line = axes.lines[0]
    assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(found)
    assert [float(*point.get_xdata()) for point in axes.lines if len(point.get_xdata()) == 1] == [1]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[0].startswith("$5 & ")
    assert "83.3%" in texts[0]
    assert texts[1:] == ["all together", "at the class's threshold"]


def test_of_many_classes_the_lowest_have_a_name(tmp_path: Path, drawn: list[Figure]) -> None:
    curves = [PrCurve(f"class {n}", RECALL, PRECISION, n / 40) for n in range(40)]
    pr_curves(tmp_path / "x.png", [PrCurve("all together", RECALL, PRECISION), *curves[::-1]])
    legend = drawn[0].axes[0].get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[0] == "class 0: 0.0%"
    assert texts[-1] == "the 32 better classes"
    assert legend.get_window_extent().x1 <= drawn[0].bbox.x1
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (1440, 1000)
