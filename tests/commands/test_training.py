"""`resnest train` and `finetune`: from class folders to a checkpoint that everything else takes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.model import checkpoint, checkpoint_header
from resnest_cli.model.checkpoint_header import set_metadata
from resnest_cli.model.resnest import build
from resnest_cli.training.cached_features import Extractor
from tests.conftest import Cli
from tests.processes import wait_for
from tests.training import kills

ROOT = Path(__file__).parents[2]
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes of ten photos that a colour tells apart, and one photo that cannot be read."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for index in range(10):
            pixels = np.asarray(colour) + random.integers(-40, 40, (40, 50, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "data" / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff half a photo")
    return tmp_path / "data"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


UNFROZEN = ("--freeze", "none", "--epochs", "6", "--lr", "0.003", "-j", "0")
BRIEF = (*UNFROZEN, "--epochs", "2")


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("freeze", ["backbone", "none"])
def test_finetune_then_predict(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path, freeze: str
) -> None:
    more = UNFROZEN if freeze == "none" else ("--epochs", "40")
    result = cli("finetune", data, "--model", tiny_checkpoint, "--classes", "3", *more)
    assert result.code == 0, result.err
    assert result.out == ""
    run = place / "runs" / "finetune" / "exp"
    for name in (
        "weights/best.safetensors", "weights/last.safetensors", "results.csv", "args.toml",
        "split.csv", "curves.png", "confusion_matrix.png", "train_batch.jpg", "val_predictions.jpg",
        "report.html",
    ):  # fmt: skip
        assert (run / name).stat().st_size > 0, name
    assert "red/broken.jpg" in result.err
    assert "24 photos to train on, 6 to validate" in result.err
    assert max(float(row["top1"]) for row in rows_of(run)) == 1.0

    page = (run / "report.html").read_text(encoding="utf-8")
    assert "best top-1" in page
    assert page.count('class="picture"') == 4
    assert "batch_size" in page
    assert page.count('<li class="card ') == page.count('<li class="card wrong"')

    best = run / "weights" / "best.safetensors"
    command = result.err.strip().splitlines()[-1].split()
    assert command[:2] == ["resnest", "predict"]
    shown = cli(*command[1:], "--format", "json")
    assert shown.code == 0, shown.err
    record = json.loads(shown.out)
    assert {p["label"] for p in record["predictions"]} == set(COLOURS)
    assert record["predictions"][0]["label"] == Path(record["input"]).parent.name

    info = checkpoint_header.read_info(best)
    assert info.class_names == tuple(COLOURS)
    assert info.preprocessing is not None
    assert info.preprocessing.size == 48
    assert info.metrics["top1"] == 1.0
    assert info.provenance["command"] == "finetune"
    assert str(place) not in json.dumps(dict(info.provenance))
    photo = data / "green" / "3.png"
    answers = [Classifier(str(best), engine=e).logits([photo]) for e in ("torch", "onnx")]
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-4)
    assert Classifier(str(best)).features([photo]).shape == (1, 128)
    if freeze == "backbone":  # nothing but the classifier has changed
        before = checkpoint.load(tiny_checkpoint).tensors
        after = checkpoint.load(best).tensors
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {"fc.weight", "fc.bias"}


@pytest.mark.usefixtures("no_pictures")
def test_frozen_features_are_kept_and_used_again(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("finetune", data, "--model", tiny_checkpoint, "--epochs", "3")
    assert cli(*arguments).code == 0
    cached = sorted((place / "runs/finetune/exp/resume/features").rglob("*.npy"))
    assert [np.load(path).shape for path in cached] == [(24, 2, 128), (6, 1, 128)] or [
        np.load(path).shape for path in cached
    ] == [(6, 1, 128), (24, 2, 128)]

    def no_more(*_: object) -> None:
        raise AssertionError("computed once more")

    monkeypatch.setattr("resnest_cli.training.cached_features.Extractor._compute", no_more)
    assert cli(*arguments, "--resume", "--epochs", "5").code == 0
    assert len(rows_of(place / "runs/finetune/exp")) == 5


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_is_stopped_before_all_features_are_there_keeps_its_settings(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = place / "model.safetensors"
    shutil.copy(tiny_checkpoint, model)
    arguments = ("finetune", data, "--model", model, "--epochs", "2", "--lr", "0.01", "--seed", "3")
    assert cli(*arguments, "--run", "whole").code == 0
    with monkeypatch.context() as patch:
        computed = Extractor._compute

        def stopping(*arguments: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return computed(*arguments)

        patch.setattr(Extractor, "_compute", stopping)
        stopped = cli(*arguments, "--run", "parts")
    assert stopped.code == 130, stopped.err
    again = ("finetune", data, "--run", "parts", "--resume")
    shutil.copy(tiny_checkpoint, model)
    set_metadata(model, temperature="2.0")
    refused = cli(*again)
    assert (refused.code, "are not the weights" in refused.err) == (2, True), refused.err
    shutil.copy(tiny_checkpoint, model)
    done = cli(*again)
    assert done.code == 0, done.err
    parts, whole = (place / "runs/finetune" / name for name in ("parts", "whole"))
    assert (parts / "args.toml").read_text() == (whole / "args.toml").read_text()
    for name in ("best", "last"):
        file = f"weights/{name}.safetensors"
        assert (parts / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.usefixtures("no_pictures")
def test_growing_photos_kept_in_memory(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path
) -> None:
    growing = ("--start-size", "16", "--train-size", "32")
    runs = {
        "cached": (*growing, "--cache"), "plain": growing,
        "workers": (*growing, "--cache", "-j", "1"),
        "one_size": ("--cache",), "large": ("--train-size", "32"),
    }  # fmt: skip
    weights = {}
    for name, more in runs.items():
        given = ("-m", tiny_checkpoint, *UNFROZEN, "--epochs", "3", "--run", name, *more)
        result = cli("finetune", data, *given)
        assert result.code == 0, result.err
        weights[name] = (place / f"runs/finetune/{name}/weights/last.safetensors").read_bytes()
        assert ("16 growing to 32 pixels a side, validated at 48" in result.err) == (
            "--start-size" in more
        )
    assert weights["cached"] == weights["plain"] == weights["workers"]
    assert len(set(weights.values())) == 3
    resumed = cli(
        "finetune", data, "--run", "plain", "--resume", "--epochs", "4", "--cache", "-j", "0"
    )
    assert resumed.code == 0, resumed.err


@pytest.mark.usefixtures("no_pictures")
def test_train_takes_its_own_split_and_readable_names(cli: Cli, data: Path, place: Path) -> None:
    split = place / "split"
    for name in COLOURS:
        for side, photos in (("train", range(8)), ("valid", range(8, 10))):
            (split / side / name).mkdir(parents=True)
            for index in photos:
                shutil.copy(data / name / f"{index}.png", split / side / name)
    (place / "names.csv").write_text("red,Rot\ngreen,Grün\nblue,Blau\n", encoding="utf-8")
    result = cli(
        "train", split, "--model", "resnest14t", "--img-size", "32", "--epochs", "1", "-b", "8",
        "-j", "0", "--class-names", "names.csv", "--run", "first", "-o", "elsewhere",
    )  # fmt: skip
    assert result.code == 0, result.err
    best = place / "elsewhere" / "train" / "first" / "weights" / "best.safetensors"
    info = checkpoint_header.read_info(best)
    assert info.class_names == ("Blau", "Grün", "Rot")
    assert info.provenance["class_ids"] == ["blue", "green", "red"]
    assert "24 photos to train on, 6 to validate (as the data have it)" in result.err


@pytest.mark.usefixtures("no_pictures")
def test_timm_loads_the_checkpoint_and_gives_the_same_logits(
    cli: Cli, data: Path, place: Path
) -> None:
    import timm

    weights = place / "start.pth"
    torch.manual_seed(0)
    torch.save(build("resnest14d", num_classes=7).state_dict(), weights)
    result = cli(
        "finetune", data, "--model", "resnest14d", "--weights", weights, "--img-size", "64",
        "--epochs", "2",
    )  # fmt: skip
    assert result.code == 0, result.err
    best = place / "runs/finetune/exp/weights/best.safetensors"
    network = timm.create_model("resnest14d", num_classes=3, checkpoint_path=str(best)).eval()
    photos = torch.randn(2, 3, 64, 64)
    ours = checkpoint.instantiate(checkpoint.load(best))
    with torch.inference_mode():
        torch.testing.assert_close(network(photos), ours(photos), rtol=1e-5, atol=1e-5)


def test_dry_run_tells_the_plan_and_writes_nothing(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path
) -> None:
    for more in (("--freeze", "none"), ()):
        result = cli("finetune", data, "--model", tiny_checkpoint, "--dry-run", *more)
        assert result.code == 0, result.err
        for text in ("blue", "green", "red", "red/broken.jpg", "estimate", "memory", "48 x 48"):
            assert text in result.out, text
    assert not (place / "runs").exists()


@pytest.mark.usefixtures("no_pictures")
def test_args_toml_repeats_the_run(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path
) -> None:
    arguments = ("finetune", data, "--model", tiny_checkpoint, *BRIEF, "--mixup", "0.2")
    assert cli(*arguments).code == 0
    runs = place / "runs" / "finetune"
    assert cli("finetune", "--config", runs / "exp" / "args.toml").code == 0
    assert kills.outcome(runs / "exp") == kills.outcome(runs / "exp2")
    one, two = (tomllib.loads((runs / n / "args.toml").read_text()) for n in ("exp", "exp2"))
    assert one == two
    assert one["mixup"] == 0.2


@pytest.mark.usefixtures("no_pictures")
def test_a_known_classifier_is_kept(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path
) -> None:
    assert cli("finetune", data, "--model", tiny_checkpoint, *BRIEF).code == 0
    best = place / "runs/finetune/exp/weights/best.safetensors"
    again = cli("finetune", data, "--model", best, "--epochs", "1", "--lr", "1e-9")
    assert "classifier kept" in again.err
    assert float(rows_of(place / "runs/finetune/exp2")[0]["top1"]) == 1.0


@pytest.mark.usefixtures("no_pictures")
def test_a_classifier_is_known_by_the_ids_of_its_classes(cli: Cli, place: Path) -> None:
    for shade, name in enumerate(("n07920052", "n02124075")):
        for index in range(3):
            path = place / "wordnet" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (index, 90 * shade, 200)).save(path)
    result = cli("finetune", place / "wordnet", "--model", "demo", "--dry-run")
    assert result.code == 0, result.err
    assert "its classifier kept" in result.out


@pytest.mark.usefixtures("no_pictures")
def test_resume(cli: Cli, data: Path, place: Path, tiny_checkpoint: Path) -> None:
    arguments = ("finetune", data, "--model", tiny_checkpoint, *BRIEF)
    fresh = cli(*arguments, "--resume")
    assert fresh.code == 0
    assert "Nothing to resume" in fresh.err
    again = cli(*arguments, "--resume")
    assert again.code == 0
    assert "is finished" in again.err
    assert len(list((place / "runs/finetune").iterdir())) == 1
    longer = cli("finetune", "--resume", "--epochs", "3")
    assert longer.code == 0, longer.err
    assert "3 epochs instead of 2" in longer.err
    assert len(rows_of(place / "runs/finetune/exp")) == 3
    assert tomllib.loads((place / "runs/finetune/exp/args.toml").read_text())["epochs"] == 3
    shorter = cli("finetune", "--resume", "--epochs", "1")
    assert shorter.code == 0
    assert "is finished" in shorter.err


@pytest.mark.usefixtures("no_pictures")
def test_resume_refuses_other_settings(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path
) -> None:
    assert cli("finetune", data, "--model", tiny_checkpoint, *BRIEF).code == 0
    for more, what in [
        (("--lr", "0.5"), "lr: 0.003"),
        (("--opt", "sgd"), "opt"),
        (("-b", "4"), "batch"),
    ]:
        result = cli("finetune", data, "--resume", *more)
        assert result.code == 2
        assert what in result.err
    other = cli("finetune", place, "--resume")
    assert other.code == 2
    assert "these are not the photos that runs/finetune/exp began with" in other.err


def test_refusals(cli: Cli, data: Path, place: Path, tiny_checkpoint: Path) -> None:
    model = ("--model", tiny_checkpoint)
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("finetune", data, *model, "--classes", "4"), 2, "blue: 10"),
        (("finetune", data, *model, "-b", "1", "--freeze", "none"), 2, "--freeze backbone"),
        (("finetune", data, *model, "--lr", "-1"), 2, "--lr"),
        (("finetune", data, *model, "--aa", "random"), 2, "rand-m9-n2"),
        (("finetune", data, *model, "--freeze", "stages:7"), 2, "stages:N"),
        (("finetune", data, *model, "--recipe", "fintune"), 2, "Did you mean finetune"),
        (("finetune", data, "--model", "resnest50x"), 2, "Did you mean"),
        (("finetune", place / "none", *model), 2, "no such folder"),
        (("finetune",), 2, "DATA"),
        (("train", data, *model), 2, "resnest finetune"),
        (("train", data, "--freeze", "backbone"), 2, "starts from nothing"),
        (("train", data, "--weights", "x.pth"), 2, "finetune"),
        (("finetune", data, *model, "--amp", "float16"), 2, "bfloat16"),
        (("finetune", data, *model, "--run", "a/b"), 2, "one folder"),
        (("finetune", data, *model, "--config", place / "no.toml"), 2, "no.toml"),
    ]
    for arguments, code, text in cases:
        result = cli(*map(str, arguments))
        assert (result.code, text in result.err) == (code, True), (arguments, result.err)
        assert "Traceback" not in result.err
    assert not (place / "runs").exists()


@pytest.mark.usefixtures("no_pictures")
def test_an_existing_run_is_not_overwritten(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path
) -> None:
    arguments = ("finetune", data, "--model", tiny_checkpoint, "--epochs", "1", "--run", "mine")
    assert cli(*arguments).code == 0
    result = cli(*arguments)
    assert result.code == 2
    assert "--resume" in result.err


def stopped(place: Path, signal_name: str, told: str) -> None:
    assert f"Stopped by {signal_name}" in told
    assert "--run exp --resume" in told
    assert "Traceback" not in told
    states = list((place / "runs/finetune/exp/resume").glob("state-*.safetensors"))
    assert 1 <= len(states) <= 2


def begun(place: Path) -> None:
    """Waits until an epoch of the run is over."""
    wait_for((place / "runs/finetune/exp/results.csv").exists)


ENDLESS = ("--freeze", "none", "--epochs", "20000", "-j", "1")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_save_and_the_run_goes_on(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path, number: signal.Signals, code: int
) -> None:
    def send() -> None:
        begun(place)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    result = cli("finetune", data, "--model", tiny_checkpoint, *ENDLESS)
    sender.join()
    assert result.code == code
    stopped(place, number.name, result.err)


@pytest.mark.slow  # quicker: other signals above, and workers to which Ctrl-C goes in test_loader
def test_ctrl_c_which_the_workers_get_too(data: Path, place: Path, tiny_checkpoint: Path) -> None:
    command = [sys.executable, "-m", "resnest_cli", "finetune", str(data), "-m"]
    with subprocess.Popen(
        [*command, str(tiny_checkpoint), *ENDLESS], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    ) as process:  # fmt: skip
        begun(place)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(100) == 130
        assert process.stderr is not None
        stopped(place, "SIGINT", process.stderr.read())


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute alone on two cores
def test_five_kills(tmp_path: Path, tiny_checkpoint: Path) -> None:
    trials = [trial for _, trial in kills.campaign(tmp_path, tiny_checkpoint, 5, seed=1)]
    assert sum(trial.kills for trial in trials) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--epochs", "6", "--mixup", "0.2", "--cutmix", "1", "--class-weights", "balanced"),
        ("--epochs", "40", "-b", "16", "--freeze", "backbone", "--asl", "--min-precision", "0.7"),
    ],
)
def test_kills_with_several_labels(
    tmp_path: Path, tiny_checkpoint: Path, flags: tuple[str, ...]
) -> None:
    found = kills.campaign(tmp_path, tiny_checkpoint, 2, 1, *flags, several=True)
    assert sum(trial.kills for _, trial in found) == 2


@pytest.mark.slow
def test_digits_from_scratch(tmp_path: Path) -> None:
    from tests.benchmarks.digits import COMMON, write_digits
    from tests.benchmarks.runs import best_top1

    data = write_digits(tmp_path / "digits", range(10))
    budget = ["--model", "resnest14d", "--epochs", "12", *COMMON]
    found, _ = best_top1(tmp_path, "train", "all", data, *budget)
    assert found >= 0.97
