"""`resnest evaluate`: labelled photos -> how good a model is, and where it fails."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from resnest_cli import output
from resnest_cli.commands.flags import Without, command
from resnest_cli.commands.inputs import (
    check_written,
    finish,
    interrupted,
    show_summary,
    write_page,
)
from resnest_cli.data.labelled_photos import Reading
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.evaluation import evaluate as evaluation
from resnest_cli.evaluation.evaluate import EvaluateJob, FolderNumbers, Gathered, Split
from resnest_cli.files import check_folder, locked
from resnest_cli.jobs import predict as predict_job
from resnest_cli.options import (
    BatchSize,
    Html,
    ModelOptions,
    Option,
    RunOptions,
    TableFormat,
    Tta,
    share_of,
)
from resnest_cli.output.results import show_evaluation
from resnest_cli.text import count

FIRST = "model split output_ format_ html calibrate compare device batch_size quiet"
EXAMPLES = """
resnest evaluate data/ --model runs/finetune/exp/weights/best.safetensors
resnest evaluate imagenet/val --model resnest50d --no-exif -o eval/
resnest evaluate data/ --model best.safetensors --format json | jq .top1
resnest evaluate data/ --model best.safetensors --html page.html
resnest evaluate runs/finetune/exp/split.csv -m best.safetensors --calibrate
resnest evaluate photos.csv -m best.safetensors --calibrate --min-precision .9
resnest evaluate data/ --model best.safetensors --split test
resnest evaluate data/ --model best.safetensors --compare resnest50d
resnest evaluate data/ --model best.safetensors --unknown-data others/
"""


@command
def evaluate(
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
    min_precision: Annotated[
        float | None,
        Option(
            "With --calibrate, of several labels: new thresholds, of this precision.", "[0.01, 1]"
        ),
    ] = None,
    compare: Annotated[
        str | None, Option("Ask another model, too: which photos change?", "MODEL")
    ] = None,
    unknown_data: Annotated[
        str | None,
        Option("Photos of something else: how well are they told from DATA?", "DIR"),
    ] = None,
    unknown: Annotated[
        float | None,
        Option(
            "With --unknown-data, the accepted share of false alarms (5%).",
            "SHARE",
            parser=share_of,
        ),
    ] = None,
    batch_size: BatchSize = 8,
    tta: Tta = False,
    run: Annotated[
        RunOptions, Without("inputs from_file null_separated recursive frames every batch_size")
    ],
) -> None:
    """Say how good a model is on labelled photos, and where it fails.

    DATA has a folder for each class, named by its name, id (WordNet's for ImageNet) or index; or it
    is the split.csv of a run. Of data with a split the validation side is taken, else the test
    side. Photos that a checkpoint was trained on are counted, and left out of the first figures.
    Top-1 is exactly what `predict` says of the same photos; of a model that gives a photo several
    labels there are mAP, F1, and each class at its threshold. Photos that cannot be read are left
    out of the figures, and the exit code is 3.
    """
    options = replace(run, batch_size=batch_size)
    job = EvaluateJob(
        data, split, known_only, options, model, tta, calibrate, folder_numbers, reading,
        unknown_data,
    )  # fmt: skip
    if unknown is not None:
        if unknown_data is None:
            raise UsageError("--unknown goes with --unknown-data DIR.")
        job = replace(job, unknown=unknown)
    if min_precision is not None:
        job = replace(job, min_precision=min_precision)
    if output_ is not None:
        check_folder(output_, "-o")
    if calibrate or min_precision is not None:
        evaluation.check_calibrated(job)
    if compare is not None:
        from resnest_cli.model.names import understand

        understand(compare)
    with locked(html, Path(model.model) if calibrate else None, folder=output_):
        if html is not None:  # perhaps in the folder
            check_written(html, (model.model, model.weights, model.labels))
        first = _answers(job)
        second, refused = None, None
        try:
            if compare is not None:
                second = _answers(evaluation.other_job(job, compare, first))
        except ResnestError as error:  # said when everything else is out
            refused = error
        _show(job, first, second, format_, output_, html, refused)


def _answers(job: EvaluateJob) -> Gathered:
    with output.Bar() as progress:
        try:
            found = evaluation.evaluate(job, predict_job.classifier, progress)
        except KeyboardInterrupt:
            progress.clear()
            interrupted(
                f"{count(progress.done, 'photo')} had been judged. Figures are made at the end, so "
                "nothing was written; the same command begins again."
            )
            raise
    for note in found.notes:
        output.message(note)
    return found


def _show(
    job: EvaluateJob, first: Gathered, second: Gathered | None,
    format_: TableFormat, folder: Path | None, html: Path | None, refused: ResnestError | None,
) -> None:  # fmt: skip
    # Only now: these import numpy.
    from resnest_cli.evaluation import figures, report

    found = figures.evaluated(first)
    summary = figures.summary(found)
    if job.unknown_data is not None:
        summary["unknown"] = figures.unknown(found, job)
    if job.keep_logits:
        try:
            summary["calibrated"] = figures.calibrate(found, job.min_precision)
        except ResnestError as error:
            refused = error
    if second is not None:
        summary["comparison"] = figures.compared(first, second)
    # Files first: whoever reads stdout may leave early.
    if folder is not None:
        report.write_all(folder, found, summary)
        output.message(f"Written to {folder}.")
    if html is not None:
        write_page(report.evaluation_page(found, summary, folder), html)
    show_summary(summary, format_, show_evaluation)
    if note := figures.training_note(summary):
        output.message(note)
    finish(summary["unreadable"], count(len(first.items), "photo"), refused=refused)
