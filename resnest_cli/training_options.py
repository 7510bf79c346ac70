"""An option for every setting of `train` and `finetune`, each defined once.

None means not given: the recipe, the size of the data or the device decides; see
`training.config.Config` for what each setting is.
"""

from typing import Annotated, Any, Literal

import typer

from resnest_cli import options

_DATA, _PHOTOS = "Data and model", "What the network sees"
_LEARNING, _RATE = "How it learns", "Learning rate"
_LOSS, _MACHINE = "Loss and regularisation", "Where it runs"


def _option(kind: Any, flag: str, metavar: str | None, help_: str, panel: str, **more: Any) -> Any:
    return Annotated[
        kind | None,
        typer.Option(
            *flag.split(), metavar=metavar, help=help_, rich_help_panel=panel,
            show_default=False, **more,
        ),
    ]  # fmt: skip


def _number(flag: str, help_: str, panel: str, metavar: str = "X") -> Any:
    return _option(float, flag, metavar, help_, panel)


def _whole(flag: str, help_: str, panel: str, **more: Any) -> Any:
    return _option(int, flag, "N", help_, panel, **more)


# Ranges are checked with those of recipes and config files, in `training.settings`.
SETTINGS: dict[str, Any] = {
    "model": _option(
        str, "--model -m", "MODEL", "Variant (see `resnest models`); finetune: or a checkpoint.",
        _DATA, envvar="RESNEST_MODEL",
    ),
    "weights": _option(
        str, "--weights", "PATH|URL", "finetune: other weights for the named variant.", _DATA
    ),
    "val_data": _option(
        str, "--val-data", "SHARDS", "Shards to validate with, where their index does not say.",
        _DATA,
    ),
    "classes": _whole(
        "--classes", "How many classes you expect; another number is an error.", _DATA
    ),
    "class_names": _option(
        str, "--class-names", "FILE", "Readable names of the folders: lines id,name.", _DATA
    ),
    **{
        name: Annotated[str | None, options.reading_option(name, _DATA)]
        for name in options.READING
    },
    "val_split": _number(
        "--val-split", "Share of each class that validates, where the data have no split (0.2).",
        _DATA,
    ),
    "balanced": _option(
        bool, "--balanced/--no-balanced", None, "Draw every class equally often.", _DATA
    ),
    "class_weights": _option(
        str, "--class-weights", "WHAT", "In the loss: none, balanced, or a file id,weight.", _DATA
    ),
    "img_size": _whole("--img-size", "Side of the network's input in pixels.", _PHOTOS),
    "train_size": _whole(
        "--train-size", "Side while training, where other than --img-size.", _PHOTOS
    ),
    "start_size": _whole(
        "--start-size", "Side in the first epochs; grows to the training size.", _PHOTOS
    ),
    "crop_pct": _number(
        "--crop-pct", "Validation: share of the resized shorter side that is kept.", _PHOTOS
    ),
    "interpolation": _option(
        Literal["bilinear", "bicubic"], "--interpolation", None, "How photos are resized.", _PHOTOS
    ),
    "scale": _number("--scale", "Least share of a photo's area that a crop keeps.", _PHOTOS),
    "ratio": _number("--ratio", "Crops are from 1/X to X times as wide as high.", _PHOTOS),
    "hflip": _number("--hflip", "Probability to mirror a photo.", _PHOTOS),
    "color_jitter": _number("--color-jitter", "Strength of changes in colour.", _PHOTOS),
    "aa": _option(
        str, "--aa", "POLICY",
        "none, auto (AutoAugment), trivial (TrivialAugment), or such as rand-m9-n2 (RandAugment).",
        _PHOTOS,
    ),
    "aug_repeats": _whole(
        "--aug-repeats", "Repeated augmentation: each photo N times, of 1/N of the photos.", _PHOTOS
    ),
    "reprob": _number("--reprob", "Probability to erase a rectangle.", _PHOTOS),
    "mixup": _number("--mixup", "Mixup's alpha; 0 is off.", _PHOTOS),
    "cutmix": _number("--cutmix", "Cutmix's alpha; 0 is off.", _PHOTOS),
    "epochs": _whole("--epochs", "How often each photo is seen.", _LEARNING),
    "batch_size": _whole(
        "--batch-size -b", "Photos in a batch, of each device.", _LEARNING,
        envvar="RESNEST_BATCH_SIZE",
    ),
    "grad_accum_steps": _whole(
        "--grad-accum-steps", "Batches whose gradient makes one step.", _LEARNING
    ),
    "opt": _option(Literal["sgd", "adamw", "lamb"], "--opt", None, "Optimiser.", _LEARNING),
    "lr": _number("--lr", "Peak learning rate.", _RATE),
    "lr_base": _number("--lr-base", "SGD without --lr: learning rate for 256 photos a step.",
                       _RATE),
    "momentum": _number("--momentum", "Of SGD.", _LEARNING),
    "weight_decay": _number("--weight-decay", "Not on norms and biases.", _LOSS),
    "layer_decay": _number(
        "--layer-decay", "Learning rate of a block as a share of the next one's; 1 is off.",
        _RATE,
    ),
    "sched": _option(
        Literal["cosine", "step", "onecycle", "constant"], "--sched", None,
        "Learning rate after warm-up; onecycle has its own rise.", _RATE,
    ),
    "warmup_epochs": _number("--warmup-epochs", "Epochs of linear warm-up.", _RATE),
    "min_lr": _number("--min-lr", "Share of the peak at the end.", _RATE),
    "decay_epochs": _number("--decay-epochs", "Of --sched step: epochs of a step.", _RATE),
    "decay_rate": _number("--decay-rate", "Of --sched step: times X at each.", _RATE),
    "clip_grad": _number("--clip-grad", "Largest norm of the gradient; 0 is off.", _LOSS),
    "bce_loss": _option(
        bool, "--bce-loss/--no-bce-loss", None, "Binary cross entropy: each class by itself.",
        _LOSS,
    ),
    "bce_target_thresh": _number(
        "--bce-target-thresh", "Of --bce-loss: targets above X count as 1; 0 is off.", _LOSS
    ),
    "smoothing": _number("--smoothing", "Label smoothing.", _LOSS),
    "drop": _number("--drop", "Dropout before the classifier.", _LOSS),
    "drop_path": _number("--drop-path", "Stochastic depth of the last block.", _LOSS),
    "drop_block": _number("--drop-block", "DropBlock in the last two stages.", _LOSS),
    "model_ema": _option(
        bool, "--model-ema/--no-model-ema", None, "Keep a moving average of the weights, too.",
        _LEARNING,
    ),
    "model_ema_decay": _number("--model-ema-decay", "Of the moving average.", _LEARNING),
    "patience": _whole(
        "--patience", "Stop after N epochs without a better one (top-1, then loss); 0 is off.",
        _LEARNING,
    ),
    "freeze": _option(
        str, "--freeze", "WHAT", "auto, none, backbone, or stages:N (stem and N of 4 stages).",
        _LEARNING,
    ),
    "unfreeze_every": _whole(
        "--unfreeze-every",
        "finetune: first the classifier alone, a stage more every N epochs.", _LEARNING,
    ),
    "device": _option(
        str, "--device", "auto|cpu|cuda|cuda:1|mps", "Where the network runs.", _MACHINE,
        envvar="RESNEST_DEVICE",
    ),
    "devices": _whole(
        "--devices",
        "Devices of this machine to train on, a process for each; more machines: torchrun.",
        _MACHINE,
    ),
    "sync_bn": _option(
        bool, "--sync-bn/--no-sync-bn", None,
        "GPUs: batch norms see the batches of all devices.", _MACHINE,
    ),
    "amp": _option(
        Literal["off", "float16", "bfloat16"], "--amp", None, "Mixed precision.", _MACHINE
    ),
    "channels_last": _option(
        bool, "--channels-last/--no-channels-last", None,
        "Memory format; where it is faster unless said.", _MACHINE,
    ),
    "workers": _whole("--workers -j", "Processes that load photos; 0 for none.", _MACHINE),
    "cache": _option(
        bool, "--cache/--no-cache", None, "Keep decoded photos in memory: 4 bytes a pixel.",
        _MACHINE,
    ),
    "seed": _whole("--seed", "Random seed; the same seed repeats the run.", _MACHINE),
    "save_every": _number(
        "--save-every", "Seconds between states saved within an epoch; 0 is off (300).", _MACHINE
    ),
    "keep_epochs": _whole(
        "--keep-epochs", "Keep the weights of the last N epochs, for `resnest average`.", _MACHINE
    ),
    "time_budget": _option(
        str, "--time-budget", "TIME", "End in time, such as 30m or 2h: fewer epochs, state saved.",
        _MACHINE,
    ),
    "tensorboard": _option(
        bool, "--tensorboard/--no-tensorboard", None,
        "Write TensorBoard's files (extra: tensorboard).", _MACHINE,
    ),
}  # fmt: skip
