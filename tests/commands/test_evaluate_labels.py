"""`resnest evaluate` where a photo may have several labels: files, page, calibration, bad input."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from resnest_cli import Classifier
from resnest_cli.inference.ranking import sigmoid
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import read_info
from resnest_cli.model.resnest import build
from tests.conftest import Cli, make_photo
from tests.networks import TINY, enliven

NAMES = ("blue", "green", "red")
COUNT = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint whose three probabilities lie on both sides of their thresholds,
    and a table of photos, some of which it has right; one of them cannot be read.
    """
    folder = tmp_path_factory.mktemp("made")
    rows = [["path", "labels"], ["bad.jpg", "red"]]
    (folder / "bad.jpg").write_bytes(b"\xff\xd8 no photo")
    paths = [make_photo(folder / f"{n}.png", (48, 48), seed=n) for n in range(COUNT)]
    network, model = enliven(build(TINY, num_classes=3)), folder / "model.safetensors"
    info = checkpoint.CheckpointInfo(variant=TINY, class_names=NAMES, thresholds=(0.5, 0.5, 0.5))
    checkpoint.save(model, network, info)
    logits = Classifier(model).logits([str(path) for path in paths])
    limits = np.quantile(logits, 0.5, axis=0)
    info = replace(info, thresholds=tuple(sigmoid(limits.astype(np.float32)).tolist()))
    checkpoint.save(model, network, info)
    random = np.random.default_rng(0)
    noisy = logits + random.normal(0, logits.std(axis=0), logits.shape)
    for path, row in zip(paths, noisy > limits, strict=True):
        rows.append([path.name, "|".join(np.array(NAMES)[row])])
    with (folder / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The table, in a copy of the folder, which is the present one."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return Path("photos.csv")


@pytest.fixture
def model(data: Path) -> Path:
    return Path("model.safetensors")


def figures(cli: Cli, *arguments: object) -> dict[str, Any]:
    result = cli("evaluate", *arguments, "--format", "json")
    assert result.code in {0, 3}, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def truth_of(data: Path) -> np.ndarray:
    with data.open(newline="") as file:
        rows = list(csv.DictReader(file))[1:]
    return np.array([[name in row["labels"].split("|") for name in NAMES] for row in rows])


def test_figures_and_files(cli: Cli, data: Path, model: Path) -> None:
    result = cli("evaluate", data, "-m", model, "-o", "eval", "--html", "page.html")
    assert result.code == 3
    assert max(map(len, result.out.splitlines()[1:])) <= 80
    found = json.loads(Path("eval/metrics.json").read_text())
    truth = truth_of(data)
    rows = Classifier(model).features([f"{n}.png" for n in range(COUNT)], head="probabilities")
    given = rows >= np.array(read_info(model).thresholds)
    assert found["map"] == pytest.approx(metrics.average_precision_score(truth, rows), abs=1e-9)
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(truth, given, average="micro"))
    assert f"{found['map']:.2%}" in result.out
    for text in ("Given by mistake most often", "The worst photos"):
        assert text in result.out
    with Path("eval/classes.csv").open() as file:
        classes = list(csv.DictReader(file))
    assert [int(one["support"]) for one in classes] == truth.sum(axis=0).tolist()
    assert float(classes[0]["average_precision_low"]) <= float(classes[0]["average_precision_high"])
    with Path("eval/confusion.csv").open() as file:
        counts = np.array([row[1:] for row in list(csv.reader(file))[1:]], int)
    assert counts.diagonal().tolist() == (truth & given).sum(axis=0).tolist()
    assert counts[0, 1] == (truth[:, 0] & given[:, 1] & ~truth[:, 1]).sum()
    records = [json.loads(line) for line in Path("eval/records.jsonl").read_text().splitlines()]
    right = [one["right"] for one in records]
    assert right == [None, *(truth == given).all(axis=1).tolist()]
    assert [one["label"] for one in records[1]["truth"]] == list(np.array(NAMES)[truth[0]])
    for name in ("pr_curves.png", "reliability.png"):
        with Image.open(f"eval/{name}") as picture:
            assert min(picture.size) > 300
    assert not Path("eval/confusion_matrix.png").exists()
    text = Path("page.html").read_text(encoding="utf-8")
    assert text.count('<li class="card ') == COUNT + 1
    assert text.count('<li class="card right"') == sum(map(bool, right))
    assert text.count("label selected") == given.sum()
    assert "wrong: it has no label" in text


def test_calibration_moves_thresholds(cli: Cli, data: Path, model: Path) -> None:
    before = figures(cli, data, "-m", model, "--calibrate")
    kept = before["calibrated"]
    assert kept["loss_after"] < kept["loss_before"] == pytest.approx(before["loss"])
    info = read_info(model)
    assert (info.temperature, info.format_version) == (kept["temperature"], 2)
    after = figures(cli, data, "-m", model)
    assert (after["loss"], after["ece"]) == pytest.approx((kept["loss_after"], kept["ece_after"]))
    for key in ("map", "micro_f1", "exact_match", "confusions"):
        assert after[key] == before[key]
    assert [c["threshold"] for c in after["classes"]] != [c["threshold"] for c in before["classes"]]
    shown = cli("evaluate", data, "-m", model, "--calibrate").out
    assert "Thresholds move with it" in shown


def test_wanted_precision(cli: Cli, data: Path, model: Path) -> None:
    kept = figures(cli, data, "-m", model, "--calibrate", "--min-precision", "0.8")["calibrated"]
    assert read_info(model).thresholds == tuple(kept["thresholds"])
    after = figures(cli, data, "-m", model)
    known = [one["precision"] for one in after["classes"] if one["precision"] is not None]
    assert known
    assert min(known) >= 0.8
    alone = cli("evaluate", data, "-m", model, "--min-precision", "0.8")
    assert (alone.code, alone.out) == (2, "")
    assert "--min-precision goes with --calibrate" in alone.err


def test_two_models(cli: Cli, data: Path, model: Path, tiny_checkpoint: Path) -> None:
    loaded = checkpoint.load(model)
    loaded.tensors["fc.weight"].neg_()
    checkpoint.save(Path("other.safetensors"), loaded.tensors, loaded.info)
    found = figures(cli, data, "-m", model, "--compare", "other.safetensors")["comparison"]
    assert found["map"] == figures(cli, data, "-m", "other.safetensors")["map"]
    shown = cli("evaluate", data, "-m", model, "--compare", "other.safetensors").out
    assert "of the 3 classes that both know" in " ".join(shown.split())
    other = cli("evaluate", data, "-m", model, "--compare", tiny_checkpoint)
    assert other.code == 2
    assert "mAP" in other.out  # the first one's figures are not lost
    assert "Their figures cannot be compared" in " ".join(other.err.split())


def test_one_label_and_several(cli: Cli, data: Path, model: Path, tiny_checkpoint: Path) -> None:
    refused = cli("evaluate", data, "-m", tiny_checkpoint)
    assert refused.code == 2
    assert "gives a photo one" in " ".join(refused.err.split())
    Path("one.csv").write_text("path,label\n0.png,red\n1.png,blue\n2.png,green\n")
    understood = cli("evaluate", "one.csv", "-m", model)
    assert understood.code == 0
    assert "may give it several" in " ".join(understood.err.split())
    assert "mAP" in understood.out
    one = cli("evaluate", "one.csv", "-m", tiny_checkpoint, "--calibrate", "--min-precision", "0.5")
    assert one.code == 2
    assert "by no threshold" in one.err
    strange = cli("evaluate", data, "-m", model, "--unknown-data", ".")
    assert strange.code == 1
    assert "not known of such models" in strange.err


def test_copies_in_folders_are_one_photo(cli: Cli, data: Path, model: Path) -> None:
    for name, photos in (("red", (0, 1)), ("blue", (0, 2))):
        Path("folders", name).mkdir(parents=True)
        for number in photos:
            shutil.copy(f"{number}.png", f"folders/{name}/copy{number}.png")
    assert figures(cli, "folders", "-m", model)["photos"] == 4
    found = figures(cli, "folders", "-m", model, "--multi-label")
    assert found["photos"] == 3
    assert [one["support"] for one in found["classes"]] == [2, 0, 2]


def test_classes_that_the_model_does_not_know(cli: Cli, data: Path, model: Path) -> None:
    Path("more.csv").write_text("path,labels\n0.png,red|sea\n1.png,sea\n2.png,\n3.png,red\n")
    unknown = cli("evaluate", "more.csv", "-m", model)
    assert unknown.code == 2
    assert "no class 'sea'" in unknown.err
    known = cli("evaluate", "more.csv", "-m", model, "--known-only", "--format", "json")
    assert json.loads(known.out)["photos"] == 3  # without the one that has nothing else
    assert "1 photo of 1 class left out" in " ".join(known.err.split())
    Path("none.csv").write_text("path,labels\n0.png,\n1.png,\n")
    nothing = cli("evaluate", "none.csv", "-m", model, "--multi-label")
    assert nothing.code == 2
    assert "no photo of a class that the model knows" in " ".join(nothing.err.split())
