"""`resnest evaluate`: figures that are predict's own, files, calibration, comparison, bad input."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import read_info
from tests.conftest import CLASSES, Cli, make_photo

COUNT = 6  # photos of a class


@pytest.fixture
def own(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copy(tiny_checkpoint, tmp_path / "own.safetensors"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Photos of all classes but the last, and one that cannot be read."""
    for place, name in enumerate(CLASSES[:-1]):
        for index in range(COUNT):
            path = tmp_path / "data" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_photo(path, (60, 50), seed=10 * place + index)
    (tmp_path / "data" / CLASSES[0] / "bad.jpg").write_bytes(b"\xff\xd8 no photo")
    return tmp_path / "data"


def figures(cli: Cli, *arguments: object) -> dict:
    result = cli("evaluate", *arguments, "--format", "json")
    assert result.code in {0, 3}, result.err
    found: dict = json.loads(result.out)
    return found


def test_top1_is_that_of_predicts_records(cli: Cli, data: Path, own: Path) -> None:
    found = figures(cli, data, "-m", own)
    shown = cli("predict", data, "-m", own, "--format", "jsonl")
    assert shown.code == 3
    records = [json.loads(line) for line in shown.out.splitlines()]
    good = [record for record in records if record["status"] == "ok"]
    names = [Path(record["input"]).parent.name for record in good]
    right = [r["predictions"][0]["label"] == name for r, name in zip(good, names, strict=True)]
    among = [
        name in {p["label"] for p in record["predictions"]}
        for record, name in zip(good, names, strict=True)
    ]
    assert {one["input"] for one in found["worst"]} <= {record["input"] for record in good}
    assert found["photos"] == len(good) == COUNT * (len(CLASSES) - 1)
    assert found["unreadable"] == 1
    assert found["top1"] == sum(right) / len(right)
    assert all(among)  # five classes
    assert found["top5"] is None
    assert found["top1_interval"][0] < found["top1"] < found["top1_interval"][1]
    assert [one["label"] for one in found["classes"]] == list(CLASSES)
    assert [one["support"] for one in found["classes"]] == [COUNT] * (len(CLASSES) - 1) + [0]


def test_engines_agree(cli: Cli, data: Path, own: Path) -> None:
    one, two = (figures(cli, data, "-m", own, "--engine", e) for e in ("onnx", "torch"))
    assert one["top1"] == two["top1"]
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)


def test_as_a_table_within_80_columns(
    cli: Cli, data: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = cli("evaluate", data, "-m", own)
    assert result.code == 3
    head, *lines = result.out.splitlines()
    assert head == f"{own}: 24 photos of 4 classes"
    assert max(map(len, lines)) <= 80
    found = figures(cli, data, "-m", own)
    assert f"{found['top1']:.2%}" in result.out
    assert "The hardest classes" in result.out
    assert "1 of 25 photos could not be read" in result.err


def test_files(cli: Cli, data: Path, own: Path, tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    found = figures(cli, data, "-m", own, "-o", folder)
    assert json.loads((folder / "metrics.json").read_text()) == found
    with (folder / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(CLASSES)
    assert rows[-1]["recall"] == ""
    with (folder / "confusion.csv").open() as file:
        head, *matrix = list(csv.reader(file))
    assert head[1:] == list(CLASSES)
    counts = np.array([row[1:] for row in matrix], int)
    assert counts.sum() == found["photos"]
    assert np.trace(counts) / counts.sum() == found["top1"]
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert len(records) == found["photos"] + 1
    assert sum(record["right"] is True for record in records) / found["photos"] == found["top1"]
    assert [record["right"] for record in records].count(None) == 1
    for name in ("confusion_matrix.png", "reliability.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 300


def test_the_page(cli: Cli, data: Path, own: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = figures(cli, data, "-m", own, "--html", page)
    text = page.read_text(encoding="utf-8")
    assert text.count('<li class="card ') == found["photos"] + 1
    assert text.count('<li class="card right"') == round(found["top1"] * found["photos"])
    assert text.count('<li class="card error"') == 1
    assert f"{found['top1']:.2%}" in text
    assert re.search(r"Model: .*own.safetensors.* pixels, crop", text)
    assert text.count("data:image/png") >= 2
    assert text.count("data:image/jpeg") == found["photos"]
    assert "://" not in re.sub(r"data:image/[a-z]+;base64,[^\"]*", "", text)
    refused = cli("evaluate", data, "-m", own, "--html", data / "cat" / "0.png")
    assert refused.code == 2
    assert "photos are never written to" in refused.err


def test_predicts_page(cli: Cli, data: Path, own: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = cli("predict", data, "-m", own, "--html", page, "--reject-below", "0.9")
    assert result.code == 3
    assert "Page written to" in result.err
    text = page.read_text(encoding="utf-8")
    assert text.count('<li class="card ') == 25
    assert 'value="unsure"' in text
    assert "bad.jpg" in text
    assert cli("predict", data, "-m", own, "--html", tmp_path).code == 1


def test_files_are_whole_when_the_reader_of_stdout_has_gone(
    data: Path, own: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "resnest_cli", "evaluate", str(data), "-m", str(own)]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*command, "-o", str(tmp_path / "eval"), "--html", str(tmp_path / "page.html")],
            stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert done.returncode == 141, done.stderr
    assert (tmp_path / "eval" / "records.jsonl").stat().st_size > 0
    assert (tmp_path / "page.html").stat().st_size > 0


def test_calibrate(cli: Cli, data: Path, own: Path) -> None:
    photo = data / CLASSES[1] / "2.png"
    before = checkpoint.load(own)
    logits = Classifier(str(own)).logits(str(photo))[0].astype(float)
    found = figures(cli, data, "-m", own, "--calibrate")
    record = found["calibrated"]
    temperature = record["temperature"]
    assert temperature != 1
    assert record["loss_after"] < record["loss_before"]
    assert record["loss_before"] == pytest.approx(found["loss"])
    assert read_info(own).temperature == temperature
    after = checkpoint.load(own)
    assert all((before.tensors[name] == after.tensors[name]).all() for name in before.tensors)
    assert after.info.class_names == before.info.class_names
    again = figures(cli, data, "-m", own)
    assert again["temperature"] == temperature
    assert again["loss"] == pytest.approx(record["loss_after"])
    assert again["ece"] == pytest.approx(record["ece_after"])
    assert again["top1"] == found["top1"]
    shown = json.loads(cli("predict", photo, "-m", own, "--format", "json").out)
    expected = np.exp(logits / temperature)
    expected /= expected.sum()
    for one in shown["predictions"]:
        assert one["probability"] == pytest.approx(expected[one["index"]], rel=1e-4)
    rows = Classifier(str(own)).features([str(photo)], head="probabilities")
    np.testing.assert_allclose(rows[0], expected, rtol=1e-4)
    # The temperature is not that of other classes.
    second = figures(cli, data, "-m", own, "--calibrate")["calibrated"]
    assert second["temperature"] == pytest.approx(temperature, rel=1e-6)


def test_calibrate_needs_a_checkpoint_of_ours(cli: Cli, data: Path) -> None:
    result = cli("evaluate", data, "-m", "resnest14d", "--offline", "--calibrate")
    assert result.code == 2
    assert "--calibrate writes into a checkpoint of ours" in result.err


def test_compare(cli: Cli, data: Path, own: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(own)
    loaded.tensors["fc.weight"].neg_()
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, loaded.tensors, loaded.info)
    found = figures(cli, data, "-m", own, "--compare", other)["comparison"]
    theirs = figures(cli, data, "-m", other)
    assert found["top1"] == theirs["top1"]
    assert found["mended_count"] == len(found["mended"])
    assert found["photos"] * (found["top1"] - found["this_top1"]) == pytest.approx(
        found["mended_count"] - found["broken_count"]
    )
    assert 0 < found["p_value"] <= 1
    for one in found["mended"]:
        assert one["truth"] == one["other"] != one["this"]
    shown = cli("evaluate", data, "-m", own, "--compare", other).out
    assert "exact McNemar test" in shown
    assert figures(cli, data, "-m", own, "--compare", own)["comparison"]["p_value"] == 1


@pytest.mark.usefixtures("no_pictures")
def test_the_validation_side_is_taken(cli: Cli, data: Path, own: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    for place, name in enumerate(CLASSES[:-1]):
        for side, count in (("train", 3), ("val", 2)):
            (split / side / name).mkdir(parents=True)
            for index in range(count):
                make_photo(split / side / name / f"{index}.png", (50, 50), seed=place + index)
    for side, photos in (("auto", 8), ("val", 8), ("train", 12), ("all", 20)):
        assert figures(cli, split, "-m", own, "--split", side)["photos"] == photos
    refused = cli("evaluate", data, "-m", own, "--split", "val")
    assert refused.code == 2
    assert "has no split" in refused.err


def test_bad_input(cli: Cli, data: Path, own: Path, tmp_path: Path) -> None:
    (data / "zebra").mkdir()
    make_photo(data / "zebra" / "1.png", (50, 50), seed=1)
    unknown = cli("evaluate", data, "-m", own)
    assert unknown.code == 2
    assert "no class 'zebra'" in unknown.err
    known = cli("evaluate", data, "-m", own, "--known-only")
    assert known.code == 3
    assert "1 photo of 1 class left out" in known.err
    misspelt = cli("evaluate", data, "-m", own, "--known-only", "--compare", "resnest50x")
    assert misspelt.code == 2
    assert "Did you mean resnest50" in misspelt.err
    assert misspelt.out == ""
    missing = cli("evaluate", tmp_path / "none", "-m", own)
    assert missing.code == 2
    file = tmp_path / "file"
    file.touch()
    assert "Give -o a folder" in cli("evaluate", data, "-m", own, "-o", file).err
    only_bad = tmp_path / "only_bad"
    (only_bad / CLASSES[0]).mkdir(parents=True)
    (only_bad / CLASSES[0] / "1.jpg").write_bytes(b"no")
    failed = cli("evaluate", only_bad, "-m", own)
    assert failed.code == 1
    assert "none of 1 photo can be read" in failed.err


def test_unsure_answers(cli: Cli, data: Path, own: Path) -> None:
    photos = sorted(data.rglob("*.png"))[:3]
    plain = cli("predict", *photos, "-m", own, "--format", "jsonl")
    records = [json.loads(line) for line in plain.out.splitlines()]
    assert all("unsure" not in record for record in records)
    sure = sorted(record["predictions"][0]["probability"] for record in records)
    limit = (sure[0] + sure[1]) / 2
    result = cli("predict", *photos, "-m", own, "--format", "jsonl", "--reject-below", str(limit))
    found = [json.loads(line) for line in result.out.splitlines()]
    assert sorted(record.pop("unsure") for record in found) == [False, False, True]
    assert found == records
    shown = cli("predict", *photos, "-m", own, "--reject-below", str(limit)).out
    assert shown.count("\nunsure\n") == 1
    lines = cli("predict", data, "-m", own, "--reject-below", str(limit), "--format", "csv").out
    rows = list(csv.DictReader(lines.splitlines()))
    assert {row["unsure"] for row in rows} >= {"true", "false", ""}
