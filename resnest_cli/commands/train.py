"""`resnest train`: class folders -> a network from scratch."""

from dataclasses import replace

from resnest_cli.commands import training
from resnest_cli.commands.flags import command
from resnest_cli.commands.training import Flags
from resnest_cli.net import Access
from resnest_cli.training.settings import TrainingJob

FIRST = (
    "model epochs lr batch_size val_split img_size mixup recipe output run resume dry_run devices"
)
EXAMPLES = """
resnest train data/ --model resnest14d --img-size 64
resnest train data/ --dry-run
resnest train data/ --epochs 50 --mixup 0.2 --cutmix 1 --aa rand-m9-n2
resnest train data/ --resume
resnest train --data 'shards/train-{000000..000127}.tar'
resnest train data/ --model resnest14d --teacher resnest101e
resnest train --unlabelled photos/ --teacher big.onnx --teacher-classes
resnest train --config runs/train/exp/args.toml
"""


@command
def train(*, job: TrainingJob, access: Access, flags: Flags) -> None:
    """Train a network on your own classes, from nothing.

    DATA holds a folder of photos for each class, or train/ and val/ with such folders. The best
    weights end in runs/train/exp/weights/best.safetensors, which every other command takes as
    --model. A run that was interrupted goes on with --resume. For few photos use finetune.
    """
    training.train(replace(job, command="train", flags=flags, access=access))
