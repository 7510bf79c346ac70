"""`resnest finetune` and `train` on photos with several labels: from a table to a checkpoint."""

import csv
import io
import itertools
import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.evaluation import thresholds
from resnest_cli.model.checkpoint import save
from resnest_cli.model.checkpoint_header import CheckpointInfo, read_info
from resnest_cli.model.resnest import build
from resnest_cli.training.state import BestLabelAnswers, load_state
from tests.conftest import Cli
from tests.networks import TINY, enliven

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
UNFROZEN = ("--freeze", "none", "--epochs", "2", "--lr", "0.003", "-j", "0", "-b", "8")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty photos with a stripe for each of their colours, none for some; a table beside them."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    sets = [s for n in range(4) for s in itertools.combinations(COLOURS, n)]
    rows = ["path,labels"]
    for index in range(40):
        labels = sets[index % len(sets)]
        pixels = random.integers(90, 160, (40, 48, 3))
        for place, label in enumerate(COLOURS):
            if label in labels:
                stripe = slice(16 * place, 16 * place + 16)
                pixels[:, stripe] = np.asarray(COLOURS[label]) + random.integers(
                    -30, 30, (40, 16, 3)
                )
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / f"{index}.png")
        rows.append(f"{index}.png,{'|'.join(labels)}")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    return tmp_path / "photos.csv"


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("freeze", ["backbone", "none"])
def test_finetune(cli: Cli, data: Path, tiny_checkpoint: Path, freeze: str) -> None:
    more = UNFROZEN if freeze == "none" else ("--epochs", "30")
    result = cli("finetune", data, "--model", tiny_checkpoint, *more)
    assert result.code == 0, result.err
    assert "a photo may have several labels here" in result.err
    assert "binary cross entropy" in result.err
    run = Path("runs/finetune/exp")
    settings = tomllib.loads((run / "args.toml").read_text())
    assert settings["multi_label"] is True
    rows = rows_of(run)
    assert not {"top1", "recall", "ema_top1"} & set(rows[0])
    last = {key: float(rows[-1][key]) for key in ("map", "ema_map", "micro_f1", "macro_f1")}
    assert all(0 <= value <= 1 for value in last.values())
    assert max(float(row["map"]) for row in rows) > (0.5 if freeze == "none" else 0.8)
    assert "Best mAP" in result.err
    for name in ("average_precision.csv", "curves.png", "train_batch.jpg", "val_predictions.jpg",
                 "report.html", "split.csv"):  # fmt: skip
        assert (run / name).stat().st_size > 0, name
    assert not (run / "confusion_matrix.png").exists()
    assert "Threshold" in (run / "report.html").read_text()
    info = read_info(run / "weights" / "best.safetensors")
    assert (info.format_version, info.class_names) == (2, ("blue", "green", "red"))
    assert info.metrics["map"] == max(
        float(row[key]) for row in rows for key in ("map", "ema_map") if row[key]
    )
    state = load_state(run / "resume", lambda _: None)
    assert state is not None
    best = BestLabelAnswers.restored(state.tensors["best"], 3)
    assert info.thresholds == thresholds.fitted(best.truth, best.probabilities)


@pytest.mark.usefixtures("no_pictures")
def test_every_setting_acts(cli: Cli, data: Path, tiny_checkpoint: Path) -> None:
    """The loss of the first epoch differs; see test_label_loss for what each does."""
    Path("weights.csv").write_text("blue,1\ngreen,2\nred,5\n")
    data.write_text("\n".join(data.read_text().splitlines()[:17]))  # of sixteen photos
    found = set()
    given = [
        (), ("--asl",), ("--asl", "--asl-gamma-neg", "1"), ("--asl", "--asl-margin", "0.3"),
        ("--asl", "--asl-gamma-pos", "3"), ("--class-weights", "weights.csv"),
        ("--smoothing", "0.4"),
    ]  # fmt: skip
    for number, flags in enumerate(given):
        result = cli("finetune", data, "--model", tiny_checkpoint, "--epochs", "1", "--run",
                     str(number), *flags)  # fmt: skip
        assert result.code == 0, result.err
        assert "does nothing" not in result.err
        found.add(rows_of(Path(f"runs/finetune/{number}"))[0]["train_loss"])
    assert len(found) == len(given)


@pytest.mark.usefixtures("no_pictures")
def test_wanted_precision(cli: Cli, data: Path, tiny_checkpoint: Path) -> None:
    kept = []
    for number, flags in enumerate(((), ("--min-precision", "1"))):
        result = cli("finetune", data, "--model", tiny_checkpoint, "--epochs", "2",
                     "--run", str(number), *flags)  # fmt: skip
        assert result.code == 0, result.err
        path = Path(f"runs/finetune/{number}/weights/best.safetensors")
        kept.append(read_info(path).thresholds)
    assert kept[0] != kept[1]


@pytest.mark.usefixtures("no_pictures")
def test_resumed_run_has_the_same_bytes(cli: Cli, data: Path, tiny_checkpoint: Path) -> None:
    """From the state before the last; `test_loop` does so from any step."""
    command = ["finetune", data, "--model", tiny_checkpoint, "--epochs", "3", "--run"]
    assert cli(*command, "whole").code == 0
    assert cli(*command, "part").code == 0
    whole, part = Path("runs/finetune/whole"), Path("runs/finetune/part")
    max((part / "resume").glob("state-*")).unlink()
    (part / "weights" / "last.safetensors").unlink()
    result = cli("finetune", "--run", "part", "--resume")
    assert result.code == 0, result.err
    for name in ("best", "last"):
        file = f"weights/{name}.safetensors"
        assert (part / file).read_bytes() == (whole / file).read_bytes()


def test_folders(cli: Cli, data: Path, tiny_checkpoint: Path) -> None:
    for line in data.read_text().splitlines()[1:]:
        name, labels = line.split(",")
        for label in filter(None, labels.split("|")):
            (data.parent / "folders" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(data.parent / name, data.parent / "folders" / label)
    result = cli("finetune", "folders", "--multi-label", "--model", tiny_checkpoint, "--dry-run")
    assert result.code == 0, result.err
    assert "lie in several class folders" in result.out
    assert "of which a photo may have several, or none" in result.out
    pairs = result.out.partition("Together most often")[2]
    assert re.search(r"blue, red +\d+ +\d", pairs)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that gives photos some of three labels."""
    path = tmp_path_factory.mktemp("several") / "several.safetensors"
    names = ("blue", "green", "red")
    network = enliven(build(TINY, num_classes=3))
    limits = (0.0, 1.0, 0.0)  # all but the second
    save(path, network, CheckpointInfo(variant=TINY, class_names=names, thresholds=limits))
    return path


def test_predict(cli: Cli, data: Path, several: Path) -> None:
    photos = ("0.png", "missing.png", "1.png")
    found = json.loads(cli("predict", *photos, "-m", several, "-k", "1", "--format", "json").out)
    answers = [one["predictions"] for one in found]
    assert answers[1] == []
    for answer in (answers[0], answers[2]):
        chosen = {one["label"] for one in answer if one["selected"]}
        assert chosen == {"blue", "red"}
        assert answer[0]["rank"] == 1
        assert [one["probability"] for one in answer] == sorted(
            (one["probability"] for one in answer), reverse=True
        )
    lines = list(csv.DictReader(io.StringIO(cli("predict", *photos, "-m", several, "-k", "1",
                                                "--format", "csv").out)))  # fmt: skip
    assert [set(line["labels"].split("|")) for line in lines] == [
        {"blue", "red"}, {""}, {"blue", "red"}
    ]  # fmt: skip
    assert "label_2" not in lines[0]
    table = cli("predict", "0.png", "-m", several).out
    assert table.count("yes") == 2
    many = cli("predict", *(f"{n}.png" for n in range(12)), "-m", several, "--html", "page.html")
    assert "blue, red" in many.out or "red, blue" in many.out
    assert Path("page.html").stat().st_size > 0
    one = cli("predict", "0.png", "-m", several, "--threshold", "1")
    assert one.code == 0
    refused = cli("predict", "0.png", "-m", several, "--reject-below", "0.5")
    assert refused.code == 2
    assert "each by its own threshold" in " ".join(refused.err.split())
    strange = cli("predict", "0.png", "-m", several, "--unknown", "5%")
    assert strange.code == 1
    assert "not known of such models" in strange.err
    shown = cli("models", "show", several)
    assert "sigmoid" in shown.out
    assert cli("predict", *photos, "-m", several, "-o", "found/", "--format", "jsonl").code == 3
    written = [json.loads(line) for path in sorted(Path("found").glob("*.jsonl"))
               for line in path.read_text().splitlines()]  # fmt: skip
    assert written[0]["predictions"][0]["selected"] in {True, False}
    assert cli("predict", *photos, "-m", several, "-o", "found.parquet").code == 3


def test_probabilities_are_sigmoids(cli: Cli, data: Path, several: Path) -> None:
    for head in ("logits", "probabilities"):
        assert (
            cli("features", "0.png", "-m", several, "--head", head, "-o", f"{head}.npy").code == 0
        )
    logits, found = np.load("logits.npy"), np.load("probabilities.npy")
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), rtol=1e-6)
    answer = Classifier(several).predict("0.png")
    np.testing.assert_allclose(
        sorted(one.probability for one in answer.predictions), np.sort(found[0]), rtol=1e-5
    )


def test_explain(cli: Cli, data: Path, several: Path) -> None:
    result = cli("explain", "0.png", "-m", several, "--class", "green", "--format", "json")
    assert result.code == 0, result.err
    (one,) = json.loads(result.out)["predictions"]
    assert (one["label"], one["selected"]) == ("green", False)


def test_export(cli: Cli, data: Path, several: Path) -> None:
    """The file says what its logits mean, and predicts as the checkpoint; .pt2: test_pt2_file."""
    result = cli("export", "-m", several, "-o", "x.onnx")
    assert result.code == 0, result.err
    known = read_info(Path("x.onnx"))
    assert (known.thresholds, known.format_version) == ((0.0, 1.0, 0.0), 2)
    one, other = (Classifier(model).predict("0.png").predictions for model in (several, "x.onnx"))
    assert [(a.label, a.selected) for a in one] == [(b.label, b.selected) for b in other]
    assert [a.probability for a in one] == pytest.approx([b.probability for b in other], abs=1e-5)
    assert "sigmoid with thresholds" in result.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--balanced",), "Use --class-weights balanced"),
        (("--teacher", "CHECKPOINT", "--freeze", "none"), "each label is a question of its own"),
        (("--asl", "--data", "one.csv"), "--asl is for photos that may have several labels"),
        (("--asl", "--bce-loss"), "leave out one of the two"),
    ],
)
def test_refused(
    cli: Cli, data: Path, tiny_checkpoint: Path, flags: tuple[str, ...], words: str
) -> None:
    given = [str(tiny_checkpoint) if flag == "CHECKPOINT" else flag for flag in flags]
    rows = (f"{n}.png,{'red' if n % 2 else 'blue'}" for n in range(8))
    Path("one.csv").write_text("\n".join(["path,label", *rows]))
    given += [] if "--data" in flags else ["--data", str(data)]
    result = cli("finetune", "--model", tiny_checkpoint, *given)
    assert result.code == 2, result.err
    assert words in " ".join(result.err.split())


def test_pack_refuses_before_it_reads_a_photo(cli: Cli, data: Path) -> None:
    for path in data.parent.glob("*.png"):
        path.write_bytes(b"")
    result = cli("pack", data, "-o", "shards/")
    assert result.code == 2
    assert "several labels, or none; shards hold one label of each photo" in result.err
    assert not Path("shards").exists()
