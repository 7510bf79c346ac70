"""`resnest finetune`: class folders -> learned weights with a classifier for them."""

from pathlib import Path
from typing import Any

from resnest_cli import options
from resnest_cli.commands import training

EPILOG = """Examples:

  resnest finetune data/ --classes 10

  resnest finetune data/ --model resnest101e --freeze none --epochs 20

  resnest finetune data/ --model runs/train/exp/weights/best.safetensors

  resnest finetune data/ --dry-run

  resnest finetune data/ --resume"""


@training.with_settings
def finetune(
    data: training.Data = None,
    recipe: training.Recipe = None,
    config: training.ConfigFile = None,
    output_: training.Runs = Path("runs"),
    run: training.Run = None,
    resume: training.Resume = False,
    dry_run: training.DryRun = False,
    mirror: options.Mirror = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,  # noqa: ARG001 (its callback acts)
    debug: options.Debug = False,  # noqa: ARG001 (its callback acts)
    **settings: Any,
) -> None:
    """Teach learned weights your own classes.

    DATA holds a folder of photos for each class, or train/ and val/ with such folders. Without an
    accelerator only the classifier is trained, on features that are computed once (--freeze). The
    best weights end in runs/finetune/exp/weights/best.safetensors. A run that was interrupted goes
    on with --resume.
    """
    training.run(
        "finetune",
        data=data,
        recipe=recipe,
        config=config,
        output_=output_,
        run_=run,
        resume=resume,
        dry_run=dry_run,
        mirror=mirror,
        offline=offline,
        settings=settings,
    )
