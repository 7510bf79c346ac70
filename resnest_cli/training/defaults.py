"""What a run does where nobody said it.

All of it follows from the size of the data and the device, and is written to `args.toml`, so that
`--config args.toml` repeats the run.
"""

import math
from dataclasses import replace
from typing import Any

from resnest_cli.cpu import usable_cores
from resnest_cli.errors import UsageError
from resnest_cli.model.variants import Preprocessing
from resnest_cli.text import count
from resnest_cli.training.conflicts import NOT_CACHED, check_together
from resnest_cli.training.settings import Config


def resolve(
    config: Config, *, photos: int, preprocessing: Preprocessing, device: str, sharded: bool = False
) -> Config:
    """Decides what is still None; raises UsageError for settings that contradict each other."""
    freeze = config.freeze
    if freeze == "auto":
        alone = config.command == "finetune" and device == "cpu" and not config.unfreeze_every
        alone = alone and config.teacher is None  # who has to see the photos
        freeze = "backbone" if alone else "none"
    config = replace(config, freeze=freeze, device=device)
    check_together(config, sharded)
    batch = config.batch_size
    if batch is None:  # a power of two that gives small data a few steps an epoch
        least, most = (16, 256) if config.cached else (8, 64)
        wanted = max(least, photos // config.devices // 16)
        batch = int(min(most, 2 ** round(math.log2(wanted))))
    epochs = config.epochs or _epochs(photos, config)
    if config.warmup_epochs >= epochs:
        raise UsageError(
            f"--warmup-epochs {config.warmup_epochs:g} leaves nothing of "
            f"{count(epochs, 'epoch')}: lower it, or raise --epochs."
        )
    changes: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch,
        "lr": config.lr or _learning_rate(config, batch),
        "decay_epochs": config.decay_epochs or epochs / 3 if config.sched == "step" else None,
        "img_size": preprocessing.size,
        "crop_pct": preprocessing.crop_pct,
        "interpolation": preprocessing.interpolation,
        "workers": default_workers(device) if config.workers is None else config.workers,
    }
    if not config.data:  # there are no labels
        changes |= {"teacher_weight": 1.0, "smoothing": 0.0, "class_weights": "none"}
    if config.cached:
        changes |= NOT_CACHED
    elif config.channels_last is None:
        changes["channels_last"] = channels_last_pays(device, config.amp)
    return replace(config, **changes)


def default_workers(device: str, processes: int = 1) -> int:
    """Worker processes for a device; `processes` of this machine share its cores.

    On a CPU of one or two cores none: a worker there delays the network's threads, which wait for
    each other, by more than it saves (resnest14d at 64 pixels, 2 cores: 118 photos/s without, 98
    with one). With more cores, one for each four.
    """
    cores = max(1, usable_cores() // processes)
    return cores // 4 if device == "cpu" else min(8, cores)


def channels_last_pays(device: str, amp: str) -> bool:
    """Whether photos train faster with channels last.

    A rule, not a measurement on the spot, so that a run can be repeated. On a CPU always; photos a
    second on two cores with AVX-512, NCHW against channels last: resnest14d at 64 pixels 95 / 126,
    resnest50d at 224 4.6 / 5.3, at 256 2.6 / 3.2, at 320 1.6 / 2.1, resnest101e at 256 1.8 / 2.0
    (from 256 on by another machine). On an accelerator with mixed precision, as torch's
    documentation advises; not measured.
    """
    return device == "cpu" or amp != "off"


def _epochs(photos: int, config: Config) -> int:
    """Enough steps for little data, few epochs for much."""
    if config.cached:
        return 60
    if config.command == "finetune":
        return max(5, min(30, round(30_000 / max(1, photos))))
    return max(15, min(100, round(300_000 / max(1, photos))))


def _learning_rate(config: Config, batch: int) -> float:
    if config.opt == "sgd":
        return config.lr_base * batch * config.grad_accum_steps * config.devices / 256
    if config.opt == "lamb":
        return 0.005
    if config.freeze == "backbone":
        return 0.003
    return 3e-4 if config.command == "finetune" else 1e-3
