"""Settings that do not go together: those that contradict each other, and those without effect."""

from collections.abc import Mapping
from typing import Any

from resnest_cli.data.labelled_photos import Reading
from resnest_cli.data.shards import is_shards
from resnest_cli.errors import UsageError
from resnest_cli.options import flag_of, settings_of
from resnest_cli.training.settings import Config

# What acts on pixels, on the network's depth or on how photos are loaded: nothing of it is left
# where features are computed once.
NOT_CACHED: dict[str, Any] = {
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


def check_together(config: Config, sharded: bool) -> None:
    """Raises UsageError for the first contradiction; `sharded` are the data."""
    train, cached, frozen = config.command == "train", config.cached, config.freeze == "backbone"
    unfreezes = config.unfreeze_every > 0
    for contradiction, why in (
        *_about_the_teacher(config, sharded),
        *_about_several_labels(config),
        *_about_shards(config, sharded),
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
    ):
        if contradiction:
            raise UsageError(why)


def check_folds(config: Config, size: int, *, find_lr: bool) -> None:
    """Raises UsageError for what does not go with --folds; `size` is the number of processes."""
    if config.folds is None:
        return
    for contradiction, why in (
        (
            size > 1 or config.devices > 1,
            "--devices: folds are trained one after the other, on one device",
        ),
        (
            find_lr,
            "--find-lr: it looks with one split. Find the rate first, then give it with --lr",
        ),
        (
            config.teacher is not None,
            "--teacher: it may have learned from photos that are held out, which would reach the "
            "network through its answers",
        ),
        (
            config.patience > 0,
            "--patience: the photos that are held out may not decide when to stop",
        ),
        (
            config.time_budget is not None,
            "--time-budget: fits that end early cannot be compared; fewer --epochs can",
        ),
        (
            config.keep_epochs > 0,
            "--keep-epochs: `resnest average` chooses among them by photos that validate, and "
            "with folds the last fit has none",
        ),
    ):
        if contradiction:
            raise UsageError(f"--folds with {why}. Leave out one of the two.")


def _about_shards(config: Config, sharded: bool) -> list[tuple[bool, str]]:
    """What does not go with photos that are read from one end to the other."""
    return [
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
            sharded and config.cached,
            "--freeze backbone: on a CPU it keeps the features of all photos, and shards are read "
            "as they come. Use --freeze stages:4, which trains the same classifier, or none.",
        ),
        (
            sharded and config.folds is not None,
            "--folds deals out single photos, and shards are read from one end to the other. Give "
            "the folder that they were packed from.",
        ),
    ]


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
    else:
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
    why: dict[str, str] = {}
    if config.cached:
        reason = "the frozen backbone's features are computed once; --freeze none lets it act"
        why |= {key: reason for key, off in NOT_CACHED.items() if given.get(key, off) != off}
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
    if config.folds is not None:
        why["val_split"] = "with --folds each photo is held out once"
    why |= _without_labels_or_teacher(config)
    why |= _of_the_loss(config)
    return [
        f"{flag_of(key)} does nothing here: {reason}."
        for key, reason in why.items()
        if key in given
    ]
