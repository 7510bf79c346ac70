"""`resnest evaluate`: labelled photos -> how good a model is, and where it fails."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from resnest_cli import options, output
from resnest_cli.commands import predict_job
from resnest_cli.commands.inputs import check_written, picked, write_page
from resnest_cli.data.listing import Reading
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.evaluation.job import EvaluateJob, Gathered, Split, gather
from resnest_cli.evaluation.truth import FolderNumbers
from resnest_cli.files import check_folder
from resnest_cli.images.limits import MAX_PIXELS
from resnest_cli.inference.run_options import ModelOptions, RunOptions
from resnest_cli.locks import locked
from resnest_cli.model.variants import DEFAULT_MODEL

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


def evaluate_command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A folder of class folders, or a table of path,label[,split]."
        ),
    ],
    model: options.Model = DEFAULT_MODEL,
    format_: options.TableFormat = "table",
    output_: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Also write figures, records and pictures there."
        ),
    ] = None,
    html: options.Html = None,
    split: Annotated[
        Split,
        typer.Option(help="Which photos of data with a split; auto is val, else test, else all."),
    ] = "auto",
    folder_numbers: Annotated[
        FolderNumbers,
        typer.Option(
            help="What folders 0, 1, 10, 11, 2, ... are: each its own index, or indices in this "
            "sorted order; auto is sorted where the model knows no names."
        ),
    ] = "auto",
    split_names: options.SplitNames = None,
    path_column: options.TablePathColumn = None,
    label_column: options.LabelColumn = None,
    split_column: options.SplitColumn = None,
    base_folder: options.BaseFolder = None,
    extension: options.Extension = None,
    known_only: Annotated[
        bool, typer.Option("--known-only", help="Leave out classes that the model does not know.")
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Fit a temperature on those photos that MODEL was not trained on, and write it "
            "into its file.",
        ),
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Ask another model, too: which photos change?"),
    ] = None,
    weights: options.Weights = None,
    trust_onnx: options.TrustOnnx = False,
    labels: options.Labels = None,
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 1,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    amp: options.HalfPrecision = "off",
    compiled: options.Compiled = False,
    img_size: options.ImgSize = None,
    crop_pct: options.CropPct = None,
    interpolation: options.Interpolation = None,
    crop_mode: options.CropMode = None,
    exif: options.Exif = True,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average each photo with its mirror image.")
    ] = False,
    isolate: options.Isolate = False,
    mirror: options.Mirror = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Say how good a model is on labelled photos, and where it fails.

    DATA has a folder for each class, named by its name, id (WordNet's for ImageNet) or index; or it
    is the split.csv of a run. Of data with a split the validation side is taken, else the test
    side. Photos that a checkpoint was trained on are counted, and left out of the first figures.
    Top-1 is exactly what `predict` says of the same photos. Photos that cannot be read are left out
    of the figures, and the exit code is 3.
    """
    given = locals()
    run_options = picked(
        RunOptions, given, inputs=(), from_file=None, null_separated=False, recursive=True,
        time_limit=predict_job.DECODING_LIMIT,
    )  # fmt: skip
    model_options = picked(ModelOptions, given)
    job = EvaluateJob(
        data,
        split,
        known_only,
        run_options,
        model_options,
        tta,
        calibrate,
        folder_numbers,
        picked(Reading, given),
    )
    if html is not None:
        check_written(html, (model, weights, labels))
    if output_ is not None:
        check_folder(output_, "-o")
    if calibrate:
        _check_calibrated(job)
    if compare is not None:
        from resnest_cli.model.loading import check_model_name

        check_model_name(compare)
    with locked(html, Path(model) if calibrate else None, folder=output_):
        _run(job, format_, output_, html, compare)


def _run(
    job: EvaluateJob,
    format_: Literal["table", "json"],
    folder: Path | None,
    html: Path | None,
    compare: str | None,
) -> None:
    first = _gathered(job)
    second = _gathered(_other(job, compare)) if compare is not None else None
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
        from resnest_cli.evaluation.files import write_all

        write_all(folder, found, first, summary)
        output.message(f"Written to {folder}.")
    if html is not None:
        from resnest_cli.evaluation.page import evaluation_page

        write_page(evaluation_page(found, summary, folder), html)
    _show(summary, format_)
    _tell_trained(summary)
    failed = summary["unreadable"]
    if failed:
        output.message(f"{failed} of {len(first.items)} photo(s) could not be read.")
    if refused is not None:  # last: the figures are out
        raise refused
    if failed:
        raise typer.Exit(3)


def _tell_trained(summary: dict[str, Any]) -> None:
    """What figures of training photos are worth."""
    trained = summary["trained_on"]
    if summary["trained"]:
        output.message(
            f"All {trained} readable photo(s) are ones that {summary['model']} was trained on: the "
            "figures say how well it remembers them, not how good it is."
        )
    elif trained:
        output.message(
            f"{trained} of {trained + summary['photos']} photo(s) are ones that {summary['model']} "
            "was trained on; the figures leave them out."
        )


def _gathered(job: EvaluateJob) -> Gathered:
    with output.RecordProgress(None) as progress:
        found = gather(job, _classifier, progress.update)
    for note in found.told.notes:
        output.message(note)
    return found


def _classifier(options_: ModelOptions, tta: bool) -> "Classifier":
    return predict_job.classifier(options_, tta=tta)


def _other(job: EvaluateJob, model: str) -> EvaluateJob:
    """The same photos for another model, which is fed as it wants to be."""
    other = replace(
        job.model, model=model, weights=None, labels=None, img_size=None, crop_pct=None,
        interpolation=None,
    )  # fmt: skip
    return replace(job, model=other, keep_logits=False)


def _check_calibrated(job: EvaluateJob) -> None:
    """Whether a temperature can be written into the model's file; before anything slow begins."""
    from resnest_cli.model.checkpoint_header import read_info

    path = Path(job.model.model)
    if job.model.weights is not None or not path.is_file() or read_info(path).format != "resnest":
        raise UsageError(
            f"--calibrate writes into a checkpoint of ours, and {job.model.model} is none. Give "
            "--model the path of one, such as runs/finetune/exp/weights/best.safetensors."
        )


def _show(summary: dict[str, Any], format_: Literal["table", "json"]) -> None:
    from resnest_cli.output.evaluation import show_calibration, show_comparison, show_evaluation

    if format_ == "json":
        output.emit(output.to_json(summary, indent=2) + "\n")
        return
    show_evaluation(summary)
    if "calibrated" in summary:
        show_calibration(summary["calibrated"])
    if "comparison" in summary:
        show_comparison(summary["comparison"])
