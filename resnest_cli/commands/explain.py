"""`resnest explain`: photos -> where the network looked, and which splits it preferred."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from resnest_cli import options, output
from resnest_cli.commands import predict_job
from resnest_cli.commands.inputs import check_inputs, check_written, picked, write_page
from resnest_cli.commands.targets import target
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.explanation.job import MOST_CLASSES, ExplainJob, Results, Target, explain
from resnest_cli.images.limits import MAX_PIXELS
from resnest_cli.images.sources import is_one
from resnest_cli.inference.run_options import ModelOptions, RunOptions
from resnest_cli.locks import locked
from resnest_cli.model.variants import DEFAULT_MODEL
from resnest_cli.output.explanations import ExplanationWriter

if TYPE_CHECKING:
    from resnest_cli.explanation.page import ExplanationPage

EPILOG = """Examples:

  resnest explain photo.jpg --model resnest50d -o heat.png

  resnest explain photo.jpg --class "tabby" --class n02123159 -o heat.png

  resnest explain photo.jpg --attention attention.png

  resnest explain photos/ -o heat/ --html page.html

  resnest explain photo.jpg --model best.safetensors --format json"""

_FEW = 10  # photos that could not be read, named at the end


def explain_command(
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PHOTO...]", help="Files, folders, quoted globs, URLs; - for stdin."
        ),
    ] = None,
    model: options.Model = DEFAULT_MODEL,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="A class by name, id or index; may be given again. Else the most probable ones.",
        ),
    ] = None,
    topk: Annotated[
        int,
        typer.Option(
            "--topk",
            "-k",
            metavar="N",
            min=1,
            max=MOST_CLASSES,
            help="How many classes, where none is named.",
        ),
    ] = 3,
    output_: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PICTURE|DIR",
            help="Draw where the network looked: .png or .jpg, a folder for several photos.",
        ),
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(
            "--attention",
            metavar="PICTURE|DIR",
            help="Draw which splits the channels of every block preferred.",
        ),
    ] = None,
    html: options.Html = None,
    format_: options.TableFormat = "table",
    stage: Annotated[
        int | None,
        typer.Option(
            metavar="1-4",
            min=1,
            max=4,
            show_default=False,
            help="The map to look at: 4, or 3 where photos are small (96 pixels or less).",
        ),
    ] = None,
    weights: options.Weights = None,
    labels: options.Labels = None,
    from_file: options.FromFile = None,
    null_separated: options.NullSeparated = False,
    recursive: options.Recursive = True,
    device: options.Device = "auto",
    img_size: options.ImgSize = None,
    crop_pct: options.CropPct = None,
    interpolation: options.Interpolation = None,
    crop_mode: options.CropMode = None,
    exif: options.Exif = True,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    isolate: options.Isolate = False,
    mirror: options.Mirror = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show where in photos the network looked for a class (Grad-CAM).

    Probabilities are those of `predict`. The place is where the map is at least half its maximum,
    in shares of the upright photo's width (x) and height (y). --attention draws the split-attention
    weights. Always runs in torch.
    """
    given = locals()
    inputs = photos or []
    check_inputs(inputs, from_file)
    one = len(inputs) == 1 and from_file is None and is_one(inputs[0])
    read = (*inputs, from_file, model, weights, labels)
    if class_ and len(class_) > MOST_CLASSES:
        raise UsageError(f"--class: {len(class_)} classes; a picture has room for {MOST_CLASSES}.")
    if output_ is not None and output_ == attention and output_.suffix:
        raise UsageError(f"{output_}: -o and --attention cannot write the same file.")
    job = ExplainJob(
        options=picked(
            RunOptions, given, inputs=tuple(inputs), batch_size=1, workers=0,
            time_limit=predict_job.DECODING_LIMIT,
        ),
        model=picked(ModelOptions, given, engine="torch"),
        classes=tuple(class_ or ()),
        topk=topk,
        stage=stage,
        heat=target(output_, "-o", read, one=one),
        attention=target(attention, "--attention", read, one=one),
        tiles=html is not None,
    )  # fmt: skip
    if html is not None:
        check_written(html, read)
    stdin = predict_job.replayed_stdin() if predict_job.reads_stdin(job.options) else None
    explicit = from_file is None and all(map(is_one, inputs))
    pictures = [one.path for one in (job.heat, job.attention) if one and not one.folder]
    with locked(*pictures, html):
        _show(job, explain(job, predict_job.classifier, stdin), html, format_,
              single=one, total=len(inputs) if explicit else None)  # fmt: skip


def _show(
    job: ExplainJob, found: Results, html: Path | None, format_: Literal["table", "json"], *,
    single: bool, total: int | None,
) -> None:  # fmt: skip
    writer = ExplanationWriter(format_, single=single)
    page = _page(job) if html is not None else None
    done, failed = 0, list[str]()
    with output.RecordProgress(total) as progress:
        while True:
            try:
                one = next(found)
            except StopIteration as end:
                skipped = int(end.value)
                break
            writer.write(one)
            if page is not None:
                page.add(one)
            done += 1
            if one.record.error is not None:
                failed.append(f"  {one.record.input}: {one.record.error}")
            progress.update(done, len(failed))
    if skipped:
        output.message(f"{skipped} other file(s) without a known image extension were skipped.")
    if not done:
        raise ResnestError("no photo found in what was named.")
    writer.close()
    if html is not None and page is not None:
        write_page(page.finished(done, len(failed)), html)
    _tell(job, done, failed)
    if failed:
        raise typer.Exit(3)


def _page(job: ExplainJob) -> "ExplanationPage":
    from resnest_cli.explanation.page import ExplanationPage

    return ExplanationPage(job.model.model)


def _tell(job: ExplainJob, done: int, failed: list[str]) -> None:
    """What was written, and what could not be read, on stderr."""
    if done > len(failed):
        for made, what in ((job.heat, "Where it looked"), (job.attention, "Split attention")):
            if made is not None:
                output.message(f"{what}: {_place(made)}.")
        if job.heat is None and job.attention is None and not job.tiles:
            output.message("Nothing was drawn: -o heat.png does it, or --attention, or --html.")
    if failed:
        more = f"\n  and {len(failed) - _FEW} more" if len(failed) > _FEW else ""
        listed = "\n".join(map(output.printable_name, failed[:_FEW]))
        output.message(f"{len(failed)} of {done} input(s) could not be read:\n{listed}{more}")


def _place(made: Target) -> str:
    return f"in {made.path}" if made.folder else str(made.path)
