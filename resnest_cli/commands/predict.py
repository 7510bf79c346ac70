"""`resnest predict`: photos -> ranked classes."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from resnest_cli import output
from resnest_cli.commands.flags import Without, command
from resnest_cli.commands.inputs import (
    check_inputs,
    check_runner,
    check_written,
    counted_ahead,
    explicit,
    files_read,
    finish,
    format_by_name,
    show_records,
    write_page,
)
from resnest_cli.cpu import usable_cores
from resnest_cli.files import locked
from resnest_cli.images.inputs import listed
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import SourceStats
from resnest_cli.inference.ranking import Record
from resnest_cli.jobs.predict import Ranking, Request, predictor
from resnest_cli.options import (
    Html,
    ModelOptions,
    Option,
    RayOptions,
    RunOptions,
    SortOptions,
    Tta,
    XmpOptions,
    share_of,
)
from resnest_cli.text import count, short_name

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.report.sidecars import Sidecars
    from resnest_cli.sorting.sort import Outcome, Sorting

FIRST = "model topk output_ format_ html reject_below sort_into resume device quiet"
EXAMPLES = """
resnest predict dog.jpg --model resnest101e --topk 5
resnest predict photos/ -o records.parquet --resume
resnest predict photos/ -o records.csv --html page.html
resnest predict "photos/**/*.jpg" --format jsonl | head -3
find . -name "*.png" -print0 | resnest predict --from-file - -0
resnest predict photos/ --xmp -k 1 --threshold 0.5
resnest predict photo.jpg --model runs/finetune/exp/weights/best.safetensors
resnest predict photos/ --sort-into sorted --copy --reject-below 0.6
resnest predict --undo sorted
resnest predict photos.zip archive.tar.gz/2024/
resnest predict clip.mp4 --every 1s --per-clip
resnest predict s3://bucket/photos/ -o s3://bucket/said/ --runner ray
"""

_FEW = 8  # explicit photos up to this number get a table each
_FORMATS = {f".{name}": name for name in ("csv", "json", "jsonl", "parquet")}


@command
def predict(
    *,
    run: Annotated[RunOptions, Without("workers")],
    model: ModelOptions,
    topk: Annotated[int, Option("How many classes for each photo.", "-k [1, inf)")] = 5,
    format_: Annotated[
        Literal["table", "json", "jsonl", "csv", "parquet"] | None,
        Option(
            "How records are written; by the extension of -o FILE, else a table. In a folder: "
            "parquet, or jsonl."
        ),
    ] = None,
    output_: Annotated[
        str | None,
        Option(
            "Write records there, not on stdout (-); FOLDER/ gets many files. With --runner ray a "
            "folder, required.",
            "-o FILE|FOLDER/",
        ),
    ] = None,
    html: Html = None,
    threshold: Annotated[
        float | None, Option("Leave out classes less probable than this.", "SHARE [0, 1]")
    ] = None,
    reject_below: Annotated[
        float,
        Option("Answer `unsure` where the best class is less probable than this.", "SHARE [0, 1]"),
    ] = 0.0,
    unknown: Annotated[
        float | None,
        Option(
            "Answer `unknown` for photos that are far from those that the model was trained on. "
            "SHARE is how many photos like those may be called unknown by mistake, such as 5%.",
            "SHARE",
            parser=share_of,
        ),
    ] = None,
    xmp: XmpOptions,
    tta: Tta = False,
    sort: SortOptions,
    per_clip: Annotated[
        bool,
        Option(
            "One answer for all frames of a file, the mean of theirs; goes with --frames, --every.",
            after="every",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        Option(
            "Photos that are decoded at once: 1; in a folder or a .parquet as many as there are "
            "cores.",
            "-j [0, 256]",
            after="batch_size",
        ),
    ] = None,
    ray: RayOptions,
    resume: Annotated[
        bool,
        Option(
            "Go on where an interrupted run left off (FOLDER/, .parquet, --sort-into).",
            after="path_column",
        ),
    ] = False,
    overwrite: Annotated[
        bool, Option("Replace what is there under this name.", after="resume")
    ] = False,
) -> None:
    """Say what is in photos: ranked classes with their probabilities.

    One record per input, always: a photo that cannot be read gives its error, and exit code 3 at
    the end. Folders and globs take known image extensions; a .zip or .tar stands for the photos in
    it. Weights are downloaded on first use.
    A folder (-o FOLDER/: files of Parquet or of JSON lines) and a .parquet are written in parts:
    whatever ends a run, --resume goes on. --runner ray writes a folder.
    --sort-into brings the photos into the folders of their classes; --undo takes that back.
    """
    asked = Request(
        run, model, Ranking(topk, threshold or 0.0, reject_below, tta, unknown), sort, xmp,
        output_, format_, html, per_clip=per_clip, on_ray=ray.runner == "ray",
        resume=resume, overwrite=overwrite,
    )  # fmt: skip
    if sort.undo is not None:
        _undo(asked)
        return
    check_inputs(run)
    check_runner(ray, run, output_)
    asked.check()
    if asked.on_ray:
        from resnest_cli.jobs.ray import ALL_CORES, run_command

        run = replace(run, workers=ALL_CORES if workers is None else workers)
        run_command(
            run, model, ray, asked.ranking, output_,
            format_=format_, resume=resume, overwrite=overwrite,
        )  # fmt: skip
        return
    for path in filter(None, (asked.file, html)):
        check_written(path, files_read(run, model))
    if workers is None:
        workers = usable_cores() if asked.in_parts else 1
    asked = replace(asked, run=replace(run, workers=workers))
    if asked.in_parts:
        from resnest_cli.jobs.local import predict_in_parts

        predict_in_parts(asked)
        return
    asked = replace(asked, format=asked.format or format_by_name(asked.file, _FORMATS))
    keywords = None
    if xmp != XmpOptions():
        from resnest_cli.report.sidecars import Sidecars

        keywords = Sidecars.of(xmp, run.inputs, all_shown=threshold is not None)
    with locked(asked.file, html):
        if sort.sort_into is None:
            _end(*_show(asked, keywords), keywords)
        else:
            _sort(asked, keywords)


def _show(
    asked: Request, keywords: "Sidecars | None", sorting: "Sorting | None" = None
) -> tuple[int, int]:
    """Shows a record of each input; returns how many are errors, and how many there are."""
    run, model, ranking = asked.run, asked.model, asked.ranking
    total, stats = explicit(run), SourceStats()
    writer = output.record_writer(
        cast("output.Format", asked.format),
        asked.file,
        topk=ranking.topk,
        single=total == 1,
        many=total is None or total > _FEW,
        rejecting=ranking.reject_below > 0,
        doubting=ranking.unknown is not None,
        sorting=sorting is not None,
    )
    page, write, ready = None, writer.write, lambda _: None
    if asked.html is not None:
        from resnest_cli.report.pages import Page, model_line

        page = Page(
            f"Predictions of {short_name(model.model)}", "", max_pixels=model.max_pixels,
            sorted_into=asked.sort.sort_into,
        )  # fmt: skip

        def write(record: Record) -> None:
            page.add(record)
            writer.write(record)

        def ready(classifier: "Classifier") -> None:
            page.model = "; ".join([model_line(classifier), *ranking.words()])

    with Decoders.of(run, model) as decoders:
        predict = partial(predictor, asked, decoders, keywords, ready)
        sources = listed(run, stats, max_pixels=model.max_pixels)
        found = predict()[1](sources) if sorting is None else sorting.planned(sources, predict)
        shown = counted_ahead(run) if total is None and asked.file is not None else total
        kept = _kept(asked.html, keywords is not None)
        done, failed, _ = show_records(found, shown, write, writer.close, stats, asked.file, kept)
    if page is not None and asked.html is not None:
        page.subtitle = page.summary()
        write_page(page, asked.html)
    return failed, done


def _sort(asked: Request, keywords: "Sidecars | None") -> None:
    """Shows a record of each input with its place, and then brings the photos there."""
    from resnest_cli.jobs.job import go_on, interruptible
    from resnest_cli.sorting.sort import sorting

    again = go_on("predict")
    with (
        interruptible(again),
        sorting(asked.sort, asked.repeated, resume=asked.resume) as work,
    ):
        if work.finished:
            into = asked.sort.sort_into
            output.message(f"All was sorted into {into} already; sort anew without --resume.")
            return
        failed, done = _show(asked, keywords, work)
        with output.Bar("sorting") as bar:
            outcome = work.carry_out(bar, again)
    output.message(outcome.text(asked.sort))
    _end(failed, done, keywords, outcome)


def _undo(asked: Request) -> None:
    """Takes the last sorting into a folder back."""
    from resnest_cli.jobs.job import interruptible
    from resnest_cli.sorting.sort import undo, undo_command

    asked.check_undo()
    folder = cast("Path", asked.sort.undo)
    with interruptible(undo_command(folder)), output.Bar("taking back") as bar:
        outcome = undo(folder, bar)
    output.message(f"Took back {count(outcome.files, 'file')} of {folder}.")
    _end(0, 0, None, outcome)


def _end(
    failed: int, done: int, keywords: "Sidecars | None", outcome: "Outcome | None" = None
) -> None:
    """Says what was written and what was not; exits with 3 where something was not."""
    wrong = False
    if keywords is not None:
        for line in keywords.summary():
            output.message(line)
        if keywords.failed:
            output.error(keywords.complaint())
            wrong = True
    if outcome is not None:
        if outcome.failed:
            output.message(outcome.failures())
        wrong = wrong or outcome.incomplete
    finish(failed, count(done, "input"))
    if wrong:
        raise typer.Exit(3)


def _kept(html: Path | None, keywords: bool) -> str:
    """What there is after Ctrl-C beside the records, and how to go on."""
    return (
        f"{' So are the keywords of their photos.' if keywords else ''}"
        f"{f' {html} was not written.' if html else ''} The same command begins again with the "
        "first photo; -o FOLDER/ or FILE.parquet goes on with --resume."
    )
