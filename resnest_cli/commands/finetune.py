"""`resnest finetune`: class folders -> learned weights with a classifier for them."""

from dataclasses import replace

from resnest_cli.commands import training
from resnest_cli.commands.flags import command
from resnest_cli.commands.training import Flags
from resnest_cli.net import Access
from resnest_cli.training.settings import TrainingJob

FIRST = (
    "model classes epochs lr freeze batch_size val_split img_size recipe output run resume dry_run"
)
EXAMPLES = """
resnest finetune data/ --classes 10
resnest finetune data/ --model resnest101e --freeze none --epochs 20
resnest finetune data/ --model runs/train/exp/weights/best.safetensors
resnest finetune data/ --teacher best.safetensors --unlabelled more/
resnest finetune data/ --dry-run
resnest finetune data/ --resume
"""


@command
def finetune(*, job: TrainingJob, access: Access, flags: Flags) -> None:
    """Teach learned weights your own classes.

    DATA holds a folder of photos for each class, or train/ and val/ with such folders. Without an
    accelerator only the classifier is trained, on features that are computed once (--freeze). The
    best weights end in runs/finetune/exp/weights/best.safetensors. A run that was interrupted goes
    on with --resume.
    """
    training.train(replace(job, command="finetune", flags=flags, access=access))
