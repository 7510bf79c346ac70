"""Run folders: where a run keeps its weights, its state and its results.

runs/<command>/<name>/       exp, exp2, ... unless named
    weights/                 best.safetensors, last.safetensors; with a moving average also
                             last_ema, best_raw and best_ema
    resume/                  the training state, see `state`; cached features; begun.json;
                             asked.toml
    args.toml, split.csv (shards.json), results.csv, recall.csv, lost.csv, pictures
runs/teacher/                a teacher's answers, for all runs, see `teacher_crops`
"""

import contextlib
import csv
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from resnest_cli.data.dataset import UNLABELLED
from resnest_cli.errors import UsageError
from resnest_cli.files import atomic_path, lock_file, remove_leftovers, write_text, writing
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.text import Cell, csv_rows, did_you_mean, read_csv_rows, some
from resnest_cli.training.lost_photos import LostPhoto
from resnest_cli.training.state import (
    DAMAGE,
    EpochRow,
    RunRecord,
    State,
    read_record,
    save_state,
    saving,
    states,
)

# What only training writes into a run's folder. What other commands may be writing there meanwhile,
# such as exports and the pictures of an evaluation, is not ours to remove.
_WRITTEN = (
    "args.toml", "split.csv", "shards.json", "results.csv", "recall.csv", "lost.csv",
    "average_precision.csv", "folds.csv", "folds.html",
    "train_batch.jpg", "curves.png", "val_predictions.jpg", "report.html",
    "weights/best*.safetensors", "weights/last*.safetensors", "weights/epoch-*.safetensors",
    "resume/*", "resume/features/*/*", "resume/fold-*/resume/*",
)  # fmt: skip


_creating = partial(writing, then="Run from another folder, or give one with --output.")


class RunFolder:
    """The files of one run; nothing is created by looking at them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.args = path / "args.toml"  # every setting, as `--config` reads it
        self.split = path / "split.csv"  # which photo trains and which validates
        self.shards = path / "shards.json"  # in place of `split`: which shards
        self.states = path / "resume"  # training states and cached features
        self.asked = self.states / "asked.toml"  # the settings before any was decided or overruled
        self._begun = self.states / "begun.json"  # with what, before there is a state
        self.teacher = path.parent.parent / "teacher"  # its answers, for all runs

    def weights(self, name: str) -> Path:
        """`best`, `last`, ..."""
        return self.path / "weights" / f"{name}.safetensors"

    def note_job(self, job: str) -> None:
        """Remembers which job of torchrun it is of, so that a restart finds it."""
        if job:
            with _creating(self.path):
                write_text(self.states / "job", job)

    def note_begun(self, record: RunRecord) -> None:
        """Remembers what the run begins with: until it has a state, `record` finds this."""
        with _creating(self.path):
            self.states.mkdir(parents=True, exist_ok=True)
            write_text(self._begun, record.to_json())

    @property
    def started(self) -> bool:
        """Whether there is anything to resume."""
        known = self.split.exists() or self.shards.exists()
        return self.args.exists() and known and any([*states(self.states), self._begun.exists()])

    def record(self) -> RunRecord:
        """Where the run stands, from its newest readable state; at its beginning without one."""
        for path in states(self.states):
            with contextlib.suppress(*DAMAGE):
                return read_record(path)
        with contextlib.suppress(*DAMAGE):
            return RunRecord.from_json(self._begun.read_text(encoding="utf-8"))
        return RunRecord()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in the same folder; what a kill left half goes."""
        busy = (
            f"{self.path}: another process is training in this folder. Wait for it, or start a run "
            "of another name with --run NAME."
        )
        with contextlib.ExitStack() as stack:
            with _creating(self.path):
                self.states.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock_file(self.states / "lock", wait=0, busy=busy))
            for pattern in _WRITTEN:
                folder, _, name = pattern.rpartition("/")
                for place in self.path.glob(folder) if folder else [self.path]:
                    remove_leftovers(place / name)
            yield


def new_run(base: Path, name: str | None, stem: str = "exp") -> RunFolder:
    """Creates `base/<name>`, or the first of exp, exp2, ... (of `stem`) that is free."""
    with _creating(base):
        base.mkdir(parents=True, exist_ok=True)
        if name is not None:
            check_free(base / name)
            (base / name).mkdir(exist_ok=True)
            return RunFolder(base / name)
        number = 1
        while True:
            path = base / (stem if number == 1 else f"{stem}{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return RunFolder(path)
            number += 1


def check_free(path: Path) -> None:
    """Raises UsageError for a folder that exists and is not empty."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(
            f"{path} exists. Add --resume to go on with it, or give another name with --run."
        )


def check_run_name(name: str | None) -> None:
    """Raises UsageError for a name that is not that of one folder."""
    if name is not None and (not name or name in {".", ".."} or {"/", os.sep} & set(name)):
        raise UsageError(f"--run {name!r}: give the name of one folder, such as exp2.")


def find_run(base: Path, name: str | None) -> RunFolder | None:
    """The run to resume: the one of this name, or the newest that has something to resume."""
    if name is not None:
        run = RunFolder(base / name)
        if not run.path.is_dir():
            raise _no_such_run(base, name)
        return run if run.started else None
    runs = [RunFolder(path) for path in base.glob("*") if path.is_dir()]
    started = [run for run in runs if run.started]
    return max(started, key=lambda run: run.args.stat().st_mtime_ns, default=None)


def _no_such_run(base: Path, name: str) -> UsageError:
    known = sorted(path.name for path in base.glob("*") if RunFolder(path).started)
    hint = did_you_mean(name, known, 1)
    for command in ("train", "finetune"):
        if not hint and (elsewhere := base.with_name(command) / name).is_dir():
            hint = f" There is {elsewhere}, of `resnest {command}`."
    none = " There is none in that folder; --output says where runs lie."
    hint = hint or (f" There are {some(known, 10)}." if known else none)
    return UsageError(
        f"{base / name}: there is no such run to go on with.{hint} To begin it leave out --resume."
    )


def find_job(base: Path, job: str) -> RunFolder | None:
    """The newest run of this job of torchrun, with something to resume or without."""
    found = []
    for path in base.glob("*/resume/job"):
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == job:
                found.append(path)
    newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    return None if newest is None else RunFolder(newest.parents[1])


@dataclass(frozen=True, slots=True)
class RunKeeper:
    """Puts weights, states and results into a run folder.

    `info` is what every checkpoint of the run says of itself; `frozen` are tensors beside those
    that are trained. Of weights named by their epoch the last `keep_epochs` stay. What is known of
    the weights without their validation is in `metrics` and `thresholds`.
    """

    run: RunFolder
    info: CheckpointInfo
    frozen: Mapping[str, Tensor]
    keep_epochs: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    thresholds: tuple[float, ...] | None = None

    def save_weights(
        self,
        names: Sequence[str],
        tensors: Mapping[str, Tensor],
        metrics: Mapping[str, Any],
        thresholds: tuple[float, ...] | None = None,
    ) -> None:
        """One checkpoint under several names, which share its bytes where the disk can do that.

        `thresholds` are those of the classes where a photo may have several labels.
        """
        provenance = {**self.info.provenance, "epoch": metrics["epoch"]}
        info = replace(
            self.info,
            metrics={**metrics, **self.metrics},
            provenance=provenance,
            thresholds=thresholds or self.thresholds,
        )
        first = self.run.weights(names[0])
        with saving(first.parent):
            first.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(first, {**self.frozen, **tensors}, info)
        for name in names[1:]:
            _same_file(first, self.run.weights(name))
        if self.keep_epochs:
            for old in sorted(first.parent.glob("epoch-*.safetensors"))[: -self.keep_epochs]:
                old.unlink(missing_ok=True)

    def save_rows(self, rows: Sequence[EpochRow], classes: Sequence[float | None]) -> None:
        """`results.csv`, whose columns are those of `EpochRow`, and `recall.csv`: for each epoch
        the recall of each class in [0, 1]; of several labels `average_precision.csv`, likewise.
        Both anew, atomically; what is not known is empty.
        """
        path = self.run.path / "results.csv"
        with saving(path):
            columns = rows[-1].columns
            cells = ([getattr(row, name) for name in columns] for row in rows)
            write_text(path, csv_rows([columns, *cells]))
        if rows[-1].val_loss is None:  # nothing validated
            return
        name = "recall.csv" if rows[-1].map is None else "average_precision.csv"
        path, epoch = path.with_name(name), rows[-1].epoch
        with saving(path):
            table: list[Sequence[Cell]] = [["epoch", *(self.info.class_names or ())]]
            # Rows from `epoch` on, of a run that was killed and is repeating them, are replaced.
            table += [row for row in _read_rows(path) if int(row[0]) < epoch]
            write_text(path, csv_rows([*table, [epoch, *classes]]))

    def save_state(self, state: State) -> None:
        """Everything that a resumed run needs."""
        save_state(self.run.states, state)

    def save_lost(self, photos: Sequence[LostPhoto]) -> None:
        """`lost.csv`: all photos that could not be read any more, and since which epoch."""
        names, path = self.info.class_names or (), self.run.path / "lost.csv"
        rows: list[Sequence[Cell]] = [["path", "class_name", "split", "epoch", "error"]]
        for photo in photos:
            name: Cell = names[photo.label] if photo.label < len(names) else photo.label
            name = "" if photo.label == UNLABELLED else name
            rows.append([photo.name, name, photo.side, photo.epoch, photo.error])
        with saving(path):
            write_text(path, csv_rows(rows))


def _same_file(source: Path, target: Path) -> None:
    """Gives a file a second name, atomically: by a link, or by a copy."""
    with saving(target), atomic_path(target, durable=False) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)


def _read_rows(path: Path) -> list[list[str]]:
    """Those that begin with a number; none of a file that is missing or damaged."""
    with (
        contextlib.suppress(FileNotFoundError, csv.Error),
        path.open(encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        return [row for row in read_csv_rows(file) if row and row[0].isdecimal()]
    return []
