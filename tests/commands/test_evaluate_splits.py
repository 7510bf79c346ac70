"""`resnest evaluate` says which photos it judges: of which split, and whether trained on."""

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import read_info
from resnest_cli.model.resnest import build
from resnest_cli.model.training_photos import TrainingPhotos
from tests.conftest import CLASSES, Cli, make_photo
from tests.networks import TINY, enliven

COUNT = 8  # photos of a class
ALL = COUNT * len(CLASSES)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight photos of each class."""
    for place, name in enumerate(CLASSES):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(COUNT):
            seed = 10 * place + index
            make_photo(tmp_path / "data" / name / f"{index}.png", (50, 50), seed=seed)
    return tmp_path / "data"


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_checkpoint, tmp_path / "model.safetensors"))


def photos(data: Path, *indices: int) -> list[Path]:
    return [data / name / f"{index}.png" for name in CLASSES for index in indices]


def trained_on(model: Path, photos: Iterable[Path], name: str = "trained.safetensors") -> Path:
    """The same network, which has learned from these photos."""
    known = TrainingPhotos.of(hashlib.sha256(photo.read_bytes()).digest() for photo in photos)
    loaded, path = checkpoint.load(model), model.parent / name
    checkpoint.save(path, loaded.tensors, replace(loaded.info, trained_on=known))
    return path


def figures(cli: Cli, *arguments: object) -> dict[str, Any]:
    result = cli("evaluate", *arguments, "--format", "json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


OVERALL = ("top1", "loss", "mean_recall", "mean_f1", "ece")


def test_photos_trained_on_are_left_out_of_the_first_figures(
    cli: Cli, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    own = trained_on(model, photos(data, 0, 1, 2, 3, 4))
    for photo in photos(data, 2):  # a copy under another name is the same photo
        photo.rename(photo.with_name("moved.png"))
    rest = tmp_path / "rest"
    for photo in photos(data, 5, 6, 7):
        (rest / photo.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, rest / photo.parent.name / photo.name)
    found, expected = figures(cli, data, "-m", own), figures(cli, rest, "-m", model)
    every = figures(cli, data, "-m", model)
    assert (found["trained_on"], found["photos"]) == (25, 15)
    assert [found[key] for key in OVERALL] == pytest.approx([expected[key] for key in OVERALL])
    assert found["all"]["photos"] == ALL
    assert [found["all"][key] for key in OVERALL] == pytest.approx([every[key] for key in OVERALL])
    assert found["trained"] is None
    assert sum(one["support"] for one in found["classes"]) == 15
    shown = cli("evaluate", data, "-m", own)
    assert shown.out.startswith(f"{own}: 15 photos of 5 classes, none of them trained on\n")
    assert f"With the 25 photos that it was trained on: top-1 {every['top1']:.2%}" in shown.out
    assert "was trained on 25 of the 40 photos" in shown.err
    assert max(map(len, shown.out.splitlines()[1:])) <= 80


@pytest.mark.parametrize(
    ("indices", "known"), [((), None), ((100,), 0), (range(COUNT), ALL), ((0,), len(CLASSES))]
)
def test_what_is_known_of_training(
    cli: Cli, data: Path, model: Path, indices: tuple[int, ...], known: int | None
) -> None:
    if 100 in indices:  # photos that are not here
        for photo in photos(data, 100):
            make_photo(photo, seed=999)
    own = trained_on(model, photos(data, *indices))
    for photo in photos(data, 100):
        photo.unlink(missing_ok=True)
    result = cli("evaluate", data, "-m", own, "--format", "json")
    found = json.loads(result.out)
    assert found["trained_on"] == known
    assert ("does not say which photos it was trained on" in result.err) == (known is None)
    assert (found["trained"] is not None) == (known == ALL)
    assert (found["all"] is not None) == (known == len(CLASSES))
    if known == ALL:  # no figure under a name that promises more
        assert all(found[key] is None for key in OVERALL)
        assert found["trained"]["top1"] == figures(cli, data, "-m", model)["top1"]
        assert "was trained on all of the 40 readable photos" in result.err
        shown = cli("evaluate", data, "-m", own).out
        assert "all of them trained on" in shown
        assert re.search(r"^top-1, trained on +\d", shown, re.MULTILINE)
    else:
        assert found["top1"] is not None


def test_files_and_pages_say_the_same(cli: Cli, data: Path, model: Path, tmp_path: Path) -> None:
    own = trained_on(model, photos(data, 0, 1))
    (data / CLASSES[0] / "bad.jpg").write_bytes(b"\xff\xd8 no photo")
    folder, page = tmp_path / "eval", tmp_path / "eval" / "page.html"
    result = cli("evaluate", data, "-m", own, "-o", folder, "--html", page, "--format", "json")
    assert result.code == 3
    assert "1 of 41 photos could not be read" in result.err
    found = json.loads(result.out)
    assert found == json.loads((folder / "metrics.json").read_text())
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [one["trained_on"] for one in records].count(True) == 10
    assert [one["trained_on"] for one in records].count(False) == 30
    assert [one["trained_on"] for one in records].count(None) == 1
    with (folder / "classes.csv").open() as file:
        assert {row["support"] for row in csv.DictReader(file)} == {"6"}
    text = page.read_text(encoding="utf-8")
    assert "30 photos of 5 classes, none of them trained on; 1 could not be read" in text
    assert "With the 10 photos that it was trained on: top-1" in text
    assert text.count('<li class="card ') == 31
    cli("evaluate", data, "-m", model, "-o", folder)
    lines = (folder / "records.jsonl").read_text().splitlines()
    assert {json.loads(line)["trained_on"] for line in lines} == {None}


def test_a_temperature_is_fitted_on_none_of_them(
    cli: Cli, data: Path, model: Path, tmp_path: Path
) -> None:
    own = trained_on(model, photos(data, 0, 1, 2, 3))
    rest = tmp_path / "rest"
    for photo in photos(data, 4, 5, 6, 7):
        (rest / photo.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, rest / photo.parent.name / photo.name)
    expected = figures(cli, rest, "-m", model, "--calibrate")["calibrated"]
    found = figures(cli, data, "-m", own, "--calibrate")["calibrated"]
    assert found["photos"] == expected["photos"] == 20
    assert found["temperature"] == pytest.approx(expected["temperature"], rel=1e-6)
    assert (
        read_info(own).trained_on
        == read_info(trained_on(model, photos(data, 0, 1, 2, 3), "x")).trained_on
    )
    few = trained_on(model, photos(data, 0, 1, 2, 3, 4), "few.safetensors")
    before = few.read_bytes()
    refused = cli("evaluate", data, "-m", few, "--calibrate", "--format", "json")
    assert refused.code == 1
    assert "needs 20 photos, and there are 15 beside the 25 that it was trained on" in refused.err
    assert json.loads(refused.out)["photos"] == 15  # what was done is told
    assert few.read_bytes() == before


def test_models_are_compared_on_what_neither_learned(cli: Cli, data: Path, model: Path) -> None:
    one = trained_on(model, photos(data, 0, 1), "one.safetensors")
    two = trained_on(model, photos(data, 1, 2), "two.safetensors")
    found = figures(cli, data, "-m", one, "--compare", two)["comparison"]
    assert (found["photos"], found["trained_on"]) == (25, 15)
    assert "Without 15 photos that one of" in cli("evaluate", data, "-m", one, "--compare", two).out
    three = trained_on(model, photos(data, *range(2, COUNT)), "three.safetensors")
    result = cli("evaluate", data, "-m", one, "--compare", three)
    assert "All are 40 photos that one of the two was trained on" in result.out


SIDES = {
    "val and test": ("train", "val", "test"),
    "test alone": ("train", "test"),
    "train alone": ("train",),
}


@pytest.mark.parametrize(
    ("case", "asked", "judged"),
    [
        ("val and test", "auto", "val"), ("val and test", "test", "test"),
        ("val and test", "train", "train"), ("val and test", "all", "all"),
        ("test alone", "auto", "test"), ("test alone", "val", None),
        ("train alone", "auto", "train"), ("train alone", "test", None),
    ],
)  # fmt: skip
def test_which_split_is_judged(
    cli: Cli, data: Path, model: Path, tmp_path: Path, case: str, asked: str, judged: str | None
) -> None:
    """As a run's `split.csv` has them; a folder's sides are the same to `evaluate`."""
    sides, path = SIDES[case], tmp_path / "split.csv"
    write_split(path, data, {index: sides[index % len(sides)] for index in range(COUNT)})
    result = cli("evaluate", path, "-m", model, "--split", asked, "--format", "json")
    if judged is None:
        assert result.code == 2
        assert (
            f"--split {asked}: {path} has {', '.join(sorted(sides))}, but no {asked}" in result.err
        )
        return
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["split"] == judged
    places = range(COUNT) if judged == "all" else range(sides.index(judged), COUNT, len(sides))
    assert found["photos"] == len(CLASSES) * len(places)
    shown = cli("evaluate", path, "-m", model, "--split", asked).out.splitlines()[0]
    assert shown.endswith("all sides of the split" if judged == "all" else f", split {judged}")


def write_split(path: Path, data: Path, sides: dict[int, str], args: str | None = None) -> None:
    """A `split.csv` of these sides by the photo's number; beside it args.toml of this text."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["path", "label", "class_name", "split", "error"])
        for index, side in sides.items():
            for name in CLASSES:
                writer.writerow([f"{name}/{index}.png", name, name, side, ""])
    path.with_name("args.toml").write_text(args or f"data = {json.dumps(str(data))}\n")


@pytest.mark.usefixtures("no_pictures")
def test_a_runs_split_needs_to_know_its_data(
    cli: Cli, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs"
    run.mkdir()
    path, sides = run / "split.csv", {0: "train", 1: "val", 2: "bad", 3: "same"}
    write_split(path, data, sides, 'data = "data/"\n')
    monkeypatch.chdir(tmp_path)
    found = cli("evaluate", path, "-m", model, "--format", "json")
    assert json.loads(found.out)["photos"] == len(CLASSES)
    assert "10 photos that training left out not taken" in found.err
    monkeypatch.chdir(run)
    for damage, code, message in (
        (None, 2, "relative to data, as args.toml beside it says, which is not there"),
        ('data = "../data"\n', 0, ""),
        (f"data = {json.dumps(str(tmp_path))}\n", 2, "none of its 10 photos is there"),
        ("epochs = 1\n", 1, "args.toml: does not name the data"),
        ("data = \n", 1, "args.toml: does not name the data"),
        ("data = " + "[" * 5000, 1, "args.toml: does not name the data"),
        ("", 2, "which args.toml beside it names; there is none"),
    ):
        if damage is not None:
            path.with_name("args.toml").write_text(damage)
        if damage == "":
            path.with_name("args.toml").unlink()
        result = cli("evaluate", path, "-m", model)
        assert (result.code, message in result.err) == (code, True), (damage, result.err)
    beside = Path(shutil.copy(path, data / "split.csv"))  # its photos are found from where it lies
    assert figures(cli, beside, "-m", model)["photos"] == len(CLASSES)
    path.with_name("args.toml").write_text(f"data = {json.dumps(str(data))}\n")
    path.write_text(path.read_text().replace('"bad"', '"worse"'))
    result = cli("evaluate", path, "-m", model)
    assert (result.code, "row 12 is damaged" in result.err) == (1, True)


@pytest.mark.usefixtures("no_pictures")
def test_every_checkpoint_of_a_run_knows_its_training_photos(
    cli: Cli, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = trained_on(model, photos(data, 0)[:1], "base.safetensors")
    (data / CLASSES[0] / "0.png").unlink()  # the base has learned from one photo more
    result = cli(
        "finetune", "data", "--model", base, "--epochs", "2", "--model-ema", "--keep-epochs", "1",
        "--hflip", "0",
    )  # fmt: skip
    assert result.code == 0, result.err
    run = Path("runs/finetune/exp")
    found = {path.name: read_info(path).trained_on for path in (run / "weights").iterdir()}
    assert len(found) == 6
    assert {one.photos for one in found.values() if one} == {31}
    assert len(set(found.values())) == 1
    best = run / "weights" / "best.safetensors"
    shown = json.loads(cli("models", "show", best, "--format", "json").out)
    assert shown["trained_on"] == {"photos": 31}
    over = figures(cli, "data", "-m", best)
    assert (over["photos"], over["trained_on"]) == (9, 30)
    split = figures(cli, run / "split.csv", "-m", best)
    assert (split["photos"], split["trained_on"], split["split"]) == (9, 0, "val")
    assert split["top1"] == over["top1"] == read_info(best).metrics["top1"]
    train = figures(cli, run / "split.csv", "-m", best, "--split", "train")
    assert train["trained"]["photos"] == train["trained_on"] == 30
    resumed = cli("finetune", "data", "--model", base, "--resume", "--epochs", "3")
    assert resumed.code == 0, resumed.err
    assert read_info(best).trained_on == found["best.safetensors"]
    onnx = tmp_path / "best.onnx"
    assert cli("export", "--model", best, "-o", onnx).code == 0
    assert figures(cli, "data", "-m", onnx)["trained_on"] == 30
    assert cli("export", "--model", best, "--hub", tmp_path / "hub").code == 0
    assert read_info(tmp_path / "hub" / "model.safetensors").trained_on is None  # to be published


@pytest.mark.parametrize(("more", "index"), [((), 2), (("index",), 10), (("sorted",), 2)])
def test_folders_named_by_numbers(
    cli: Cli, tmp_path: Path, more: tuple[str, ...], index: int
) -> None:
    path, data, folder = (tmp_path / name for name in ("bare.safetensors", "data", "eval"))
    checkpoint.save(
        path, enliven(build(TINY, num_classes=12)), checkpoint.CheckpointInfo(variant=TINY)
    )
    for number in range(12):
        (data / str(number)).mkdir(parents=True)
    make_photo(data / "10" / "1.png", (50, 50))
    flag = ("--folder-numbers", *more) if more else ()
    result = cli("evaluate", data, "-m", path, "-o", folder, "--img-size", "32", *flag)
    assert result.code == 0, result.err
    assert json.loads((folder / "records.jsonl").read_text())["truth"]["index"] == index
    assert ("taken in sorted order (0, 1, 10, 11, 2, ...)" in result.err) == (not more)
