"""Every setting of a training run, in one flat record. `args.toml` holds exactly these.

A setting that is None is not decided yet: `resolve` decides it from the size of the data and the
device, so that what is written down is complete and `--config args.toml` repeats the run.
"""

from dataclasses import dataclass
from typing import Literal

from resnest_cli.inference.run_options import Amp
from resnest_cli.model.variants import Interpolation

Command = Literal["train", "finetune"]
Opt = Literal["sgd", "adamw", "lamb"]
Sched = Literal["cosine", "step", "onecycle", "constant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one run; names are those of the flags, with underscores.

    What is trained: `command`; `data` (folder, manifest or shards); `val_data` (shards to validate
    with, where an index does not say); `model` (variant or checkpoint);
    `weights` (path or URL of other weights for a named variant); `recipe`; `classes` (how many the
    user expects); `class_names` (file of readable names); `val_split` (share of each class that
    validates, in (0, 1), where the data has no split of its own); `balanced` (each class is drawn
    equally often); `class_weights` ("none", "balanced", or a file of weights: see `class_weights`).

    What goes in: `img_size` (side in pixels, for validation and prediction), `train_size` (for
    training, where not the same) and `start_size` (in the first epochs, from which it grows; see
    `sizes`), `crop_pct` and `interpolation` (validation); `scale` (least share of a photo's area
    that a random crop keeps, in (0, 1]; the most is 1), `ratio` (aspect ratios of the crop, from
    1/ratio to ratio), `hflip` (probability), `color_jitter` (strength in [0, 1]), `aa` ("none",
    "auto" for AutoAugment's ImageNet policy, "trivial" for TrivialAugment, or "rand-m9-n2":
    RandAugment of magnitude 9, 2 operations), `aug_repeats` (how often a photo is varied in an
    epoch, of which each then sees that much fewer), `reprob` (probability of random erasing),
    `mixup` and `cutmix` (alpha; 0 is off).

    How it learns: `epochs`, `batch_size`, `grad_accum_steps` (batches whose gradient makes one
    step), `opt`, `lr` (peak; where None, `lr_base` / 256 times the photos of a step: batch_size *
    grad_accum_steps * devices), `momentum`, `weight_decay` (not on norms and biases), `layer_decay`
    (learning rate of a block as a share of the next one's), `sched` (see `schedule`),
    `warmup_epochs`, `min_lr` (share of the peak at the end), `decay_epochs` and `decay_rate` (of
    the step schedule), `clip_grad` (largest norm of the gradient; 0 is off), `bce_loss` (binary
    cross entropy) and `bce_target_thresh` (targets above it become 1, others 0; 0 is off),
    `smoothing` (of the labels, in [0, 1)), `drop` (dropout before the classifier), `drop_path`
    (stochastic depth), `drop_block`, `model_ema` and `model_ema_decay`, `patience` (epochs without
    a better one after which it stops; 0 is off), `freeze` ("auto", "none", "backbone" or
    "stages:N": the stem and the first N of four stages), `unfreeze_every` (epochs after which one
    more stage learns, from the classifier down; 0 is off).

    Where it runs: `device`, `devices` (processes of all machines together, each with a device and
    batches of its own), `sync_bn` (batch norms see the batches of all devices), `amp`,
    `channels_last`, `workers`, `cache` (decoded photos stay in memory), `seed`, `save_every`
    (seconds between states saved within an epoch; 0 is off), `keep_epochs` (how many last epochs
    keep their weights, for `resnest average`), `time_budget` (such as "2h"; see `budget`),
    `tensorboard` (writes TensorBoard's event files).
    """

    command: Command
    data: str
    val_data: str | None = None
    model: str
    weights: str | None = None
    recipe: str
    classes: int | None = None
    class_names: str | None = None
    val_split: float = 0.2
    balanced: bool = False
    class_weights: str = "none"

    img_size: int | None = None
    train_size: int | None = None
    start_size: int | None = None
    crop_pct: float | None = None
    interpolation: Interpolation | None = None
    scale: float = 0.08
    ratio: float = 4 / 3
    hflip: float = 0.5
    color_jitter: float = 0.0
    aa: str = "none"
    aug_repeats: int = 1
    reprob: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    epochs: int | None = None
    batch_size: int | None = None
    grad_accum_steps: int = 1
    opt: Opt = "sgd"
    lr: float | None = None
    lr_base: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    layer_decay: float = 1.0
    sched: Sched = "cosine"
    warmup_epochs: float = 0.0
    min_lr: float = 0.0
    decay_epochs: float | None = None
    decay_rate: float = 0.1
    clip_grad: float = 0.0
    bce_loss: bool = False
    bce_target_thresh: float = 0.0
    smoothing: float = 0.0
    drop: float = 0.0
    drop_path: float = 0.0
    drop_block: float = 0.0
    model_ema: bool = False
    model_ema_decay: float = 0.9998
    patience: int = 0
    freeze: str = "auto"
    unfreeze_every: int = 0

    device: str = "auto"
    devices: int = 1
    sync_bn: bool = False
    amp: Amp = "off"
    channels_last: bool | None = None
    workers: int | None = None
    cache: bool = False
    seed: int = 0
    save_every: float = 300.0
    keep_epochs: int = 0
    time_budget: str | None = None
    tensorboard: bool = False
