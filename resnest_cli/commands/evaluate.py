"""`resnest evaluate`: labelled photos -> how good a model is, and where it fails."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnest_cli import output
from resnest_cli.commands import predict_job
from resnest_cli.commands.flags import Without, command
from resnest_cli.commands.inputs import check_written, show_summary, write_page
from resnest_cli.data.labelled_photos import Reading
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.evaluation.evaluate import EvaluateJob, FolderNumbers, Gathered, Split, gather
from resnest_cli.files import check_folder, locked
from resnest_cli.options import BatchSize, Html, ModelOptions, Option, RunOptions, TableFormat, Tta

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier

EPILOG = """Examples:

  resnest evaluate data/ --model runs/finetune/exp/weights/best.safetensors

  resnest evaluate imagenet/val --model resnest50d --no-exif -o eval/

  resnest evaluate data/ --model best.safetensors --format json | jq .top1

  resnest evaluate data/ --model best.safetensors --html page.html

  resnest evaluate runs/finetune/exp/split.csv --model best.safetensors --calibrate

  resnest evaluate data/ --model best.safetensors --split test

  resnest evaluate data/ --model best.safetensors --compare resnest50d"""


@command
def evaluate_command(
    *,
    data: Annotated[
        str,
        Option(
            "A folder of class folders, or a table of path,label[,split].", "DATA", argument=True
        ),
    ],
    model: Annotated[ModelOptions, Without("graphs fast_decode gpu_decode")],
    format_: TableFormat = "table",
    output_: Annotated[
        Path | None, Option("Also write figures, records and pictures there.", "-o DIR")
    ] = None,
    html: Html = None,
    split: Annotated[
        Split, Option("Which photos of data with a split; auto is val, else test, else all.")
    ] = "auto",
    folder_numbers: Annotated[
        FolderNumbers,
        Option(
            "What folders 0, 1, 10, 11, 2, ... are: each its own index, or indices in this sorted "
            "order; auto is sorted where the model knows no names."
        ),
    ] = "auto",
    reading: Reading,
    known_only: Annotated[bool, Option("Leave out classes that the model does not know.")] = False,
    calibrate: Annotated[
        bool,
        Option(
            "Fit a temperature on those photos that MODEL was not trained on, and write it into "
            "its file."
        ),
    ] = False,
    compare: Annotated[
        str | None, Option("Ask another model, too: which photos change?", "MODEL")
    ] = None,
    batch_size: BatchSize = 8,
    tta: Tta = False,
    run: Annotated[RunOptions, Without("inputs from_file null_separated recursive batch_size")],
) -> None:
    """Say how good a model is on labelled photos, and where it fails.

    DATA has a folder for each class, named by its name, id (WordNet's for ImageNet) or index; or it
    is the split.csv of a run. Of data with a split the validation side is taken, else the test
    side. Photos that a checkpoint was trained on are counted, and left out of the first figures.
    Top-1 is exactly what `predict` says of the same photos. Photos that cannot be read are left out
    of the figures, and the exit code is 3.
    """
    job = EvaluateJob(
        data, split, known_only, replace(run, batch_size=batch_size), model, tta, calibrate,
        folder_numbers, reading,
    )  # fmt: skip
    if html is not None:
        check_written(html, (model.model, model.weights, model.labels))
    if output_ is not None:
        check_folder(output_, "-o")
    if calibrate:
        _check_calibrated(job)
    if compare is not None:
        from resnest_cli.model.loading import check_model_name

        check_model_name(compare)
    with locked(html, Path(model.model) if calibrate else None, folder=output_):
        _run(job, format_, output_, html, compare)


def _run(
    job: EvaluateJob, format_: str, folder: Path | None, html: Path | None, compare: str | None
) -> None:
    first = _gathered(job)
    second = None
    if compare is not None:  # the same photos for another model, fed as it wants to be
        names = ("weights", "labels", "img_size", "crop_pct", "interpolation")
        fed: dict[str, Any] = dict.fromkeys(names)
        other = replace(job.model, model=compare, **fed)
        second = _gathered(replace(job, model=other, keep_logits=False))
    # Only now, see `gather`: these import numpy.
    from resnest_cli.evaluation import calibration, figures

    found = figures.evaluated(first.judged)
    summary = figures.summary(found, first)
    refused = None
    if job.keep_logits:
        try:
            calibration.check_enough(first)
            summary["calibrated"] = calibration.calibrate(found)
        except ResnestError as error:
            refused = error
    if second is not None:
        summary["comparison"] = figures.compared(first, second)
    # Files first: whoever reads stdout may leave early.
    if folder is not None:
        from resnest_cli.evaluation.report import write_all

        write_all(folder, found, first, summary)
        output.message(f"Written to {folder}.")
    if html is not None:
        from resnest_cli.evaluation.report import evaluation_page

        write_page(evaluation_page(found, summary, folder), html)
    show_summary(summary, format_, _show)
    _tell(summary, photos=len(first.items))
    if refused is not None:  # last: the figures are out
        raise refused
    if summary["unreadable"]:
        raise typer.Exit(3)


def _gathered(job: EvaluateJob) -> Gathered:
    with output.RecordProgress(None) as progress:
        found = gather(job, _classifier, progress.update)
    for note in found.told.notes:
        output.message(note)
    return found


def _classifier(options: ModelOptions, tta: bool) -> "Classifier":
    return predict_job.classifier(options, tta=tta)


def _tell(summary: dict[str, Any], photos: int) -> None:
    """What figures of training photos are worth, and how many could not be read."""
    model, trained = summary["model"], summary["trained_on"]
    if summary["trained"]:
        output.message(
            f"All {trained} readable photo(s) are ones that {model} was trained on: the figures "
            "say how well it remembers them, not how good it is."
        )
    elif trained:
        output.message(
            f"{trained} of {trained + summary['photos']} photo(s) are ones that {model} was "
            "trained on; the figures leave them out."
        )
    if summary["unreadable"]:
        output.message(f"{summary['unreadable']} of {photos} photo(s) could not be read.")


def _check_calibrated(job: EvaluateJob) -> None:
    from resnest_cli.model.checkpoint_header import read_info

    path = Path(job.model.model)
    if job.model.weights is not None or not path.is_file() or read_info(path).format != "resnest":
        raise UsageError(
            f"--calibrate writes into a checkpoint of ours, and {job.model.model} is none. Give "
            "--model the path of one, such as runs/finetune/exp/weights/best.safetensors."
        )


def _show(summary: dict[str, Any]) -> None:
    from resnest_cli.output.results import show_calibration, show_comparison, show_evaluation

    show_evaluation(summary)
    if "calibrated" in summary:
        show_calibration(summary["calibrated"])
    if "comparison" in summary:
        show_comparison(summary["comparison"])
