"""What `train` and `finetune` print."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from resnest_cli import output
from resnest_cli.data.dataset import DataSet
from resnest_cli.output.messages import Bar
from resnest_cli.output.training import TrainingDisplay
from tests.output.test_output import Terminal
from tests.report.rows import ROW, history, without_ema


@dataclass
class Photo:
    name: str
    label: Any
    error: str = "is empty (0 bytes)"


@dataclass
class Data:
    """What the display reads of a `DataSet`."""

    class_ids: tuple[str, ...] = ("n01", "n02", "n03")
    class_names: tuple[str, ...] = ("cat", "[bold]dog", "x\x1b[31m\ny")
    train: tuple[Photo, ...] = tuple(Photo(f"t{i}.jpg", i % 3) for i in range(1500))
    val: tuple[Photo, ...] = tuple(Photo(f"v{i}.jpg", i % 2) for i in range(300))
    bad: tuple[Photo, ...] = ()
    notes: tuple[str, ...] = ("n03 has no photo to validate.",)
    own_split: bool = False
    shards = None
    unlabelled: tuple[Photo, ...] = ()
    multi_label = False
    folds: tuple[int, ...] = ()
    learned = DataSet.learned
    train_counts, val_counts = DataSet.train_counts, DataSet.val_counts
    train_photos, val_photos = DataSet.train_photos, DataSet.val_photos
    _counts = DataSet._counts


Captured = pytest.CaptureFixture[str]


def steps(display: TrainingDisplay, epoch: int, count: int, **known: float) -> None:
    values = {"loss": 2.3456, "lr": 0.0123, "speed": 412.3, "left": 754.0}
    for step in range(1, count + 1):
        display.step(epoch=epoch, step=step, **(values | known))


def test_a_run_without_a_terminal(capsys: Captured) -> None:
    """A header and a line for each epoch; steps only now and then, and none in a quick run."""
    rows = history(3)
    rows[1] = replace(rows[1], best=False)
    with TrainingDisplay() as display:
        display.start(epochs=3, steps=100, first_epoch=1)
        for row in rows:
            steps(display, row.epoch, 100)
            display.validating(1, 2)
            display.epoch(row)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "Epoch     Loss  Val loss    Top-1    Top-5  EMA top-1   Recall      Time\n"
        "  1/3   2.1667    1.6667   16.67%   90.00%     20.00%   54.00%      10 s best\n"
        "  2/3   1.8333    1.3333   33.33%   90.00%     40.00%   54.00%      10 s\n"
        "  3/3   1.5000    1.0000   50.00%   90.00%     60.00%   54.00%      10 s best\n"
    )


def test_steps_are_told_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(Bar, "PLAIN", 0.0)
    display = TrainingDisplay()
    display.start(epochs=50, steps=120, first_epoch=13)
    steps(display, 13, 1)
    steps(display, 13, 1, left=float("nan"), speed=float("nan"))
    display.validating(3, 7)
    display.progress("Computing features")(1, 10)
    assert capsys.readouterr().err == (
        "Epoch 13 of 50 is next.\n"
        "Epoch 13/50 1/120  loss 2.3456  12:34 left  412 photos/s  lr 0.0123\n"
        "Epoch 13/50 1/120  loss 2.3456  lr 0.0123\n"
        "Validating 3/7\n"
        "Computing features 1/10\n"
    )


def test_the_table_has_the_columns_that_there_are(capsys: Captured) -> None:
    display = TrainingDisplay()
    display.start(epochs=1, steps=1, first_epoch=1)
    display.epoch(without_ema(ROW))
    assert capsys.readouterr().err == (
        "Epoch     Loss  Val loss    Top-1   Recall      Time\n"
        "  1/1   2.0000    1.5000   50.00%   54.00%      10 s best\n"
    )


def test_the_table_fits_80_columns(capsys: Captured) -> None:
    row = replace(ROW, epoch=270, train_loss=98765.4, val_loss=99.99, top1=1.0, top5=1.0,
                  ema_top1=1.0, recall=1.0, seconds=86000.0)  # fmt: skip
    display = TrainingDisplay()
    display.start(epochs=270, steps=1, first_epoch=270)
    capsys.readouterr()
    display.epoch(row)
    header, line = capsys.readouterr().err.splitlines()
    assert len(line) <= 80
    assert line.split() == ["270/270", "9.88e+04", "99.9900", "100.00%", "100.00%", "100.00%",
                            "100.00%", "23:53:20", "best"]  # fmt: skip
    assert header.index("Recall") + len("Recall") == header.index("Time") - 6


def test_a_run_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(Bar, "DELAY", 0.0)
    monkeypatch.setattr(Bar, "FRAME", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with TrainingDisplay() as display:
        with display.showing("Checking photos") as progress:
            progress(10, None)
            progress(20, 30)
        display.progress("Computing features")(5, 10)
        display.start(epochs=2, steps=10, first_epoch=1)
        for row in history(2):
            steps(display, row.epoch, 10)
            display.validating(1, 2)
            display.epoch(row)
        display.message("in between")
        assert sys.stderr is not terminal  # others' lines go above the live one
    assert sys.stderr is terminal
    text = terminal.getvalue()
    for shown in ("Checking photos 10", "20/30", "Computing features", "Epoch 1/2", "412 photos/s",
                  "12:34 left", "Validating", "in between\n", "best"):  # fmt: skip
        assert shown in text
    assert text.count("Val loss") == 1


def test_the_live_line_ends_with_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(Bar, "DELAY", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())

    def interrupted() -> None:
        with TrainingDisplay() as display:
            display.start(epochs=2, steps=10, first_epoch=1)
            steps(display, 1, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sys.stderr is terminal
    assert terminal.getvalue().endswith("\x1b[2K")


def test_data(capsys: Captured) -> None:
    bad = tuple(Photo(f"n01/{i}\n.jpg", "n01") for i in range(12))
    TrainingDisplay().data(Data(bad=bad))  # type: ignore[arg-type]
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[:4] == [
        "data      1,500 photos to train on, 300 to validate (split by class); 3 classes:",
        r"          cat, [bold]dog, x\x1b[31m\ny",
        "n03 has no photo to validate.",
        "12 photos cannot be read and will be left out:",
    ]
    assert lines[4] == r"  n01/0\n.jpg: is empty (0 bytes)"
    assert lines[-1] == "  and 2 more; split.csv lists them all."
    assert len(lines) == 4 + 10 + 1


def test_a_dry_run_goes_to_stdout_and_is_complete(capfd: Captured) -> None:
    bad = tuple(Photo(f"n01/{i}.jpg", "n01") for i in range(12))
    display = TrainingDisplay(dry_run=True)
    output.set_quiet(True)  # it was asked for
    try:
        display.data(Data(bad=bad, own_split=True))  # type: ignore[arg-type]
        display.plan([("memory", "about 2 GB")])
    finally:
        output.set_quiet(False)
    printed = capfd.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert [line.split() for line in lines if line.startswith(("n0", "all"))][:5] == [
        ["n01", "cat", "500", "150"],
        ["n02", "[bold]dog", "500", "150"],
        ["n03", r"x\x1b[31m\ny", "500", "0"],
        ["all", "1,500", "300"],
        ["n03", "has", "no", "photo", "to", "validate."],
    ]
    assert "as the data have it" in printed.out
    assert sum("is empty" in line for line in lines) == 12
    assert lines[-1] == "memory    about 2 GB"


def test_plan_folds_at_words(capsys: Captured) -> None:
    path = "/a/very/long/path/" + 90 * "x"
    network = "resnest50d " + "狗狗狗 " * 12 + path
    TrainingDisplay().plan([("network", network), ("a longer name", "v\x1b"), ("none", "")])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("network        resnest50d 狗狗狗 ")
    assert lines[-3] == " " * 15 + path  # whole, so that it can be copied
    assert lines[-2:] == [r"a longer name  v\x1b", "none"]
    assert all(len(line) + line.count("狗") <= 80 for line in lines if "/" not in line)


def test_of_many_short_epochs_some_are_shown(capsys: Captured) -> None:
    def shown(epochs: int, seconds: float) -> list[str]:
        display = TrainingDisplay()
        display.start(epochs=epochs, steps=1, first_epoch=1)
        for row in history(epochs):
            display.epoch(replace(row, seconds=seconds))
        return capsys.readouterr().err.splitlines()

    lines = shown(60, 0.0123)
    assert lines[0] == "The epochs are short: one in 3 is shown, results.csv has all."
    assert [line.split()[0] for line in lines[2:]] == [
        "1/60",
        *(f"{n}/60" for n in range(3, 61, 3)),
    ]
    assert all("12 ms" in line for line in lines[2:])
    assert len(shown(20, 0.0123)) == 21
    assert len(shown(60, 2.0)) == 61


def test_summary(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "weights").mkdir()
    for name in ("weights/best.safetensors", "results.csv"):
        (tmp_path / name).touch()
    rows = history(3)
    rows[2] = replace(rows[2], best=False)
    command = "resnest predict 'my photo.jpg' --model " + 90 * "x"
    TrainingDisplay().summary(tmp_path, rows, command, 41.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == (
        "Best top-1: 40.00% (EMA), mean recall 54.00%, in epoch 2 of 3. It took 42 s."
    )
    assert lines[2] == f"In {tmp_path}:"
    assert [line.split()[0] for line in lines[3:5]] == ["weights/best.safetensors", "results.csv"]
    assert lines[5:] == ["Try it:", f"  {command}"]


def test_quiet_is_silent(capsys: Captured, tmp_path: Path) -> None:
    output.set_quiet(True)
    try:
        with TrainingDisplay() as display:
            display.data(Data())  # type: ignore[arg-type]
            display.plan([("a", "b")])
            display.start(epochs=2, steps=10, first_epoch=2)
            steps(display, 1, 10)
            display.epoch(ROW)
            display.message("x")
            display.summary(tmp_path, [ROW], "y", 1.0)
    finally:
        output.set_quiet(False)
    assert capsys.readouterr() == ("", "")
