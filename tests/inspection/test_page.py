"""From photos with planted faults to the page, the list, and a run that leaves them out."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli.inspection.issues import COLUMNS
from tests.conftest import Cli

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three colours; a red photo among the green, a copy, a file that is no photo."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for index in range(20):
            blobs = random.integers(-90, 90, (5, 6, 3)).repeat(10, 0).repeat(10, 1)
            pixels = np.clip(np.asarray(colour) + blobs, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    data = tmp_path / "data"
    (data / "red/0.png").rename(data / "green/stray.png")
    shutil.copy(data / "blue/1.png", data / "blue/=twin.png")
    (data / "blue/none.jpg").write_bytes(b"no photo")
    monkeypatch.chdir(tmp_path)
    return data


@pytest.mark.usefixtures("no_pictures")
def test_checked_looked_at_and_left_out(cli: Cli, data: Path, tmp_path: Path) -> None:
    done = cli("check", "data", "-o", "found", "--html", "page.html")
    assert done.code == 0, done.err
    with (tmp_path / "found/issues.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    label = {row["path"]: row["suggestion"] for row in rows if row["kind"] == "label"}
    assert label["green/stray.png"] == "red"
    page = (tmp_path / "page.html").read_text()
    assert "62 photos of 3 classes" in page
    assert ",".join(COLUMNS) in page
    assert page.count("data:image/jpeg") >= len(rows)
    assert "Rather red?" in page
    assert "leave out the left one" in page
    chosen = [row for row in rows if row["kind"] in {"label", "copy", "unreadable"}]
    planned = cli("finetune", "data", "-m", "demo", "--exclude", "found/issues.csv",
                  "--exclude-kinds", "labels,copy,unreadable", "--dry-run")  # fmt: skip
    assert planned.code == 0, planned.err
    assert f"{len({row['path'] for row in chosen})} photos left out: 1 unreadable, 1 copy, " in (
        planned.out
    )
    assert json.loads((tmp_path / "found/summary.json").read_text())["issues"]["copy"] == 1
