"""`resnest average`: checkpoints of one network -> their mean."""

from pathlib import Path
from typing import Annotated

from resnest_cli import output
from resnest_cli.commands.flags import command
from resnest_cli.data.labelled_photos import Reading
from resnest_cli.errors import UsageError
from resnest_cli.files import locked
from resnest_cli.options import Option

PAGE = "recipes"
EXAMPLES = """
resnest train data/ --keep-epochs 5
resnest average runs/train/exp/weights/epoch-*.safetensors -o mean.safetensors
resnest average epoch-*.safetensors -o mean.safetensors --data data/
resnest evaluate data/ --model mean.safetensors
"""


@command
def average(
    *,
    checkpoints: Annotated[
        list[Path],
        Option("Checkpoints of one network, two or more.", "CHECKPOINT...", argument=True),
    ],
    output_: Annotated[Path | None, Option("The mean, .safetensors. Required.", "-o FILE")] = None,
    data: Annotated[
        str | None,
        Option(
            "Compute batch norm's statistics anew on the training photos of these data, and the "
            "thresholds of several labels on the validation photos.",
            "DATA",
        ),
    ] = None,
    reading: Reading,
    overwrite: Annotated[bool, Option("Replace what is there under this name.")] = False,
) -> None:
    """Average the weights of checkpoints (stochastic weight averaging).

    They must be of one architecture, with the same classes and the same input. The mean of the last
    epochs (--keep-epochs) of a run at a high learning rate is often better than each. Batch norm's
    statistics are averaged, too, which serves for neighbouring epochs; --data computes them anew.
    So are the thresholds of several labels; --data fits them anew, for the largest F1, on its
    validation photos.
    """
    if output_ is None:
        raise UsageError("name the file to write with -o: average.safetensors.")
    if output_.suffix != ".safetensors":
        raise UsageError(f"{output_}: weights are written as .safetensors; give such a name.")
    if output_.exists() and not overwrite:
        raise UsageError(f"{output_} exists. Give another name, or --overwrite.")
    from resnest_cli.data.dataset import load_dataset
    from resnest_cli.model import checkpoint
    from resnest_cli.output.training import TrainingDisplay
    from resnest_cli.training.average import average as mean
    from resnest_cli.training.average import recomputed, with_fitted_thresholds

    with locked(output_):
        found = mean(checkpoints)
        for note in found.info.notes:
            output.message(note)
        if data is not None:
            with TrainingDisplay() as display:
                with display.showing("Checking photos") as progress:
                    dataset = load_dataset(
                        data, val_split=0.2, seed=0, reading=reading, progress=progress
                    )
                for note in dataset.notes:
                    output.message(note)
                found = recomputed(found, dataset.train, display.statistics)
                with display.showing("Fitting thresholds") as progress:
                    found = with_fitted_thresholds(found, dataset, progress)
        checkpoint.save(output_, found.tensors, found.info)
    statistics = found.info.provenance["statistics"]
    limits = found.info.provenance.get("thresholds")
    more = f", thresholds {limits}" if limits else ""
    output.message(
        f"{output_}: the mean of {len(checkpoints)} checkpoints, statistics {statistics}{more}."
    )
