"""The training state: everything that a run needs to go on as if it had never stopped.

On disk one file for each state, `resume/state-<epoch>-<batches done>.safetensors`: the weights,
their moving average, the optimiser's tensors, and in the metadata, as JSON, its record and a
digest of all tensors. A file appears whole or not at all, and the one before is removed only when
the new one is there, so that a loadable state exists at any moment; two are kept, and a damaged
newest one gives way to the other. No pickle.

Random generators are not in it: every draw comes from (seed, epoch, index), see `seeds`.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from resnest_cli.errors import ResnestError
from resnest_cli.evaluation.scores import sort_key
from resnest_cli.files import atomic_file, writing
from resnest_cli.model.checkpoint_header import write_container
from resnest_cli.progress import Notify
from resnest_cli.training.lost_photos import LostPhoto

FORMAT = "resnest-training-state-1"
KEPT = 2

# What reading a damaged state raises; RecursionError where its JSON is nested thousands deep.
DAMAGE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)

# Around whatever writes a file of a run.
saving = partial(writing, then="After that go on with --resume.")

_NAME = re.compile(r"state-(\d{5})-(\d{8})\.safetensors")


# Fields of an `EpochRow` where a photo has one label, and where it may have several.
ONE_LABEL = frozenset(("top1", "top5", "ema_top1", "ema_top5", "recall"))
SEVERAL_LABELS = frozenset(("map", "ema_map", "micro_f1", "macro_f1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """One finished epoch: a row of `results.csv`, whose columns are these fields.

    `epoch` counts from 1, `step` all optimiser steps so far, `lr` is that of the last step. Losses
    are means over photos in nats; accuracies and recall are fractions in [0, 1]. `top5` is None
    with five classes or fewer, the `ema_` fields without a moving average. `recall` is the mean
    over classes of those weights that count (`which`). `best` says whether this epoch is the best
    so far, by the top-1 of these weights and of the same top-1 by their loss. Where no photo
    validates, none of these is known: the last epoch counts, averaged if there is an average. Times
    in seconds, without and with validation.

    Where a photo may have several labels, `map` (mean average precision) takes the place of top-1,
    and `micro_f1` and `macro_f1`, at 0.5, that of recall: `columns` are the fields that count.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    val_loss: float | None
    top1: float | None = None
    top5: float | None = None
    ema_loss: float | None
    ema_top1: float | None = None
    ema_top5: float | None = None
    recall: float | None = None
    map: float | None = None
    ema_map: float | None = None
    micro_f1: float | None = None
    macro_f1: float | None = None
    which: str  # "raw" or "ema": whose top-1 is higher, or whose loss is lower
    best: bool
    photos_per_second: float
    train_seconds: float
    seconds: float

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields, in order, without those of the other kind of labels."""
        other = ONE_LABEL if self.map is not None else SEVERAL_LABELS
        if self.val_loss is None:
            other = ONE_LABEL | SEVERAL_LABELS | {"val_loss", "ema_loss"}
        return tuple(field.name for field in fields(self) if field.name not in other)

    def score(self, which: str) -> float | None:
        """Top-1, or mAP, of the raw or the averaged weights."""
        raw = which == "raw"
        if self.map is not None:
            return self.map if raw else self.ema_map
        return self.top1 if raw else self.ema_top1

    def sort_key(self, which: str) -> tuple[float, float]:
        """`Scores.sort_key` of the raw or the averaged weights."""
        score, loss = self.score(which), self.val_loss if which == "raw" else self.ema_loss
        return (-1.0, -math.inf) if score is None or loss is None else sort_key(score, loss)


@dataclass(slots=True)
class RunRecord:
    """Where a run stands.

    `epoch` counts from 0 and is the one being trained, `position` the batches of it that are done,
    `step` the optimiser steps of the whole run. `loss_sum` is over the `loss_photos` photos of this
    epoch so far; `seconds` is the time that the epoch took so far, `used` that of the whole run in
    all its parts. `origin` names the weights that the run began with, by their hash,
    `class_weights` those of the classes, `exclude` the list of photos that were left out, `teacher`
    the teacher, by its `digest`. `lost` are the photos that could not be read any more.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_photos: int = 0
    seconds: float = 0.0
    used: float = 0.0
    rows: list[EpochRow] = field(default_factory=list)
    finished: bool = False
    origin: str = ""
    class_weights: str = ""
    teacher: str = ""
    exclude: str = ""
    lost: list[LostPhoto] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """From 1; 0 before any has ended."""
        return next((row.epoch for row in reversed(self.rows) if row.best), 0)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`; raises one of `DAMAGE`."""
        fields = json.loads(text)
        fields["rows"] = [EpochRow(**row) for row in fields["rows"]]
        fields["lost"] = [LostPhoto(**photo) for photo in fields.get("lost", [])]
        for told_by_rows in ("best", "best_loss", "best_epoch"):  # of an earlier version
            fields.pop(told_by_rows, None)
        return cls(**fields)

    def best_score(self, which: str) -> tuple[float, float]:
        """`Scores.sort_key` of the best epoch so far of the raw or the averaged weights."""
        return max((row.sort_key(which) for row in self.rows), default=(-1.0, -math.inf))


class BestAnswers(NamedTuple):
    """The best epoch's answers to the validation photos, as in `Scores` and `Evaluation`."""

    confusion: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]

    @classmethod
    def none(cls, num_classes: int) -> Self:
        """Before the first epoch has ended."""
        empty = np.zeros((num_classes, num_classes), np.int64)
        return cls(empty, np.empty(0, np.int64), np.empty(0, np.float32))

    def tensors(self) -> dict[str, Tensor]:
        """For a state. Of the matrix the cells that are not zero: int64 (N, 3)."""
        places = np.argwhere(self.confusion)
        counts = self.confusion[places[:, :1], places[:, 1:]]
        return {
            "cells": torch.from_numpy(np.concatenate([places, counts], axis=1)),
            "predicted": torch.from_numpy(self.predicted),
            "confidence": torch.from_numpy(self.confidence),
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], num_classes: int) -> Self:
        """The inverse of `tensors`."""
        confusion = np.zeros((num_classes, num_classes), np.int64)
        cells = tensors["cells"].numpy()
        confusion[cells[:, 0], cells[:, 1]] = cells[:, 2]
        return cls(confusion, tensors["predicted"].numpy(), tensors["confidence"].numpy())


class BestLabelAnswers(NamedTuple):
    """The same where a photo may have several labels: see `LabelEvaluation`."""

    truth: NDArray[np.bool_]
    probabilities: NDArray[np.float32]

    @classmethod
    def none(cls, num_classes: int) -> Self:
        """Before the first epoch has ended."""
        empty = np.empty((0, num_classes), np.float32)
        return cls(empty.astype(np.bool_), empty)

    def tensors(self) -> dict[str, Tensor]:
        """For a state. Of the labels the places that are true: int64 (N, 2)."""
        return {
            "labels": torch.from_numpy(np.argwhere(self.truth)),
            "probabilities": torch.from_numpy(self.probabilities),
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], num_classes: int) -> Self:
        """The inverse of `tensors`."""
        probabilities = tensors["probabilities"].numpy()
        assert probabilities.shape[1] == num_classes
        truth = np.zeros(probabilities.shape, np.bool_)
        truth[tuple(tensors["labels"].numpy().T)] = True
        return cls(truth, probabilities)


Best = BestAnswers | BestLabelAnswers


@dataclass(frozen=True, slots=True)
class State:
    """What is saved; `tensors` by part: "model", "optimizer", "best", "ema"."""

    record: RunRecord
    tensors: Mapping[str, Mapping[str, Tensor]]
    scaler: dict[str, Any]


def save_state(folder: Path, state: State) -> Path:
    """Writes a state and removes all but the newest `KEPT`; any device and memory format.

    Where the disk is full or the folder cannot be written, older states stay.
    """
    record = state.record
    tensors = {
        f"{part}/{name}": tensor.detach().to("cpu").contiguous()
        for part, group in state.tensors.items()
        for name, tensor in group.items()
    }
    metadata = {
        "format": FORMAT,
        "progress": record.to_json(),
        "scaler": json.dumps(state.scaler),
        "digest": _digest(tensors),
    }
    path = folder / f"state-{record.epoch:05d}-{record.position:08d}.safetensors"
    with saving(path):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            write_container(file, metadata, tensors)
    for old in states(folder)[KEPT:]:
        if old != path:
            old.unlink(missing_ok=True)
    return path


def states(folder: Path) -> list[Path]:
    """The states of a run, newest first."""
    found = [path for path in folder.glob("state-*.safetensors") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def load_state(folder: Path, notify: Notify) -> State | None:
    """The newest state that is whole; None where there is none at all. Damage is notified."""
    found = states(folder)
    for path in found:
        try:
            return _read(path)
        except DAMAGE as error:
            reason = str(error) or type(error).__name__
            notify(f"{path} is damaged ({reason}); going back to the state before.")
    if found:
        raise ResnestError(
            f"{folder}: every saved state is damaged. The weights of the run may be whole; start a "
            "new run from them: resnest finetune --model .../weights/last.safetensors"
        )
    return None


def read_record(path: Path) -> RunRecord:
    """The record in a state's header; reads no tensor, and raises one of `DAMAGE`."""
    with safe_open(path, framework="pt") as file:
        return _record(file.metadata() or {})


def _record(metadata: Mapping[str, str]) -> RunRecord:
    if metadata.get("format") != FORMAT:
        raise ValueError("not a training state of this version")
    return RunRecord.from_json(metadata["progress"])


def _read(path: Path) -> State:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        record = _record(metadata)
        # Copies: what is mapped would change, or crash, with the file.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if _digest(tensors) != metadata["digest"]:
        raise ValueError("its content does not fit its digest")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    return State(record, parts, json.loads(metadata["scaler"]))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode("utf-8", "surrogateescape"))
        digest.update(tensors[name].numpy().reshape(-1).data)
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The optimiser's tensors, named `<parameter>:<what>`, such as `fc.bias:momentum_buffer`."""
    return {
        f"{name}:{what}": torch.as_tensor(value)
        for name, parameter in network.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`, on the device and in the layout of each parameter."""
    parameters = dict(network.named_parameters())
    for key, tensor in tensors.items():
        name, _, what = key.rpartition(":")
        parameter = parameters[name]
        if tensor.shape == parameter.shape and tensor.dim() > 0:
            value = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        else:
            # A counter of steps: a fused kernel reads it where its parameter lies.
            value = tensor.to(parameter.device) if optimizer.defaults.get("fused") else tensor
        optimizer.state[parameter][what] = value
