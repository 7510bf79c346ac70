"""`resnest average`: checkpoints of one network -> their mean."""

from pathlib import Path
from typing import Annotated

import typer

from resnest_cli import options, output
from resnest_cli.commands.inputs import picked
from resnest_cli.data.listing import Reading
from resnest_cli.errors import UsageError
from resnest_cli.locks import locked

EPILOG = """Examples:

  resnest train data/ --keep-epochs 5

  resnest average runs/train/exp/weights/epoch-*.safetensors -o average.safetensors

  resnest average epoch-*.safetensors -o average.safetensors --data data/

  resnest evaluate data/ --model average.safetensors"""


def average(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(metavar="CKPT...", help="Checkpoints of one network, two or more."),
    ],
    output_: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The mean, .safetensors. Required."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Compute batch norm's statistics anew on the training photos of these data.",
        ),
    ] = None,
    split_names: options.SplitNames = None,
    path_column: options.TablePathColumn = None,
    label_column: options.LabelColumn = None,
    split_column: options.SplitColumn = None,
    base_folder: options.BaseFolder = None,
    extension: options.Extension = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there under this name.")
    ] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Average the weights of checkpoints (stochastic weight averaging).

    They must be of one architecture, with the same classes and the same input. The mean of the last
    epochs (--keep-epochs) of a run at a high learning rate is often better than each. Batch norm's
    statistics are averaged, too, which serves for neighbouring epochs; --data computes them anew.
    """
    given = locals()
    if output_ is None:
        raise UsageError("name the file to write with -o: average.safetensors.")
    if output_.suffix != ".safetensors":
        raise UsageError(f"{output_}: weights are written as .safetensors; give such a name.")
    if output_.exists() and not overwrite:
        raise UsageError(f"{output_} exists. Give another name, or --overwrite.")
    from resnest_cli.model import checkpoint
    from resnest_cli.output.training import TrainingDisplay
    from resnest_cli.training.average import average as mean
    from resnest_cli.training.average import recomputed
    from resnest_cli.training.dataset import load_dataset

    with locked(output_):
        found = mean(checkpoints)
        for note in found.info.notes:
            output.message(note)
        if data is not None:
            with TrainingDisplay() as display:
                with display.scanning() as progress:
                    dataset = load_dataset(
                        data,
                        val_split=0.2,
                        seed=0,
                        reading=picked(Reading, given),
                        progress=progress,
                    )
                for note in dataset.notes:
                    output.message(note)
                found = recomputed(found, dataset.train, display.statistics)
        checkpoint.save(output_, found.tensors, found.info)
    output.message(f"{output_}: the mean of {len(checkpoints)} checkpoints, statistics "
                   f"{found.info.provenance['statistics']}.")  # fmt: skip
