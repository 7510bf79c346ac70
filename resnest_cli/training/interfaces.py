"""What the loop needs from outside: batches, a display, something that keeps its results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from resnest_cli.training.config import Config
from resnest_cli.training.history import EpochRow
from resnest_cli.training.loader import Batch
from resnest_cli.training.lost_photos import LostPhoto
from resnest_cli.training.resume import Progress


class TrainSource(Protocol):
    """Batches to learn from, in an order that depends on the epoch alone."""

    @property
    def photos(self) -> int:
        """Photos in an epoch."""
        ...

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        ...


class EvalSource(Protocol):
    """Batches to validate with, each photo once."""

    def __len__(self) -> int:
        """Batches; of several devices, those of the one that has the most."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """All of them, in order."""
        ...


class Display(Protocol):
    """What watches the loop; see `output.training.TrainingDisplay`."""

    def start(self, *, epochs: int, steps: int, first_epoch: int) -> None:
        """Training begins, or goes on, with epoch `first_epoch` (from 1)."""

    def step(
        self,
        *,
        epoch: int,
        step: int,
        loss: float,
        lr: float,
        photos_per_second: float,
        seconds_left: float,
    ) -> None:
        """A step is done."""

    def validating(self, done: int, total: int) -> None:
        """So many batches of a validation are done."""

    def epoch(self, row: EpochRow) -> None:
        """An epoch is done."""

    def lost(self, new: Sequence[LostPhoto], emptied: Sequence[LostPhoto]) -> None:
        """Photos cannot be read any more; some were the last of their classes to learn from."""


class Keeper(Protocol):
    """What puts weights and states on disk; see `runs.RunKeeper`."""

    def save_weights(
        self, names: Sequence[str], tensors: Mapping[str, Tensor], metrics: Mapping[str, Any]
    ) -> None:
        """Weights under each of these names."""

    def save_rows(self, rows: Sequence[EpochRow], recall: Sequence[float | None]) -> None:
        """The history so far, and the recall of each class in its last epoch."""

    def save_state(
        self,
        progress: Progress,
        parts: Mapping[str, Mapping[str, Tensor]],
        scaler: Mapping[str, Any],
    ) -> None:
        """Everything that a resumed run needs."""

    def save_lost(self, photos: Sequence[LostPhoto]) -> None:
        """All photos that could not be read any more."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be trained, on what, how. `config` is resolved, `frozen` stays in evaluation mode.

    `network` maps the photos of a batch to logits (B, num_classes). `thawing` are modules that
    begin to learn one after the other, every `config.unfreeze_every` epochs. `class_weights`,
    float32 (num_classes,), weigh the classes in the loss. `train_counts` are the training photos of
    each class, `val_photos` how many validate.
    """

    config: Config
    network: nn.Module
    train: TrainSource
    val: EvalSource
    num_classes: int
    frozen: Sequence[nn.Module] = ()
    thawing: Sequence[nn.Module] = ()
    class_weights: Tensor | None = None
    train_counts: Sequence[int] = ()
    val_photos: int = 0
