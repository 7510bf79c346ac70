"""Runs that go on: from any folder, with data that were moved, or that vanish meanwhile."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from resnest_cli.model import checkpoint
from resnest_cli.output.training import TrainingDisplay
from resnest_cli.signals import heeded
from resnest_cli.training.lost_photos import LostPhoto
from resnest_cli.training.state import load_state
from tests.commands.conftest import AtStep
from tests.conftest import Cli, make_photo

ROOT = Path(__file__).parents[2]
CLASSES, PHOTOS = 3, 10  # of which 24 train and 6 validate


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for label in range(CLASSES):
        for index in range(PHOTOS):
            path = tmp_path / "data" / f"c{label}" / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_photo(path, (50, 40), seed=100 * label + index)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def given(tiny_checkpoint: Path) -> tuple[str, ...]:
    """A run of three epochs of three steps."""
    return ("finetune", "data", "--model", str(tiny_checkpoint), "--freeze", "none", "--epochs",
            "3", "-b", "8", "--lr", "0.003", "-j", "0")  # fmt: skip


@pytest.fixture
def stopped(cli: Cli, place: Path, given: tuple[str, ...], at_step: AtStep) -> Path:
    """A run that a closed terminal ended after four steps, in its second epoch."""
    at_step(4)
    result = cli(*given)
    assert (result.code, "Stopped by SIGHUP" in result.err) == (129, True), result.err
    return place / "runs" / "finetune" / "exp"


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(run / "weights" / "last.safetensors").tensors)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def lost_of(run: Path) -> list[dict[str, str]]:
    with (run / "lost.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("no_pictures")
def test_another_folder_and_data_that_were_moved(
    cli: Cli, place: Path, stopped: Path, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*given, "--run", "straight").code == 0
    straight = tensors(stopped.with_name("straight"))
    kept = shutil.copytree(stopped, place / "kept")

    def again(folder: Path, *more: object) -> tuple[int, str]:
        shutil.rmtree(stopped)
        shutil.copytree(kept, stopped)
        (place / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        found = cli("finetune", "-o", place / "runs", "--run", "exp", "--resume", *more)
        return found.code, found.err

    assert again(place / "elsewhere", "--epochs", "3")[0] == 0
    assert same(tensors(stopped), straight)

    (place / "data").rename(place / "moved")
    code, text = again(place)
    assert code == 2
    assert f"its photos are not in {place}/data any more" in text
    assert "--resume DATA" in text
    code, text = again(place, "moved")
    assert code == 0, text
    assert same(tensors(stopped), straight)
    settings = tomllib.loads((stopped / "args.toml").read_text())
    assert settings["data"] == str(place / "moved")
    assert cli("finetune", "--run", "exp", "--resume", "--epochs", "4").code == 0

    changed = place / "moved" / "c1"
    shutil.copy(changed / "1.jpg", changed / "2.jpg")
    (changed / "5.jpg").unlink()
    for more in ((), ("--dry-run",)):
        code, text = again(place, "moved", *more)
        assert code == 2
        assert "Of 30, 2 differ: " in text
        assert "c1/2.jpg has another content" in text
        assert "c1/5.jpg is missing" in text
    # A run that is finished does not hide that these are other data.
    finished = cli("finetune", "moved", "--run", "straight", "--resume")
    assert finished.code == 2
    assert "2 differ" in finished.err


# Settings that are decided at the start (lr, batch_size, epochs, channels_last, auto), or overruled
# by cached features, a time budget, a schedule without such epochs, photos without any labels.
SAME = {
    "frozen": "finetune data --recipe finetune --freeze auto --mixup 0.2 --amp bfloat16 -j 1 "
    "--decay-epochs 5 --epochs 3",
    "unfrozen": "finetune data --freeze none --recipe finetune-small --opt adamw -j 0 "
    "--time-budget 20s --warmup-epochs 4",
    "folds": "finetune data --folds 3 -b 8 --class-weights balanced --in-chans 3",
    "unlabelled": "finetune --unlabelled data --teacher {tiny} --teacher-classes "
    "--teacher-weight 0.7 --smoothing 0.1 -j 0",
    "train": "train data --model resnest14t -b 8 -j 0",
}


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("words", SAME.values(), ids=SAME)
def test_the_same_command_goes_on(
    cli: Cli, place: Path, tiny_checkpoint: Path, at_step: AtStep, words: str
) -> None:
    file = place / "given.toml"
    file.write_text("lr_base = 0.4\nmomentum = 0.8\nimg_size = 32\nmodel_ema = true\n")
    model = () if "--model" in words else ("--model", tiny_checkpoint)
    given = [*words.format(tiny=tiny_checkpoint).split(), *model, "--config", file]
    given += ["--device", "auto"]
    at_step(1)
    stopped = cli(*given)
    assert stopped.code == 129, stopped.err
    at_step(0)
    for more, code, text in (
        (("--dry-run",), 0, ""),
        (("--lr", "0.5"), 2, "there, 0.5 now"),
        (("--freeze", "stages:2"), 2, "freeze: "),
        (("--smoothing", "0.2"), 2, "there, 0.2 now"),
    ):
        found = cli(*given, "--resume", *more)
        assert (found.code, text in found.err) == (code, True), found.err
    if "--epochs" in given:  # the others would end as slowly
        assert cli(*given, "--resume").code == 0
    file.write_text("momentum = 0.7\n")
    found = cli(*given, "--resume")
    assert (found.code, "momentum: 0.8 there, 0.7 now" in found.err) == (2, True), found.err


@pytest.mark.usefixtures("no_pictures")
def test_weights_that_were_moved(
    cli: Cli, place: Path, stopped: Path, tiny_checkpoint: Path
) -> None:
    args = stopped / "args.toml"
    args.write_text(args.read_text().replace(str(tiny_checkpoint), str(place / "gone.safetensors")))
    found = cli("finetune", "--resume")
    assert found.code == 2
    assert "gone.safetensors: there is no such checkpoint file" in found.err
    assert "Say with --model where the same weights lie now" in found.err
    other = shutil.copy(stopped / "weights" / "last.safetensors", place / "other.safetensors")
    found = cli("finetune", "--resume", "--model", other)
    assert found.code == 2
    assert "these are not the weights" in found.err
    found = cli("finetune", "--resume", "--model", tiny_checkpoint)
    assert found.code == 0, found.err
    assert tomllib.loads(args.read_text())["model"] == str(tiny_checkpoint)


@pytest.mark.usefixtures("no_pictures")
def test_weights_of_classes_that_were_moved(
    cli: Cli, place: Path, given: tuple[str, ...], at_step: AtStep
) -> None:
    none = cli(*given, "--class-weights", "w.csv", "--dry-run")
    assert (none.code, "w.csv: cannot be read" in none.err) == (2, True)
    (place / "w.csv").write_text("c0,1\nc1,2\nc2,3\n")
    at_step(1)
    assert cli(*given, "--class-weights", "w.csv").code == 129
    moved = (place / "w.csv").rename(place / "moved.csv")
    gone = cli("finetune", "--resume")
    assert (gone.code, "to --resume, the same one" in gone.err) == (2, True)
    (place / "others.csv").write_text("c0,1\nc1,2\nc2,4\n")
    others = cli("finetune", "--resume", "--class-weights", "others.csv")
    assert (others.code, "these are not the weights of classes" in others.err) == (2, True)
    assert cli("finetune", "--resume", "--class-weights", "balanced").code == 2
    again = cli("finetune", "--resume", "--class-weights", moved)
    assert again.code == 0, again.err


def test_a_named_run_must_be_there(cli: Cli, place: Path, stopped: Path) -> None:
    before = snapshot(place / "runs")
    for arguments, hint in (
        (("finetune", "data", "--run", "ex"), "Did you mean exp?"),
        (("finetune", "--run", "other"), "There are exp."),
        (("train", "data", "--run", "exp"), "There is runs/finetune/exp, of `resnest finetune`."),
        (("train", "data", "--run", "exp", "-o", "none"), "--output says where runs lie"),
    ):
        found = cli(*arguments, "--resume")
        assert found.code == 2, found.err
        assert f"{arguments[arguments.index('--run') + 1]}: there is no such run" in found.err
        assert hint in found.err
    assert snapshot(place / "runs") == before


def test_dry_run_tells_what_is_left(cli: Cli, place: Path, stopped: Path) -> None:
    (place / "two.toml").write_text("devices = 2\n")
    before = snapshot(place)
    found = cli("finetune", "--resume", "--dry-run")
    assert found.code == 0, found.err
    for text in (
        "run       runs/finetune/exp",
        "next      epoch 2 of 3, after batch 1 of 3; done: 4 steps in ",
        "3 epochs of batches of 8",
        "estimate",
    ):
        assert text in found.out
    for more, code, text in (
        (("--lr", "0.5"), 2, "lr: 0.003 there, 0.5 now"),
        (("--epochs", "1", "--devices", "2"), 2, "was trained on 1 device"),
        (("--config", "two.toml"), 2, "was trained on 1 device"),
        (("--find-lr",), 2, "leave out --resume"),
        (("--epochs", "9"), 0, "9 epochs instead of 3"),
    ):
        found = cli("finetune", "--resume", "--dry-run", *more)
        assert (found.code, text in found.err) == (code, True), found.err
    assert snapshot(place) == before


@pytest.mark.parametrize("more", [(), ("-j", "1"), ("--grad-accum-steps", "2"), ("--balanced",)])
def test_photos_that_vanish_are_left_out(
    cli: Cli, place: Path, given: tuple[str, ...], at_step: AtStep, more: tuple[str, ...],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if more:
        request.getfixturevalue("no_pictures")  # which are the first one's to show
    gone = [place / "data" / name for name in ("c0/1.jpg", "c1/4.jpg", "c2/7.jpg", "c2/8.jpg")]

    def vanish() -> None:
        for path in gone[:-1]:
            path.unlink()
        gone[-1].write_bytes(b"\xff\xd8\xff half a photo")

    at_step(1, vanish)
    found = cli(*given, *more)
    assert found.code == 0, found.err
    run = place / "runs" / "finetune" / "exp"
    assert {row["path"] for row in lost_of(run)} == {f"{p.parent.name}/{p.name}" for p in gone}
    assert {row["error"] for row in lost_of(run)} > {"does not exist"}
    for path in gone:
        assert found.err.count(f"{path.parent.name}/{path.name} ") == 1
    assert "4 photos could not be read" in found.err
    assert "was not drawn" not in found.err
    if more:
        return
    again = cli("finetune", "--resume", "--run", "exp", "--epochs", "4")
    assert again.code == 0, again.err
    assert "4 photos could not be read" in again.err


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("more", [(), ("-j", "1")])
def test_a_disk_that_is_gone_ends_the_run_and_nothing_is_lost(
    cli: Cli, place: Path, given: tuple[str, ...], at_step: AtStep, more: tuple[str, ...]
) -> None:
    assert cli(*given, "--run", "straight").code == 0
    at_step(4, lambda: (place / "data").rename(place / "away"))
    found = cli(*given, *more)
    assert found.code == 1
    assert "photos cannot be read any more" in found.err
    assert "Is the disk with the data still there?" in found.err
    again = cli("finetune", "--resume")
    assert (again.code, "--resume DATA" in again.err) == (2, True)
    (place / "data").mkdir()  # where nothing is mounted
    again = cli("finetune", "--resume", "--run", "exp")
    assert (again.code, "--resume DATA" in again.err) == (2, True)
    (place / "data").rmdir()
    (place / "away").rename(place / "data")
    again = cli("finetune", "--resume", "--run", "exp")
    assert again.code == 0, again.err
    assert "that were lost are back" in again.err
    runs = place / "runs" / "finetune"
    assert same(tensors(runs / "exp"), tensors(runs / "straight"))


@pytest.mark.usefixtures("no_pictures")
def test_a_class_that_vanishes_is_told(
    cli: Cli, place: Path, given: tuple[str, ...], at_step: AtStep
) -> None:
    at_step(1, lambda: shutil.rmtree(place / "data" / "c1"))
    found = cli(*given)
    assert found.code == 0, found.err
    assert found.err.count("was the last photo of its class to learn from") == 1
    state = load_state(place / "runs/finetune/exp/resume", lambda _: None)
    assert state is not None
    assert len(state.record.lost) == PHOTOS
    assert isinstance(state.record.lost[0], LostPhoto)


@pytest.mark.usefixtures("no_pictures")
def test_features_of_a_frozen_backbone_and_kept_photos(
    cli: Cli, place: Path, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainingDisplay.plan

    def plan(self: TrainingDisplay, lines: list[tuple[str, str]]) -> None:
        original(self, lines)
        if len(lines) > 1:  # the plan itself: photos were checked, and are read again from here on
            (place / "data" / "c0" / "3.jpg").unlink(missing_ok=True)

    monkeypatch.setattr(TrainingDisplay, "plan", plan)
    photo = place / "data" / "c0" / "3.jpg"
    for more in (("--cache",), ("--freeze", "backbone")):
        make_photo(photo, (50, 40), seed=3)
        found = cli(*given, *more, "--run", more[0].strip("-"))
        assert found.code == 0, found.err
        assert "1 photo could not be read" in found.err
        (row,) = lost_of(place / "runs" / "finetune" / more[0].strip("-"))
        assert (row["path"], row["class_name"], row["epoch"]) == ("c0/3.jpg", "c0", "1")


NOHUP = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from resnest_cli.signals import PatientStop, StopRequest
for context in (PatientStop, StopRequest):
    with context() as found:
        signal.raise_signal(signal.SIGHUP)
        found.check()
print("ignored")
"""


def test_nohup_is_heeded() -> None:
    assert signal.SIGHUP in heeded()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", NOHUP], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout == "ignored\n", done.stderr
