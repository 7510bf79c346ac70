"""What a run does where nobody said it, and which settings contradict each other.

All of it follows from the size of the data and the device, and is written to `args.toml`, so that
`--config args.toml` repeats the run.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from resnest_cli.cpu import usable_cores
from resnest_cli.data.labelled_photos import Reading
from resnest_cli.errors import UsageError
from resnest_cli.model.variants import Preprocessing
from resnest_cli.options import flag_of, settings_of
from resnest_cli.text import count
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
    _check_together(config, sharded)
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
        changes |= _NOT_CACHED
    elif config.channels_last is None:
        changes["channels_last"] = channels_last_pays(device, config.amp)
    return replace(config, **changes)


def _check_together(config: Config, sharded: bool) -> None:
    train, cached, frozen = config.command == "train", config.cached, config.freeze == "backbone"
    unfreezes = config.unfreeze_every > 0
    for contradiction, why in (
        *_about_the_teacher(config, sharded),
        *_about_several_labels(config),
        (
            config.amp == "float16" and config.device == "cpu",
            "--amp float16 needs a GPU; on a CPU use --amp bfloat16, or off.",
        ),
        (
            train and frozen,
            "--freeze backbone: train starts from nothing, so there is nothing to keep.",
        ),
        (train and unfreezes, "--unfreeze-every: train starts from nothing, so nothing is frozen."),
        (
            unfreezes and frozen,
            "--unfreeze-every with --freeze backbone: leave out --freeze, or name what stays "
            "frozen for good with --freeze stages:N.",
        ),
        (
            config.balanced and config.class_weights == "balanced",
            "--balanced draws rare classes more often already; with --class-weights balanced they "
            "would count twice. Leave out one of the two.",
        ),
        (
            config.sync_bn and not config.device.startswith("cuda"),
            "--sync-bn needs GPUs: torch's SyncBatchNorm computes nowhere else.",
        ),
        (
            config.devices > 1 and cached,
            f"{config.devices} devices: on CPUs the frozen backbone's features are computed once, "
            "and the rest takes seconds on one. Leave out --devices, or train more of the network: "
            "--freeze none, or stages:N.",
        ),
        (
            sharded and config.balanced,
            "--balanced draws photos in any order, and shards are read from one end to the other. "
            "Use --class-weights balanced.",
        ),
        (
            sharded and config.cache,
            "--cache keeps all photos in memory; shards are read in every epoch.",
        ),
        (
            sharded and cached,
            "--freeze backbone: on a CPU it keeps the features of all photos, and shards are read "
            "as they come. Use --freeze stages:4, which trains the same classifier, or none.",
        ),
    ):
        if contradiction:
            raise UsageError(why)


def _about_the_teacher(config: Config, sharded: bool) -> list[tuple[bool, str]]:
    """What does not go with a teacher, or without one."""
    taught, more = config.teacher is not None, config.unlabelled is not None
    return [
        (
            config.teacher_classes and sharded,
            "--teacher-classes: shards have labels in an order of their own. Leave it out, or give "
            "the folder that they were packed from.",
        ),
        (
            taught and config.bce_loss,
            "--bce-loss asks of each class by itself, and a teacher's answers are shares of one "
            "whole: use --no-bce-loss.",
        ),
        (
            taught and config.cached,
            "--teacher with --freeze backbone: on a CPU the features of all photos are computed "
            "once, and the teacher has no photos to look at. Use --freeze stages:4, which trains "
            "the same classifier, or none.",
        ),
        (
            more and sharded,
            "--unlabelled: its photos come in any order, and shards are read from one end to the "
            "other. Give DATA as a folder.",
        ),
        (
            more and config.balanced,
            "--balanced draws every class equally often, and the photos of --unlabelled belong to "
            "no class. Leave out one of the two.",
        ),
    ]


def _about_several_labels(config: Config) -> list[tuple[bool, str]]:
    """What does not go with several labels for one photo, or without them."""
    several = bool(config.multi_label)
    return [
        (
            several and config.teacher is not None,
            "--teacher: its answers are shares of one whole, and here each label is a question of "
            "its own. Leave out --teacher.",
        ),
        (
            several and config.balanced,
            "--balanced draws every class equally often, and a photo with several labels is of no "
            "single one. Use --class-weights balanced.",
        ),
        (
            config.asl and config.bce_loss,
            "--asl with --bce-loss: leave out one of the two.",
        ),
        (
            config.asl and not several,
            "--asl is for photos that may have several labels, and these have one each. Use "
            "--bce-loss, or --multi-label where that is meant.",
        ),
    ]


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


# What acts on pixels, on the network's depth or on how photos are loaded: nothing of it is left
# where features are computed once.
_NOT_CACHED: dict[str, Any] = {
    "aa": "none", "color_jitter": 0.0, "reprob": 0.0, "mixup": 0.0, "cutmix": 0.0, "scale": 1.0,
    "ratio": 1.0, "train_size": None, "start_size": None, "drop_path": 0.0, "drop_block": 0.0,
    "channels_last": False, "amp": "off", "workers": 0, "cache": False, "aug_repeats": 1,
    "layer_decay": 1.0,
}  # fmt: skip


_OF_DATA = ("classes", "class_names", "val_data", *settings_of(Reading))
_OF_A_TEACHER = (
    "teacher_weight", "teacher_temperature", "teacher_labels", "teacher_size", "teacher_mean",
    "teacher_std", "teacher_crops", "trust_onnx",
)  # fmt: skip
_OF_ASL = ("asl_gamma_neg", "asl_gamma_pos", "asl_margin")


def _without_labels_or_teacher(config: Config) -> dict[str, str]:
    if config.teacher is None:
        return dict.fromkeys(_OF_A_TEACHER, "there is no --teacher")
    if config.teacher_weight < 1:
        return {}
    why = dict.fromkeys(("smoothing", "class_weights"), "the teacher has all of the loss")
    if not config.data:
        why["teacher_weight"] = "there are no labels, so the teacher has all of the loss"
        why |= dict.fromkeys(_OF_DATA, "there is no DATA")
    return why


def _of_the_loss(config: Config) -> dict[str, str]:
    why: dict[str, str] = {}
    several = bool(config.multi_label)
    if not config.asl:
        why |= dict.fromkeys(_OF_ASL, "there is no --asl")
    if not several:
        why["min_precision"] = "it is for photos with several labels"
    elif config.bce_loss:
        why["bce_loss"] = "several labels always have it"
    if not (config.bce_loss or several):
        why["bce_target_thresh"] = "it is for --bce-loss"
    elif several and not (config.mixup or config.cutmix):
        why["bce_target_thresh"] = "nothing is mixed"
    elif not several and config.bce_target_thresh and not (config.mixup or config.cutmix):
        why["smoothing"] = "--bce-target-thresh makes targets 0 or 1 again"
    return why


def without_effect(given: Mapping[str, Any], config: Config) -> list[str]:
    """Sentences about flags that were given but do not act with the other settings, resolved."""
    from resnest_cli.data.shards import is_shards

    why: dict[str, str] = {}
    if config.cached:
        reason = "the frozen backbone's features are computed once; --freeze none lets it act"
        why |= {key: reason for key, off in _NOT_CACHED.items() if given.get(key, off) != off}
    if is_shards(config.data):
        why |= dict.fromkeys(("val_split", "split_names"), "shards have a split of their own")
    if config.opt != "sgd":
        why |= dict.fromkeys(("momentum", "lr_base"), "it is for --opt sgd")
    elif "lr" in given:
        why["lr_base"] = "--lr is given"
    if config.devices == 1:
        why["sync_bn"] = "there is one device"
    if not config.model_ema:
        why["model_ema_decay"] = "there is no --model-ema"
    if config.sched in {"constant", "onecycle"}:
        why["min_lr"] = f"the schedule is {config.sched}"
    if config.sched == "onecycle":
        why["warmup_epochs"] = "one cycle has a rise of its own"
    if config.sched != "step":
        why |= dict.fromkeys(("decay_epochs", "decay_rate"), "it is for --sched step")
    why |= _without_labels_or_teacher(config)
    why |= _of_the_loss(config)
    return [
        f"{flag_of(key)} does nothing here: {reason}."
        for key, reason in why.items()
        if key in given
    ]
