"""`resnest predict`: photos -> ranked classes."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import locked
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import SourceStats
from resnest_cli.inference.ranking import Record
from resnest_cli.jobs.predict import Ranking, records
from resnest_cli.options import (
    Html,
    ModelOptions,
    Option,
    RayOptions,
    RunOptions,
    Tta,
    XmpOptions,
    share_of,
)
from resnest_cli.paths import check_not_read, check_place
from resnest_cli.text import count

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.report.sidecars import Sidecars

FIRST = "model topk output_ format_ html threshold reject_below resume device quiet"
EXAMPLES = """
resnest predict dog.jpg --model resnest101e --topk 5
resnest predict photos/ -o records.csv
resnest predict photos/ -o records.parquet --resume
resnest predict photos/ --html page.html
resnest predict "photos/**/*.jpg" --format jsonl | head -3
find . -name "*.png" -print0 | resnest predict --from-file - -0
curl -s https://example.org/dog.jpg | resnest predict -
resnest predict photos/ --xmp -k 1 --threshold 0.5
resnest predict photo.jpg --model runs/finetune/exp/weights/best.safetensors
resnest predict photos/ --model best.safetensors --unknown 5%
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
        Option("Go on where an interrupted run left off (FOLDER/, .parquet).", after="path_column"),
    ] = False,
    overwrite: Annotated[
        bool, Option("Replace what is there under this name.", after="resume")
    ] = False,
) -> None:
    """Say what is in photos: ranked classes with their probabilities.

    One record per input, always: a photo that cannot be read gives its error, and exit code 3 at
    the end. Folders and globs take known image extensions. Weights are downloaded on first use.
    A folder (-o FOLDER/: files of Parquet or of JSON lines) and a .parquet are written in parts:
    whatever ends a run, --resume goes on. --runner ray writes a folder.
    """
    check_inputs(run)
    check_runner(ray, run.inputs, output_)
    if resume and overwrite:
        raise UsageError("--overwrite starts afresh: it excludes --resume.")
    keywords = None
    if xmp != XmpOptions():
        from resnest_cli.report.sidecars import Sidecars

        keywords = Sidecars.of(xmp, run.inputs)
    wanted = Ranking(topk, threshold, reject_below, tta, unknown)
    if ray.runner == "ray":
        if html is not None or keywords is not None:
            raise UsageError("--html and --xmp are for --runner local.")
        from resnest_cli.jobs.ray import ALL_CORES, run_command

        run = replace(run, workers=ALL_CORES if workers is None else workers)
        run_command(
            run, model, ray, wanted, output_, format_=format_, resume=resume, overwrite=overwrite
        )
        return
    if output_ is not None and (_is_folder(output_) or _is_parquet(output_, format_)):
        if html is not None or keywords is not None:
            raise UsageError(
                "--html and --xmp go with records that are printed or written as text."
            )
        run = replace(run, workers=usable_cores() if workers is None else workers)
        _write_parts(run, model, wanted, output_, format_, resume=resume, overwrite=overwrite)
        return
    if resume or overwrite:
        raise UsageError(
            "--resume and --overwrite go with -o FOLDER/ or FILE.parquet: other records are "
            "written as they come, from the beginning."
        )
    if format_ == "parquet":
        raise UsageError("--format parquet needs a file or a folder: name it with -o.")
    target = Path(output_) if output_ not in {None, "-"} else None
    for path in filter(None, (target, html)):
        check_written(path, files_read(run, model))
    run = replace(run, workers=1 if workers is None else workers)
    with locked(target, html):
        _show(run, model, wanted, target, format_, html, keywords)


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
    if format_ != "jsonl" and find_spec("pyarrow") is None:
        raise ResnestError(f'{output_} needs pyarrow. Run: pip install "resnest-cli[parquet]"')
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
) -> None:
    total, stats = explicit(run), SourceStats()
    writer = output.record_writer(
        format_ or (_FORMATS.get(target.suffix.lower(), "table") if target else "table"),
        target,
        topk=wanted.topk,
        single=total == 1,
        many=total is None or total > _FEW,
        rejecting=wanted.reject_below > 0,
        doubting=wanted.unknown is not None,
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
        found = records(run, model, wanted, decoders, stats, ready)
        if keywords is not None:
            found = keywords.written(found)
        shown = counted_ahead(run) if total is None and target is not None else total
        done, failed, _ = show_records(
            found, shown, write, writer.close, stats, target, _kept(html, keywords is not None)
        )
    if page is not None and html is not None:
        page.subtitle = page.summary()
        write_page(page, html)
    if keywords is not None:
        for line in keywords.summary():
            output.message(line)
        if keywords.failed:
            output.error(keywords.complaint())
    finish(failed, count(done, "input"))
    if keywords is not None and keywords.failed:
        raise typer.Exit(3)


def _kept(html: Path | None, keywords: bool) -> str:
    """What there is after Ctrl-C beside the records, and how to go on."""
    return (
        f"{' So are the keywords of their photos.' if keywords else ''}"
        f"{f' {html} was not written.' if html else ''} The same command begins again with the "
        "first photo; -o FOLDER/ or FILE.parquet goes on with --resume."
    )
