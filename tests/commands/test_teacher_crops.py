"""`--teacher-crops`: one pass of the teacher, stopped and gone on with, and epochs without it."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resnest_cli.model.checkpoint_header import set_metadata
from resnest_cli.training import teacher_answers
from resnest_cli.training.step import Stepper
from resnest_cli.training.teacher import Teacher
from resnest_cli.training.teacher_answers import TeacherAnswers
from resnest_cli.training.time_budget import Clock
from tests.conftest import CLASSES, Cli, make_photo

PHOTOS = 12


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teacher_answers, "CHUNK", 8)
    monkeypatch.setattr("resnest_cli.training.report._drawn", lambda *_: None)
    for label, name in enumerate(CLASSES[:2]):
        for index in range(PHOTOS):
            path = tmp_path / "data" / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_photo(path, (50, 40), seed=100 * label + index)
    return tmp_path


@pytest.fixture
def given(tiny_checkpoint: Path) -> list[Any]:
    """The arguments of a run on twenty photos, whose teacher is the network that it starts from."""
    return [
        "finetune", "data", "--model", tiny_checkpoint, "--teacher", tiny_checkpoint,
        "--teacher-crops", "4", "--lr", "0.01", "--epochs", "2", "-b", "4", "-j", "0",
    ]  # fmt: skip


def weights(runs: str, name: str = "exp") -> bytes:
    return Path(runs, "finetune", name, "weights", "last.safetensors").read_bytes()


def signalled(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, number: int
) -> Callable[..., Any]:
    """Ctrl-C before the call of this number."""
    real, left = getattr(owner, name), iter(range(1, number))

    def call(self: object, *more: Any, **how: Any) -> Any:
        if next(left, None) is None:
            signal.raise_signal(signal.SIGINT)
        return real(self, *more, **how)

    monkeypatch.setattr(owner, name, call)
    return lambda: monkeypatch.setattr(owner, name, real)


def test_a_run_that_is_stopped_in_either_part_ends_with_the_same_bytes(
    cli: Cli, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = cli(*given, "-o", "quiet")
    assert quiet.code == 0, quiet.err
    restored = signalled(monkeypatch, TeacherAnswers, "write", 2)
    stopped = cli(*given, "-o", "other")
    assert stopped.code == 130
    assert "resnest finetune data --output other --run exp --resume" in stopped.err
    assert len(Path(next(Path("other/teacher").iterdir()), "chunks").read_text().splitlines()) == 2
    restored()
    other = Path(shutil.copy(given[3], "other.safetensors"))  # the same classes, other answers
    set_metadata(other, temperature="2.0")
    refused = cli("finetune", "-o", "other", "--resume", "--teacher", other)
    assert (refused.code, "are not the teacher's weights" in refused.err) == (2, True), refused.err
    restored = signalled(monkeypatch, Stepper, "step", 3)
    stopped = cli("finetune", "data", "--output", "other", "--run", "exp", "--resume")
    assert stopped.code == 130, stopped.err
    restored()
    monkeypatch.setattr(Teacher, "logits", _never)  # it has answered
    ended = cli("finetune", "-o", "other", "--resume")
    assert ended.code == 0, ended.err
    assert weights("other") == weights("quiet")


def _never(*_: object) -> None:
    raise AssertionError("asked again")


def test_answers_serve_other_runs_and_the_option_acts(
    cli: Cli, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*given, "--epochs", "1"]
    assert cli(*given).code == 0
    for name, crops in (("two", "2"), ("online", "0")):
        assert cli(*given, "--teacher-crops", crops, "--run", name).code == 0
    found = {weights("runs", name) for name in ("exp", "two", "online")}
    assert len(found) == 3
    assert len(list(Path("runs/teacher").iterdir())) == 2
    monkeypatch.setattr(Teacher, "logits", _never)
    again = cli(*given, "--run", "again", "--cache")
    assert again.code == 0, again.err
    assert "there already" in again.err.replace("\n          ", " ")
    assert weights("runs", "again") == weights("runs")
    harder = cli(*given, "--run", "harder", "--aa", "rand-m9-n2", "--teacher-weight", "1")
    assert harder.code == 0, harder.err
    assert weights("runs", "harder") not in found


def test_a_dry_run_says_room_and_time_and_writes_nothing(cli: Cli, given: list[Any]) -> None:
    shown = cli(*given, "--dry-run")
    assert shown.code == 0, shown.err
    text = shown.out.replace("\n          ", " ")
    assert "answers   to 4 crops of each of 20 photos: 0.8 kB in runs/teacher/" in text
    assert "computed before the first epoch in about " in text
    assert "4 crops of each photo" in text
    assert not Path("runs").exists()


def test_no_room_is_said_before_anything_begins(
    cli: Cli, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    found = cli(*given)
    assert found.code == 1
    assert "the teacher's answers need" in found.err
    assert not Path("runs").exists()


def test_a_time_budget_ends_the_pass_too(
    cli: Cli, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Clock, "late", lambda *_: True)
        found = cli(*given, "--time-budget", "10m")
    assert found.code == 0, found.err
    assert "the teacher has not yet seen all photos" in found.err
    assert "--run exp --resume --time-budget 1200s" in found.err
    assert not Path("runs/finetune/exp/weights").exists()
    ended = cli("finetune", "data", "--run", "exp", "--resume", "--time-budget", "1200s")
    assert ended.code == 0, ended.err
    assert weights("runs")


def test_a_frozen_backbone_is_refused(cli: Cli, given: list[Any]) -> None:
    found = cli(*given, "--freeze", "backbone")
    assert found.code == 2
    assert "--freeze backbone" in found.err


@pytest.mark.slow
def test_two_devices_share_the_answers_of_the_first(given: list[Any], cli: Cli) -> None:
    arguments = [*given, "--device", "cpu", "-b", "2", "--epochs", "1"]
    command = [sys.executable, "-m", "resnest_cli", *map(str, arguments), "--devices", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert cli(*arguments, "--grad-accum-steps", "2", "--run", "alone").code == 0
    (folder,) = Path("runs/teacher").iterdir()
    assert (folder / "answers").stat().st_size == 20 * 4 * 10
    assert weights("runs")
