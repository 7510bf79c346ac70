"""The training state on disk: everything that a run needs to go on as if it had never stopped.

One file for each state, `resume/state-<epoch>-<batches done>.safetensors`: the weights, their
moving average, the optimiser's tensors, and in the metadata, as JSON, the progress and a digest of
all tensors. A file appears whole or not at all, and the one before is removed only when the new
one is there, so that a loadable state exists at any moment; two are kept, and a damaged newest one
gives way to the other. No pickle.

Random generators are not in it: every draw comes from (seed, epoch, index), see `seeds`.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from resnest_cli.errors import ResnestError
from resnest_cli.files import atomic_file
from resnest_cli.model.container import write_container
from resnest_cli.training.history import EpochRow
from resnest_cli.training.lost_photos import LostPhoto

FORMAT = "resnest-training-state-1"
KEPT = 2

# What reading a damaged state raises; RecursionError where its JSON is nested thousands deep.
DAMAGE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)

_NAME = re.compile(r"state-(\d{5})-(\d{8})\.safetensors")


@dataclass(slots=True)
class Progress:
    """Where a run stands.

    `epoch` counts from 0 and is the one being trained, `position` the batches of it that are done,
    `step` the optimiser steps of the whole run. `loss_sum` is over the `loss_photos` photos of this
    epoch so far; `seconds` is the time that the epoch took so far, `used` that of the whole run in
    all its parts. `best` and `best_loss` hold top-1 and loss of the best epoch of the raw and of
    the averaged weights, `best_epoch` counts from 1. `origin` names the weights that the run began
    with, by their hash, `class_weights` those of the classes. `lost` are the photos that could not
    be read any more.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_photos: int = 0
    seconds: float = 0.0
    used: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    best_loss: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    rows: list[EpochRow] = field(default_factory=list)
    finished: bool = False
    origin: str = ""
    class_weights: str = ""
    lost: list[LostPhoto] = field(default_factory=list)

    def best_score(self, which: str) -> tuple[float, float]:
        """`Evaluation.score` of the best epoch so far of the raw or the averaged weights."""
        return self.best.get(which, -1.0), -self.best_loss.get(which, math.inf)


@dataclass(frozen=True, slots=True)
class State:
    """A state as read back; `tensors` by part: "model", "optimizer", "best", "ema"."""

    progress: Progress
    tensors: dict[str, dict[str, Tensor]]
    scaler: dict[str, Any]


def save_state(
    folder: Path,
    progress: Progress,
    parts: Mapping[str, Mapping[str, Tensor]],
    scaler: Mapping[str, Any],
) -> Path:
    """Writes a state and removes all but the newest `KEPT`.

    `parts` are groups of tensors, such as {"model": state dict}; any device and memory format.

    Raises:
        ResnestError: the disk is full or the folder cannot be written; older states stay.
    """
    tensors = {
        f"{part}/{name}": tensor.detach().to("cpu").contiguous()
        for part, group in parts.items()
        for name, tensor in group.items()
    }
    metadata = {
        "format": FORMAT,
        "progress": json.dumps(asdict(progress)),
        "scaler": json.dumps(dict(scaler)),
        "digest": _digest(tensors),
    }
    path = folder / f"state-{progress.epoch:05d}-{progress.position:08d}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            write_container(file, metadata, tensors)
    except OSError as error:
        raise ResnestError(
            f"{path}: the training state cannot be written: {error.strerror or error}. What was "
            "saved before is whole; make room and go on with --resume."
        ) from error
    for old in states(folder):
        if old != path and old not in states(folder)[:KEPT]:
            old.unlink(missing_ok=True)
    return path


def states(folder: Path) -> list[Path]:
    """The states of a run, newest first."""
    found = [path for path in folder.glob("state-*.safetensors") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def load_state(folder: Path, notify: Callable[[str], None]) -> State | None:
    """The newest state that is whole; None where there is none at all.

    `notify` is told of a damaged one.

    Raises:
        ResnestError: there are states, and all of them are damaged.
    """
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


def read_progress(path: Path) -> Progress:
    """The progress in a state's header; reads no tensor.

    Raises:
        DAMAGE: it is damaged.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return _progress(metadata)


def _progress(metadata: Mapping[str, str]) -> Progress:
    if metadata.get("format") != FORMAT:
        raise ValueError("not a training state of this version")
    record = json.loads(metadata["progress"])
    record["rows"] = [EpochRow(**row) for row in record["rows"]]
    record["lost"] = [LostPhoto(**photo) for photo in record.get("lost", [])]
    return Progress(**record)


def _read(path: Path) -> State:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        progress = _progress(metadata)
        # Copies: what is mapped would change, or crash, with the file.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if _digest(tensors) != metadata["digest"]:
        raise ValueError("its content does not fit its digest")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    return State(progress, parts, json.loads(metadata["scaler"]))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode("utf-8", "surrogateescape"))
        digest.update(tensors[name].numpy().reshape(-1).data)
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The optimiser's tensors, named `<parameter>:<what>`, such as `fc.bias:momentum_buffer`."""
    found = {}
    for name, parameter in network.named_parameters():
        for what, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                found[f"{name}:{what}"] = torch.as_tensor(value)
    return found


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
            value = tensor  # a counter of steps
        optimizer.state[parameter][what] = value
