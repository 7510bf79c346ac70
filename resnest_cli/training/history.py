"""What is known after each epoch: one row, kept in the training state and in `results.csv`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """One finished epoch.

    `epoch` counts from 1, `step` all optimiser steps so far, `lr` is that of the last step. Losses
    are means over photos in nats; accuracies and recall are fractions in [0, 1]. `top5` is None
    with five classes or fewer, the `ema_` fields without a moving average. `recall` is the mean
    over classes of those weights that count (`which`). `best` says whether this epoch is the best
    so far, by the top-1 of these weights and of the same top-1 by their loss. Times in seconds,
    without and with validation.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    val_loss: float
    top1: float
    top5: float | None
    ema_loss: float | None
    ema_top1: float | None
    ema_top5: float | None
    recall: float
    which: str  # "raw" or "ema": whose top-1 is higher, or whose loss is lower
    best: bool
    photos_per_second: float
    train_seconds: float
    seconds: float
