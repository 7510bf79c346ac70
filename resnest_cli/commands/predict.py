"""`resnest predict`: photos -> ranked classes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
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
    show_records,
    write_page,
)
from resnest_cli.cpu import usable_cores
from resnest_cli.errors import UsageError, need
from resnest_cli.files import locked
from resnest_cli.images.inputs import listed
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import SourceStats
from resnest_cli.inference.ranking import Record
from resnest_cli.jobs.predict import Ranking, predictor
from resnest_cli.options import (
    How,
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
from resnest_cli.paths import check_not_read, check_place
from resnest_cli.signals import StoppedError
from resnest_cli.text import count

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.report.sidecars import Sidecars
    from resnest_cli.sorting.sort import Outcome, Predicted, Sorting

FIRST = "model topk output_ format_ html threshold reject_below resume device quiet"
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
_FORMATS: dict[str, output.Format] = {".csv": "csv", ".json": "json", ".jsonl": "jsonl"}


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
        float, Option("Leave out classes less probable than this.", "SHARE [0, 1]")
    ] = 0.0,
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
    if sort.undo is not None:
        _undo(sort, run)
        return
    check_inputs(run)
    how = sort.how
    check_runner(ray, run, output_)
    in_parts = ray.runner == "ray" or (
        output_ is not None and (_is_folder(output_) or _is_parquet(output_, format_))
    )
    on_files = how is not None or xmp != XmpOptions()
    frames = run.frames is not None or run.every is not None
    for contradiction, why in (
        (resume and overwrite, "--overwrite starts afresh: it excludes --resume."),
        (
            not in_parts and (overwrite or (resume and how is None)),
            "--resume and --overwrite go with -o FOLDER/ or FILE.parquet: other records are "
            "written as they come, from the beginning.",
        ),
        (
            in_parts and (html is not None or on_files),
            "--html, --xmp and --sort-into go with records that are printed or written as text, "
            "here on this machine (--runner local).",
        ),
        (
            frames and on_files,
            "--frames and --every: a frame is no file to sort, or to write XMP for.",
        ),
        (
            per_clip and not frames,
            "--per-clip goes with --frames or --every: say which frames there are.",
        ),
        (
            per_clip and in_parts,
            "--per-clip: a folder and a .parquet have a record for each frame, which they are "
            "resumed by. Leave it out, or write .jsonl or .csv.",
        ),
        (
            per_clip and unknown is not None,
            "--per-clip: --unknown judges single photos. Leave one of them out.",
        ),
    ):
        if contradiction:
            raise UsageError(why)
    wanted = Ranking(topk, threshold, reject_below, tta, unknown)
    if ray.runner == "ray":
        from resnest_cli.jobs.ray import ALL_CORES, run_command

        run = replace(run, workers=ALL_CORES if workers is None else workers)
        run_command(
            run, model, ray, wanted, output_, format_=format_, resume=resume, overwrite=overwrite
        )
        return
    if in_parts and output_ is not None:
        run = replace(run, workers=usable_cores() if workers is None else workers)
        _write_parts(run, model, wanted, output_, format_, resume=resume, overwrite=overwrite)
        return
    keywords = None
    if xmp != XmpOptions():
        from resnest_cli.report.sidecars import Sidecars

        keywords = Sidecars.of(xmp, run.inputs)
    if format_ == "parquet":
        raise UsageError("--format parquet needs a file or a folder: name it with -o.")
    target = Path(output_) if output_ not in {None, "-"} else None
    for path in filter(None, (target, html)):
        check_written(path, files_read(run, model))
    run = replace(run, workers=1 if workers is None else workers)
    with locked(target, html):
        if how is None:
            failed, done = _show(
                run, model, wanted, target, format_, html, keywords, per_clip=per_clip
            )
            _end(failed, done, keywords)
        else:
            _sort(
                run, model, wanted, target, format_, html, keywords,
                sort=sort, how=how, resume=resume,
            )  # fmt: skip


def _is_folder(name: str) -> bool:
    return name.endswith(("/", os.sep)) or (name != "" and Path(name).is_dir())


def _is_parquet(name: str, format_: str | None) -> bool:
    return name != "-" and (format_ or Path(name).suffix.lower()[1:]) == "parquet"


def _write_parts(
    run: RunOptions,
    model: ModelOptions,
    wanted: Ranking,
    output_: str,
    format_: str | None,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Records in parts, which an interrupted run goes on with."""
    if format_ not in {None, "parquet", "jsonl"}:
        raise UsageError(f"--format {format_}: a folder holds parquet or jsonl.")
    if format_ != "jsonl":
        need("pyarrow", output_)
    from resnest_cli.jobs.folder import FolderOutput, ParquetOutput
    from resnest_cli.jobs.job import Job, carry_out, go_on
    from resnest_cli.jobs.local import LocalRunner
    from resnest_cli.jobs.run import run as run_job

    format_ = format_ or "parquet"
    job = Job(output_, run, model, wanted, format_, model.model, go_on=go_on("predict"))
    if _is_folder(output_):
        target = FolderOutput(output_, format_)
    else:
        check_place(Path(output_))
        check_not_read(Path(output_), files_read(run, model))
        target = ParquetOutput(Path(output_))
    runner = LocalRunner(job, target)
    carry_out(
        lambda bar: run_job(job, target, runner, bar, resume=resume, overwrite=overwrite),
        job.go_on,
        target.summary_text,
    )


def _show(
    run: RunOptions,
    model: ModelOptions,
    wanted: Ranking,
    target: Path | None,
    format_: output.Format | None,
    html: Path | None,
    keywords: "Sidecars | None",
    sorting: "Sorting | None" = None,
    *,
    per_clip: bool = False,
) -> tuple[int, int]:
    """Shows a record of each input; returns how many are errors, and how many there are."""
    total, stats = explicit(run), SourceStats()
    writer = output.record_writer(
        format_ or (_FORMATS.get(target.suffix.lower(), "table") if target else "table"),
        target,
        topk=wanted.topk,
        single=total == 1,
        many=total is None or total > _FEW,
        rejecting=wanted.reject_below > 0,
        doubting=wanted.unknown is not None,
        sorting=sorting is not None,
    )
    page, write, ready = None, writer.write, lambda _: None
    if html is not None:
        from resnest_cli.report.pages import Page, model_line

        page = Page(f"Predictions of {model.model}", "", max_pixels=model.max_pixels)

        def write(record: Record) -> None:
            page.add(record)
            writer.write(record)

        def ready(classifier: "Classifier") -> None:
            page.model = "; ".join([model_line(classifier), *wanted.words()])

    with Decoders.of(run, model) as decoders:
        predict = partial(_predictor, run, model, wanted, decoders, keywords, per_clip, ready)
        sources = listed(run, stats, max_pixels=model.max_pixels)
        found = predict()[1](sources) if sorting is None else sorting.planned(sources, predict)
        shown = counted_ahead(run) if total is None and target is not None else total
        done, failed, _ = show_records(
            found, shown, write, writer.close, stats, target, _kept(html, keywords is not None)
        )
    if page is not None and html is not None:
        page.subtitle = page.summary()
        write_page(page, html)
    return failed, done


def _predictor(
    run: RunOptions,
    model: ModelOptions,
    wanted: Ranking,
    decoders: Decoders,
    keywords: "Sidecars | None",
    per_clip: bool,
    ready: "Callable[[Classifier], None]",
) -> "Predicted":
    """The classes, and what gives the records; their sidecars are written on the way."""
    names, predict = predictor(run, model, wanted, decoders, ready, per_clip=per_clip)
    if keywords is None:
        return names, predict
    return names, lambda sources: keywords.written(predict(sources))


def _sort(
    run: RunOptions,
    model: ModelOptions,
    wanted: Ranking,
    target: Path | None,
    format_: output.Format | None,
    html: Path | None,
    keywords: "Sidecars | None",
    *,
    sort: SortOptions,
    how: How,
    resume: bool,
) -> None:
    """Shows a record of each input with its place, and then brings the photos there."""
    from resnest_cli.jobs.job import go_on
    from resnest_cli.sorting.sort import sorting

    if keywords is not None and sort.dry_run:
        raise UsageError("--dry-run writes nothing: leave out --xmp.")
    folder, again = cast("Path", sort.sort_into), go_on("predict")
    asked = {
        "how": how,
        "live_photos": sort.live_photos,
        "inputs": (*run.inputs, run.from_file, run.recursive),
        "working folder": str(Path.cwd()),
        "model": [model.model, model.weights, model.labels, model.exif, model.crop_mode],
        "ranking": asdict(wanted),
    }
    with (
        _interruptible(again),
        sorting(
            folder, how, asked, live_photos=sort.live_photos, resume=resume, dry_run=sort.dry_run
        ) as work,
    ):
        if work.finished:
            output.message(f"All was sorted into {folder} already; sort anew without --resume.")
            return
        failed, done = _show(run, model, wanted, target, format_, html, keywords, work)
        with output.Bar("sorting") as bar:
            outcome = work.carry_out(bar, again)
    output.message(outcome.text(how, folder, dry_run=sort.dry_run))
    _end(failed, done, keywords, outcome)


def _undo(sort: SortOptions, run: RunOptions) -> None:
    """Takes the last sorting into a folder back."""
    folder = cast("Path", sort.undo)
    if replace(sort, undo=None) != SortOptions() or run.inputs or run.from_file:
        raise UsageError("--undo DIR stands alone: all else is in the journal in DIR.")
    from resnest_cli.sorting.sort import undo, undo_command

    with _interruptible(undo_command(folder)), output.Bar("taking back") as bar:
        outcome = undo(folder, bar)
    output.message(f"Took back {count(outcome.files, 'file')} of {folder}.")
    _end(0, 0, None, outcome)


@contextmanager
def _interruptible(go_on: str) -> Iterator[None]:
    """Says how to go on where a signal ends what is done inside."""
    try:
        yield
    except (KeyboardInterrupt, StoppedError) as end:
        output.message(f"interrupted: what is done is kept. Go on with:\n  {go_on}")
        raise SystemExit(getattr(end, "exit_code", 130)) from None


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
        wrong = wrong or outcome.failed > 0 or outcome.stays["no file"] > 0
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
