"""`resnest check`: labelled photos -> what is wrong with them, before they train anything."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnest_cli import output
from resnest_cli.commands.flags import Without, command
from resnest_cli.commands.inputs import check_written, show_summary, write_page
from resnest_cli.cpu import usable_cores
from resnest_cli.data.issue_kinds import kinds_of
from resnest_cli.data.labelled_photos import Reading
from resnest_cli.files import check_folder, locked
from resnest_cli.inspection.check import (
    CheckJob,
    Findings,
    check_data,
    summary,
    write_findings,
)
from resnest_cli.jobs import predict as predict_job
from resnest_cli.model.variants import BUNDLED_MODEL
from resnest_cli.options import (
    AutoWorkers,
    BatchSize,
    Html,
    ModelName,
    ModelOptions,
    Option,
    RunOptions,
    TableFormat,
)
from resnest_cli.output.issues import show_issues, what_next
from resnest_cli.output.label_counts import show_label_counts
from resnest_cli.signals import PatientStop, StoppedError

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier

FIRST = "model output_ format_ html fail_on exclude device quiet"
EXAMPLES = """
resnest check data/
resnest check data/ -o checked/ --html checked.html
resnest check data/ --model resnest50d
resnest check photos.csv --format json | jq .issues
resnest check data/ --fail-on leak,contradiction,unreadable
"""


@command
def check(
    *,
    data: Annotated[
        str,
        Option(
            "A folder of class folders, or a table of path,label[,split].", "DATA", argument=True
        ),
    ],
    model: ModelName = BUNDLED_MODEL,
    network: Annotated[
        ModelOptions, Without("model labels fast_decode gpu_decode graphs compiled")
    ],
    format_: TableFormat = "table",
    output_: Annotated[
        Path | None, Option("Also write issues.csv and summary.json there.", "-o DIR")
    ] = None,
    html: Html = None,
    fail_on: Annotated[
        str | None,
        Option(
            "Exit with 3 if there is an issue of these kinds, or groups of kinds: leak,label; all.",
            "KINDS",
        ),
    ] = None,
    reading: Reading,
    batch_size: BatchSize = 8,
    workers: AutoWorkers = None,
    run: Annotated[
        RunOptions,
        Without("inputs from_file null_separated recursive frames every batch_size workers"),
    ],
) -> None:
    """Look over labelled photos: bad files, copies, wrong labels, leaks, odd ones.

    DATA is whatever `resnest finetune` takes, but for tar shards; all sides of a split are looked
    at. Each photo is decoded once, and what was found is kept: a second run looks at what is new or
    changed, and Ctrl-C loses nothing. Nothing is deleted or moved.
    """
    threads = usable_cores() if workers is None else workers
    options = replace(run, batch_size=batch_size, workers=threads)
    job = CheckJob(data, options, replace(network, model=model), reading)
    wanted = None if fail_on is None else kinds_of(fail_on, "--fail-on")
    if output_ is not None:
        check_folder(output_, "-o")
    with locked(html, folder=output_):
        if html is not None:  # perhaps in the folder
            check_written(html, (data, model, network.weights))
        found = _findings(job)
        if output_ is not None:
            write_findings(output_, found)
            output.message(f"Written to {output_}.")
        if html is not None:
            from resnest_cli.inspection.page import issues_page

            write_page(issues_page(found), html)
        show_summary(summary(found), format_, show_issues)
        if found.label_counts and format_ == "table":
            output.emit("\n")
            show_label_counts(found.survey.class_names, found.label_counts)
    folder = None if output_ is None else str(output_)
    output.message(what_next(bool(found.issues), data, folder))
    if wanted is not None and any(issue.kind in wanted for issue in found.issues):
        raise typer.Exit(3)


def _findings(job: CheckJob) -> Findings:
    with PatientStop() as stop, output.Bar() as progress:

        def make(options: ModelOptions, **how: Any) -> "Classifier":
            classifier = predict_job.classifier(options, **how)
            stop.patient = True  # from here on there is something to keep
            return classifier

        try:
            found = check_data(job, make, progress, stop.check)
        except StoppedError as end:
            progress.clear()
            kept = ": what was seen of photos is kept; the same command goes on" * stop.patient
            output.message(f"{end}{kept}.")
            raise typer.Exit(end.exit_code) from None
    for note in found.notes:
        output.message(note)
    return found
