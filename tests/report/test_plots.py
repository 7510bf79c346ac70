"""`curves.png`: every curve is there, the best epoch is marked, nothing needs a display."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from resnest_cli.report import canvas, plots
from tests.report.rows import ROW, as_dicts, history, without_ema


def curves_of(figure: Figure) -> list[dict[str, list[float]]]:
    """For each panel its curves by name, without the vertical line of the best epoch."""
    return [
        {str(line.get_label()): list(line.get_ydata()) for line in axes.lines
         if not str(line.get_label()).startswith("_")}
        for axes in figure.axes
    ]  # fmt: skip


@pytest.mark.parametrize("epochs", [1, 2, 8, 270])
def test_every_value_is_on_a_curve(tmp_path: Path, drawn: list[Figure], epochs: int) -> None:
    rows = history(epochs)
    plots.curves(tmp_path / "curves.png", as_dicts(rows))
    loss, accuracy, rate = curves_of(drawn[0])
    assert loss == {
        "training": [row.train_loss for row in rows],
        "validation": [row.val_loss for row in rows],
        "validation, EMA": [row.ema_loss for row in rows],
    }
    best = accuracy.pop(f"best: 60.00%\n(EMA, epoch {epochs})")
    assert best == [pytest.approx(60.0)]
    assert accuracy == {
        "top-1": [100 * row.top1 for row in rows],
        "top-1, EMA": [100 * (row.ema_top1 or 0) for row in rows],
        "top-5": [90.0] * epochs,
        "top-5, EMA": [92.0] * epochs,
    }
    assert rate == {"learning rate": [row.lr for row in rows]}
    for axes in drawn[0].axes:
        low, high = axes.get_xlim()
        assert low <= 1 <= epochs <= high
        assert all(tick == round(tick) for tick in axes.get_xticks())


def test_all_of_the_figure_is_on_the_picture(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.curves(path := tmp_path / "curves.png", as_dicts(history(270)))
    with Image.open(path) as image:
        assert image.size == (1440, 1300)
    box = drawn[0].bbox
    for axes in drawn[0].axes:
        legend = axes.get_legend()
        for artist in [axes.yaxis.label, *([legend] if legend else [])]:
            extent = artist.get_window_extent()
            assert extent.x0 >= box.x0
            assert extent.x1 <= box.x1


def test_what_is_not_measured_is_not_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [without_ema(row) for row in history(3)]
    rows[0] = replace(rows[0], val_loss=math.nan)
    rows[1] = replace(rows[1], best=True)
    rows[2] = replace(rows[2], best=False)
    plots.curves(tmp_path / "curves.png", as_dicts(rows))
    loss, accuracy, _ = curves_of(drawn[0])
    assert set(loss) == {"training", "validation"}
    assert set(accuracy) == {"top-1", "best: 33.33%\n(epoch 2)"}


def test_losses_over_a_wide_range_have_a_log_scale(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.curves(tmp_path / "a.png", as_dicts(history(5)))
    plots.curves(tmp_path / "b.png", as_dicts([ROW, replace(ROW, epoch=2, train_loss=0.01)]))
    assert [figure.axes[0].get_yscale() for figure in drawn] == ["linear", "log"]
    assert drawn[1].axes[0].get_ylabel() == "loss (log scale)"


def test_an_older_picture_survives_a_failed_one(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    plots.curves(path, as_dicts(history(2)))
    before = path.read_bytes()

    def fail() -> None:
        with canvas.figure(path, 100, 100):
            raise RuntimeError("sprockets")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="No such file"):
        plots.curves(tmp_path / "gone" / "curves.png", as_dicts(history(2)))


def test_no_display_no_notebook_no_settings_of_the_user(tmp_path: Path) -> None:
    """A notebook's MPLBACKEND, whose package is missing, neither stops us nor is it changed."""
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 40\ntext.usetex: True\n")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from resnest_cli.report import plots\n"
        "from tests.report.rows import as_dicts, history\n"
        "plots.curves(Path(sys.argv[1]), as_dicts(history(3)))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "print(os.environ['MPLBACKEND'])"
    )
    backend = "module://nowhere.backend_inline"
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    environment |= {"MPLBACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path),
                    "MATPLOTLIBRC": str(tmp_path)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "there.png")],
        capture_output=True, text=True, check=False, timeout=60, env=environment,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout == f"{backend}\n"
    plots.curves(tmp_path / "here.png", as_dicts(history(3)))
    with Image.open(tmp_path / "here.png") as here, Image.open(tmp_path / "there.png") as there:
        assert here.tobytes() == there.tobytes()
