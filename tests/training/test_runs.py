"""Run folders: names, which one is resumed, one process each; tables that read back as written."""

import contextlib
import csv
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import atomic_file
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.training import runs
from resnest_cli.training.runs import RunFolder, RunKeeper
from resnest_cli.training.state import RunRecord, State, save_state
from tests.networks import TINY
from tests.report.rows import ROW, history, without_ema

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def started(base: Path, name: str, at: int) -> RunFolder:
    run = runs.new_run(base, name)
    run.args.write_text("")
    run.split.write_text("")
    save_state(run.states, State(RunRecord(epoch=at), {"model": {}}, {}))
    os.utime(run.args, (at, at))
    return run


def test_names(tmp_path: Path) -> None:
    base = tmp_path / "runs" / "train"
    assert [runs.new_run(base, None).path.name for _ in range(3)] == ["exp", "exp2", "exp3"]
    assert runs.new_run(base, "mine").path == base / "mine"
    (base / "mine" / "args.toml").write_text("")
    with pytest.raises(UsageError, match="--resume"):
        runs.new_run(base, "mine")
    for bad in ("", ".", "..", "a/b"):
        with pytest.raises(UsageError, match="--run"):
            runs.check_run_name(bad)


def test_the_newest_that_has_begun_is_resumed(tmp_path: Path) -> None:
    assert runs.find_run(tmp_path, None) is None
    for name, at in (("exp", 200), ("exp2", 300), ("mine", 250)):
        started(tmp_path, name, at)
    runs.new_run(tmp_path, "empty")
    newest = runs.find_run(tmp_path, None)
    assert newest is not None
    assert newest.path.name == "exp2"
    named = runs.find_run(tmp_path, "exp")
    assert named is not None
    assert named.record() == RunRecord(epoch=200)
    assert runs.find_run(tmp_path, "empty") is None
    for name, hint in (("exq", "Did you mean exp?"), ("none", "There are exp, exp2, mine.")):
        with pytest.raises(UsageError, match=rf"{name}: there is no such run to .* {hint}"):
            runs.find_run(tmp_path, name)
    started(tmp_path / "finetune", "exp", 200)
    elsewhere = rf"There is {tmp_path}/finetune/exp, of `resnest finetune`"
    with pytest.raises(UsageError, match=elsewhere):
        runs.find_run(tmp_path / "train", "exp")


@contextlib.contextmanager
def forked(work: Callable[..., None], *arguments: object) -> Iterator[BaseProcess]:
    """A process that has come to a point in `work`, and has not left it."""
    fork = multiprocessing.get_context("fork")
    there = fork.Event()

    def stay() -> None:
        there.set()
        time.sleep(600)

    process = fork.Process(target=work, args=(*arguments, stay))
    process.start()
    try:
        assert there.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


def holding(folder: Path, stay: Callable[[], None]) -> None:
    with RunFolder(folder).locked():
        stay()


@FORKS
def test_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    with forked(holding, tmp_path):
        written = tmp_path / ".results.csv.01234567.tmp"  # by the other process, just now
        written.write_bytes(b"half")
        with pytest.raises(ResnestError, match="another process"), RunFolder(tmp_path).locked():
            pass
        assert written.exists()
    with RunFolder(tmp_path).locked():
        pass


def half_written(path: Path, how: str, stay: Callable[[], None]) -> None:
    if how == "link":
        runs.Path.replace = lambda *_: stay()  # type: ignore[method-assign]
        runs._same_file(path.with_name("last.safetensors"), path)
    with atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        stay()


@FORKS
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("weights/best.safetensors", "file"),
        ("weights/best.safetensors", "link"),
        ("resume/state-00009-00000000.safetensors", "file"),
        ("resume/features/0abc/00000000.npy", "file"),
        ("results.csv", "file"),
        ("train_batch.jpg", "file"),
    ],
)
def test_what_a_kill_leaves_goes_with_the_next_start(tmp_path: Path, name: str, how: str) -> None:
    run = RunFolder(tmp_path)
    with run.locked():
        (tmp_path / "weights").mkdir()
        (tmp_path / "resume" / "features" / "0abc").mkdir(parents=True)
        run.weights("last").write_bytes(b"whole")
    others = (".mine.tmp", "weights/.best.onnx.01234567.tmp", ".results.csv.0123456.tmp",
              "results.csv.01234567.tmp", ".classes.csv.01234567.tmp",
              ".confusion_matrix.png.01234567.tmp")  # fmt: skip
    for kept in others:
        (tmp_path / kept).write_bytes(b"of another command or the user")
    (tmp_path / ".recall.csv.01234567.tmp").mkdir()  # cannot be unlinked, and is in nobody's way
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with forked(half_written, tmp_path / name, how):
        pass  # and is killed
    left = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert [path.suffix for path in left] == [".tmp"]
    with run.locked():
        there = {path for path in tmp_path.rglob("*") if path.is_file()}
        assert there == before | {run.states / "lock"}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ResnestError, match="--output"):
        runs.new_run(tmp_path / "runs" / "train", None)


def test_no_room_for_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(self))

    run = runs.new_run(tmp_path, None)
    keeper = runs.RunKeeper(run, CheckpointInfo(variant=TINY), {})
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(ResnestError, match=r"weights: cannot be written: No space .*--resume"):
        keeper.save_weights(["last"], {}, {"epoch": 1})


HEADER = (
    "epoch,step,lr,train_loss,val_loss,top1,top5,ema_loss,ema_top1,ema_top5,recall,which,best,"
    "photos_per_second,train_seconds,seconds"
)


def keeper(folder: Path, *names: str) -> RunKeeper:
    return RunKeeper(RunFolder(folder), CheckpointInfo(variant=TINY, class_names=names), {})


def test_rows_read_back(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    exact = replace(ROW, lr=0.1 + 0.2, top1=1 / 3, best=False)
    rows = [exact, without_ema(ROW)]
    keeper(tmp_path).save_rows(rows, [])
    text = path.read_text("utf-8")
    assert text.splitlines()[0] == HEADER
    assert text.endswith("\n")
    assert "\r" not in text
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    for row, cells in zip(rows, found, strict=True):
        assert tuple(cells) == row.columns
        for name, value in ((name, getattr(row, name)) for name in row.columns):
            assert cells[name] == ("" if value is None else str(value))
    assert float(found[0]["lr"]) == 0.1 + 0.2
    assert float(found[0]["top1"]) == 1 / 3
    assert [cells["best"] for cells in found] == ["False", "True"]


def test_the_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for epochs in (3, 2):
        keeper(tmp_path).save_rows(history(epochs), [])
    assert len(path.read_text("utf-8").splitlines()) == 3
    assert sorted(tmp_path.iterdir()) == [path.with_name("recall.csv"), path]
    with pytest.raises(ResnestError, match="there is no folder"):
        keeper(tmp_path / "gone").save_rows(history(1), [])


def test_recall_has_a_column_for_each_class_and_no_epoch_twice(tmp_path: Path) -> None:
    path = tmp_path / "recall.csv"
    for epoch, recall in ((1, (0.5, None)), (2, (0.25, 1.0)), (3, (0.0, 0.0)), (2, (0.75, 1.0))):
        keeper(tmp_path, "cat, grey", "dog").save_rows(history(epoch), recall)
    assert path.read_text() == 'epoch,"cat, grey",dog\n1,0.5,\n2,0.75,1.0\n'
