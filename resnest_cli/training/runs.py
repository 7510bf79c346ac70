"""Run folders: where a run keeps its weights, its state and what it tells.

runs/<command>/<name>/       exp, exp2, ... unless named
    weights/                 best.safetensors, last.safetensors; with a moving average also
                             last_ema, best_raw and best_ema
    resume/                  the training state, see `resume`; cached features
    args.toml, split.csv (shards.json), results.csv, recall.csv, lost.csv, pictures
"""

import contextlib
import difflib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from resnest_cli.errors import ResnestError, UsageError, cannot_write
from resnest_cli.files import remove_leftovers, temporary_name, write_text
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.training import resume
from resnest_cli.training.history import EpochRow
from resnest_cli.training.lost_photos import LostPhoto
from resnest_cli.training.results import write_lost, write_recall, write_results
from resnest_cli.training.resume import Progress

# What only training writes into a run's folder. What other commands may be writing there meanwhile,
# such as exports and the pictures of an evaluation, is not ours to remove.
_WRITTEN = (
    "args.toml", "split.csv", "shards.json", "results.csv", "recall.csv", "lost.csv",
    "train_batch.jpg", "curves.png", "val_predictions.jpg", "report.html",
    "weights/best*.safetensors", "weights/last*.safetensors", "weights/epoch-*.safetensors",
    "resume/*",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run; nothing is created by looking at them."""

    path: Path

    @property
    def args(self) -> Path:
        """Every setting, as `--config` reads it."""
        return self.path / "args.toml"

    @property
    def split(self) -> Path:
        """Which photo trains and which validates."""
        return self.path / "split.csv"

    @property
    def shards(self) -> Path:
        """In place of `split`: which shards train and which validate."""
        return self.path / "shards.json"

    @property
    def results(self) -> Path:
        """A row for each epoch; `recall.csv` beside it has a column for each class."""
        return self.path / "results.csv"

    @property
    def lost(self) -> Path:
        """The photos that could not be read any more, where there are any."""
        return self.path / "lost.csv"

    @property
    def states(self) -> Path:
        """Training states and cached features."""
        return self.path / "resume"

    def weights(self, name: str) -> Path:
        """`best`, `last`, ..."""
        return self.path / "weights" / f"{name}.safetensors"

    def note_job(self, job: str) -> None:
        """Remembers which job of torchrun it is of, so that a restart finds it."""
        if job:
            try:
                write_text(self.states / "job", job)
            except OSError as error:
                raise _unwritable(self.path, error) from error

    @property
    def started(self) -> bool:
        """Whether there is anything to resume."""
        known = self.split.exists() or self.shards.exists()
        return self.args.exists() and known and bool(resume.states(self.states))

    def progress(self) -> Progress | None:
        """Where the run stands, from its newest readable state."""
        for path in resume.states(self.states):
            with contextlib.suppress(*resume.DAMAGE):
                return resume.read_progress(path)
        return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in the same folder; what a kill left half goes.

        Raises:
            ResnestError: one does already, or the folder cannot be written.
        """
        lock = FileLock(self.states / "lock")
        try:
            self.states.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise ResnestError(
                f"{self.path}: another process is training in this folder. Wait for it, or start a "
                "run of another name with --run NAME."
            ) from None
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            for name in _WRITTEN:
                remove_leftovers(self.path / name)
            for folder in (self.states / "features").glob("*"):
                remove_leftovers(folder / "*")
            yield
        finally:
            lock.release()


def new_run(base: Path, name: str | None, stem: str = "exp") -> RunFolder:
    """Creates `base/<name>`, or the first of exp, exp2, ... (of `stem`) that is free.

    Raises:
        UsageError: a run of that name is there.
        ResnestError: the folder cannot be created.
    """
    try:
        base.mkdir(parents=True, exist_ok=True)
        if name is not None:
            path = base / name
            check_free(path)
            path.mkdir(exist_ok=True)
            return RunFolder(path)
        number = 1
        while True:
            path = base / (stem if number == 1 else f"{stem}{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return RunFolder(path)
            number += 1
    except OSError as error:
        raise _unwritable(base, error) from error


def check_free(path: Path) -> None:
    """Tells a run that is there already.

    Raises:
        UsageError: the folder exists and is not empty.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(
            f"{path} exists. Add --resume to go on with it, or give another name with --run."
        )


def find_run(base: Path, name: str | None) -> RunFolder | None:
    """The run to resume: the one of this name, or the newest that has something to resume.

    Raises:
        UsageError: there is no folder of this name.
    """
    if name is not None:
        run = RunFolder(base / name)
        if not run.path.is_dir():
            raise UsageError(_no_such_run(base, name))
        return run if run.started else None
    runs = [RunFolder(path) for path in base.glob("*") if path.is_dir()]
    started = [run for run in runs if run.started]
    return max(started, key=lambda run: run.args.stat().st_mtime_ns, default=None)


def _no_such_run(base: Path, name: str) -> str:
    """The error, with the runs that there are."""
    known = sorted(path.name for path in base.glob("*") if RunFolder(path).started)
    near = difflib.get_close_matches(name, known, n=1)
    others = (base.with_name(command) / name for command in ("train", "finetune"))
    elsewhere = [path for path in others if path.is_dir()]
    if near:
        hint = f"Did you mean {near[0]}?"
    elif elsewhere:
        hint = f"There is {elsewhere[0]}, of `resnest {elsewhere[0].parent.name}`."
    elif known:
        hint = f"There are {', '.join(known[:10])}{' and more' if known[10:] else ''}."
    else:
        hint = "There is none in that folder; --output says where runs lie."
    return (
        f"{base / name}: there is no such run to go on with. {hint} To begin it leave out --resume."
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


def check_run_name(name: str | None) -> None:
    """A run's name is one folder.

    Raises:
        UsageError: empty, or with a separator.
    """
    if name is not None and (not name or name in {".", ".."} or {"/", os.sep} & set(name)):
        raise UsageError(f"--run {name!r}: give the name of one folder, such as exp2.")


def _unwritable(path: Path, error: OSError) -> ResnestError:
    return ResnestError(
        f"{path}: the run folder cannot be written: {error.strerror or error}. Run from another "
        "folder, or give one with --output."
    )


def _no_room(path: Path, error: OSError) -> ResnestError:
    return ResnestError(f"{cannot_write(path, error)} After that go on with --resume.")


@dataclass(frozen=True, slots=True)
class RunKeeper:
    """Puts what the loop hands over into a run folder; see `interfaces.Keeper`.

    `info` is what every checkpoint of the run says of itself; `whole` makes the network's whole
    state dict of what is trained; of weights named by their epoch the last `keep_epochs` stay.
    """

    run: RunFolder
    info: CheckpointInfo
    whole: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    keep_epochs: int = 0

    def save_weights(
        self, names: Sequence[str], tensors: Mapping[str, Tensor], metrics: Mapping[str, Any]
    ) -> None:
        """One checkpoint under several names, which share its bytes where the disk can do that."""
        provenance = {**self.info.provenance, "epoch": metrics["epoch"]}
        info = replace(self.info, metrics=dict(metrics), provenance=provenance)
        first = self.run.weights(names[0])
        try:
            first.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _no_room(first.parent, error) from error
        checkpoint.save(first, self.whole(tensors), info)
        for name in names[1:]:
            _same_file(first, self.run.weights(name))
        if self.keep_epochs:
            kept = sorted(first.parent.glob("epoch-*.safetensors"))
            for old in kept[: -self.keep_epochs]:
                old.unlink(missing_ok=True)

    def save_rows(self, rows: Sequence[EpochRow], recall: Sequence[float | None]) -> None:
        """`results.csv` and `recall.csv`."""
        names = self.info.class_names or ()
        try:
            write_results(self.run.results, rows)
            write_recall(self.run.path / "recall.csv", names, rows[-1].epoch, recall)
        except OSError as error:
            raise _no_room(self.run.results, error) from error

    def save_state(
        self,
        progress: Progress,
        parts: Mapping[str, Mapping[str, Tensor]],
        scaler: Mapping[str, Any],
    ) -> None:
        """The training state."""
        resume.save_state(self.run.states, progress, parts, scaler)

    def save_lost(self, photos: Sequence[LostPhoto]) -> None:
        """`lost.csv`."""
        names = self.info.class_names or ()
        try:
            write_lost(self.run.lost, photos, names)
        except OSError as error:
            raise _no_room(self.run.lost, error) from error


class NoKeeper:
    """Keeps nothing: of several devices, one process writes. See `interfaces.Keeper`."""

    def save_weights(
        self, names: Sequence[str], tensors: Mapping[str, Tensor], metrics: Mapping[str, Any]
    ) -> None:
        """Does nothing."""

    def save_rows(self, rows: Sequence[EpochRow], recall: Sequence[float | None]) -> None:
        """Does nothing."""

    def save_state(
        self,
        progress: Progress,
        parts: Mapping[str, Mapping[str, Tensor]],
        scaler: Mapping[str, Any],
    ) -> None:
        """Does nothing."""

    def save_lost(self, photos: Sequence[LostPhoto]) -> None:
        """Does nothing."""


def _same_file(source: Path, target: Path) -> None:
    """Gives a file a second name, atomically: by a link, or by a copy."""
    temporary = temporary_name(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    except OSError as error:
        raise _no_room(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
