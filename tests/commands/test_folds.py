"""`resnest finetune --folds`: figures of photos that were held out, then a fit on all of them."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli.model.checkpoint import load
from resnest_cli.model.checkpoint_header import read_info
from resnest_cli.output.training import TrainingDisplay
from resnest_cli.training.state import states
from tests.commands.conftest import AtStep
from tests.conftest import Cli, make_photo

CLASSES, PHOTOS = 3, 8


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> list[str]:
    """Three folds of eight photos, frozen, four epochs."""
    rows = ["path,labels"]
    for label in range(CLASSES):
        for index in range(PHOTOS):
            path = tmp_path / "data" / f"c{label}" / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_photo(path, (50, 40), seed=100 * label + index)
            rows.append(f"data/c{label}/{index}.jpg,c{label}{'|even' * (index % 2 == 0)}")
    (tmp_path / "sets.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    return ["finetune", "data", "--model", str(tiny_checkpoint), "--folds", "3", "--epochs", "4"]


@pytest.fixture
def quick_pictures(monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    """Pictures of one pixel: the real ones take as long as a few tiny runs."""

    def draw(path: Path, *_: object) -> None:
        Image.new("RGB", (1, 1)).save(path)

    for name in ("evaluation.class_figures.confusion_matrix", "report.plots.reliability"):
        monkeypatch.setattr(f"resnest_cli.{name}", draw)


UNFROZEN = ("--freeze", "none", "--epochs", "2", "-b", "8", "--lr", "0.003", "-j", "0")
RUNS = Path("runs", "finetune")


def results(run: Path) -> dict[str, object]:
    """What a run has to have again when it was interrupted."""
    names = ("folds.csv", "split.csv", "out_of_fold/records.jsonl", "out_of_fold/metrics.json")
    kept: dict[str, object] = {n: (run / n).read_bytes() for n in names if (run / n).exists()}
    tensors = load(run / "weights" / "best.safetensors").tensors
    return kept | {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def records(run: Path) -> list[dict]:
    lines = (run / "out_of_fold" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_photo_is_held_out_once_and_all_train(cli: Cli, given: list[str]) -> None:
    result = cli(*given)
    assert result.code == 0, result.err
    assert "24 photos, each held out once in 3 folds:" in result.err
    run = RUNS / "exp"
    found = records(run)
    assert [Path(one["input"]).name for one in found] == [f"{n}.jpg" for n in range(8)] * 3
    assert all(one["truth"]["label"] == Path(one["input"]).parent.name for one in found)
    right = sum(one["right"] for one in found) / len(found)
    with (run / "folds.csv").open() as file:
        rows = {row["fold"]: row for row in csv.DictReader(file)}
    assert float(rows["mean"]["top1"]) == pytest.approx(right)  # folds of eight each
    assert float(rows["low"]["top1"]) <= right <= float(rows["high"]["top1"])
    metrics = json.loads((run / "out_of_fold" / "metrics.json").read_text())
    assert metrics["top1"] == pytest.approx(right)
    assert metrics["photos"] == 24
    info = read_info(run / "weights" / "best.safetensors")
    assert info.metrics["top1"] == pytest.approx(right)
    assert info.metrics["folds"] == 3
    assert info.trained_on is not None
    assert info.trained_on.photos == 24
    page = (run / "folds.html").read_text(encoding="utf-8")
    assert "Nadeau and Bengio" in page
    assert "95%" in page
    assert not (run / "recall.csv").exists()
    with (run / "split.csv").open() as file:
        assert sorted(row["fold"] for row in csv.DictReader(file)) == sorted("123" * 8)
    # The features of all photos are there once, whatever the number of folds.
    assert len(list((run / "resume" / "features").rglob("*.npy"))) == 1
    again = cli("evaluate", run / "split.csv", "--model", run / "weights" / "best.safetensors")
    assert again.code == 0
    assert "trained on" in again.err


@pytest.mark.usefixtures("quick_pictures")
def test_train_has_folds_from_nothing(cli: Cli, given: list[str]) -> None:
    data = given[1]
    result = cli("train", data, "--model", "resnest14t", "--img-size", "32", "--folds", "2",
                 "--epochs", "1", "-b", "8", "-j", "0")  # fmt: skip
    assert result.code == 0, result.err
    assert "24 photos, each held out once in 2 folds:" in result.err
    run = Path("runs", "train", "exp")
    assert len(records(run)) == CLASSES * PHOTOS
    info = read_info(run / "weights" / "best.safetensors")
    assert info.metrics["folds"] == 2
    assert info.trained_on is not None
    assert info.trained_on.photos == CLASSES * PHOTOS


@pytest.mark.usefixtures("quick_pictures")
def test_the_answers_are_those_of_a_network_that_did_not_know_the_photo(
    cli: Cli, given: list[str]
) -> None:
    """A photo with a wrong label is taken for what it is; trained on, it would be remembered."""
    for index in range(PHOTOS):
        for label, level in enumerate((20, 120, 230)):
            path = Path("data", f"c{label}", f"{index}.jpg")
            pixels = np.full((40, 50, 3), level, np.uint8)
            pixels[index, :, label] = 90 + index  # another file each
            Image.fromarray(pixels).save(path)
    Path("data", "c0", "3.jpg").rename(Path("data", "c2", "strange.jpg"))
    result = cli(*given, "--epochs", "12", "--lr", "0.1", "--hflip", "0")
    assert result.code == 0, result.err
    (strange,) = [one for one in records(RUNS / "exp") if "strange" in one["input"]]
    assert strange["predictions"][0]["label"] == "c0"
    assert strange["right"] is False


@pytest.mark.usefixtures("quick_pictures")
@pytest.mark.parametrize("more", [(), UNFROZEN], ids=["frozen", "unfrozen"])
def test_a_run_that_was_interrupted_ends_with_the_same_bytes(
    cli: Cli, given: list[str], at_step: AtStep, more: tuple[str, ...]
) -> None:
    given = [*given, *more]
    assert cli(*given, "--run", "straight").code == 0
    at_step(6)  # of four in a fold: so the second is interrupted
    stopped = cli(*given)
    run = RUNS / "exp"
    assert (stopped.code, "--resume" in stopped.err) == (129, True), stopped.err
    assert (run / "resume" / "fold-1.npz").exists()
    assert states(run / "resume" / "fold-2" / "resume")
    # In the last fit, too; and a fold whose file is damaged is done again.
    at_step(9 if more else 10)
    assert cli("finetune", "--resume").code == 129
    assert (run / "resume" / "fold-3.npz").exists()
    assert states(run / "resume")
    (run / "resume" / "fold-1.npz").write_bytes(b"half")
    done = cli("finetune", "--resume")
    assert done.code == 0, done.err
    assert results(run) == results(run.with_name("straight"))
    finished = cli("finetune", "--resume")
    assert finished.code == 0
    assert "is finished" in finished.err
    refused = cli("finetune", "--resume", "--epochs", "9")
    assert refused.code == 2
    assert "the folds of" in refused.err


def test_several_labels_get_thresholds_of_photos_that_were_held_out(
    cli: Cli, given: list[str]
) -> None:
    given[1] = "sets.csv"
    result = cli(*given, "--multi-label")
    assert result.code == 0, result.err
    assert "mAP" in result.err
    assert "macro F1" in result.err
    run = RUNS / "exp"
    found, info = records(run), read_info(run / "weights" / "best.safetensors")
    assert len(found) == 24
    assert {"index": 3, "label": "even"} in found[0]["truth"]
    assert info.thresholds is not None
    assert len(info.thresholds) == 4
    limits = dict(zip(("c0", "c1", "c2", "even"), info.thresholds, strict=True))
    for one in found:
        for answer in one["predictions"]:
            assert answer["selected"] == (answer["probability"] >= limits[answer["label"]])
    assert info.metrics["map"] > 0
    assert "all labels right" in result.err
    assert (run / "out_of_fold" / "pr_curves.png").exists()
    assert "Nadeau and Bengio" in (run / "folds.html").read_text(encoding="utf-8")
    predicted = cli("predict", "data/c0/0.jpg", "--model", run / "weights" / "best.safetensors")
    assert predicted.code == 0


@pytest.mark.usefixtures("quick_pictures")
def test_a_photo_that_vanishes_is_a_record_with_an_error(
    cli: Cli, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainingDisplay.message

    def message(self: TrainingDisplay, text: str) -> None:
        original(self, text)
        if text.startswith("Run folder"):
            Path("data", "c1", "5.jpg").unlink()

    monkeypatch.setattr(TrainingDisplay, "message", message)
    result = cli(*given)
    assert result.code == 0, result.err
    (lost,) = [one for one in records(RUNS / "exp") if one["status"] == "error"]
    assert lost["input"].endswith("c1/5.jpg")
    assert lost["predictions"] == []


def test_what_does_not_go_with_folds_is_refused_with_a_reason(cli: Cli, given: list[str]) -> None:
    for flags, words in (
        (("--patience", "3"), "may not decide when to stop"),
        (("--devices", "2"), "one after the other"),
        (("--find-lr",), "one split"),
        (("--time-budget", "1h"), "cannot be compared"),
        (("--keep-epochs", "2"), "none"),
        (("--teacher", given[3], "--freeze", "none"), "may have learned"),
    ):
        result = cli(*given, *flags)
        assert (result.code, words in result.err) == (2, True), (flags, result.err)
    assert not Path("runs").exists()
    plan = cli(*given, "--dry-run", "--val-split", "0.3")
    assert plan.code == 0
    assert "3 of 8 photos, each held out once" in " ".join(plan.out.split())
    assert "--val-split does nothing here" in plan.err + plan.out
    shutil.rmtree("data/c2")
    for name in ("1", "2", "3", "4", "5", "6", "7"):
        Path("data", "c1", f"{name}.jpg").unlink()
    alone = cli(*given, "--dry-run")
    assert alone.code == 0
    assert "train in all folds" in alone.out
