"""`resnest explain`: photos -> where the network looked, and which splits it preferred."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from resnest_cli import output
from resnest_cli.commands.flags import Without, command
from resnest_cli.commands.inputs import (
    check_inputs,
    check_written,
    explicit,
    files_read,
    finish,
    show_records,
    write_page,
)
from resnest_cli.errors import UsageError
from resnest_cli.explanation.explain import (
    LEGEND,
    MOST_CLASSES,
    Explained,
    ExplainJob,
    add_to,
    explain,
    explanation_page,
)
from resnest_cli.explanation.picture_paths import target
from resnest_cli.files import locked
from resnest_cli.jobs.predict import classifier
from resnest_cli.options import Html, ModelOptions, Option, RunOptions, TableFormat
from resnest_cli.output.records import explanation_writer

EPILOG = """Examples:

  resnest explain photo.jpg --model resnest50d -o heat.png

  resnest explain photo.jpg --class "tabby" --class n02123159 -o heat.png

  resnest explain photo.jpg --attention attention.png

  resnest explain photos/ -o heat/ --html page.html

  resnest explain photo.jpg --model best.safetensors --format json"""


@command
def explain_command(
    *,
    run: Annotated[RunOptions, Without("batch_size workers")],
    model: Annotated[
        ModelOptions, Without("engine amp compiled graphs fast_decode gpu_decode trust_onnx")
    ],
    class_: Annotated[
        list[str] | None,
        Option(
            "A class by name, id or index; may be given again. Else the most probable ones.", "NAME"
        ),
    ] = None,
    topk: Annotated[
        int, Option("How many classes, where none is named.", f"-k [1, {MOST_CLASSES}]")
    ] = 3,
    output_: Annotated[
        Path | None,
        Option(
            "Draw where the network looked: .png or .jpg, a folder for several photos.",
            "-o PICTURE|DIR",
        ),
    ] = None,
    attention: Annotated[
        Path | None,
        Option("Draw which splits the channels of every block preferred.", "PICTURE|DIR"),
    ] = None,
    html: Html = None,
    format_: TableFormat = "table",
    stage: Annotated[
        int | None,
        Option(
            "The map to look at: 4, or 3 where photos are small (96 pixels or less).", "1-4 [1, 4]"
        ),
    ] = None,
) -> None:
    """Show where in photos the network looked for a class (Grad-CAM).

    Probabilities are those of `predict`. The place is where the map is at least half its maximum,
    in shares of the upright photo's width (x) and height (y). --attention draws the split-attention
    weights. Always runs in torch.
    """
    check_inputs(run)
    if class_ and len(class_) > MOST_CLASSES:
        raise UsageError(f"--class: {len(class_)} classes; a picture has room for {MOST_CLASSES}.")
    if output_ is not None and output_ == attention and output_.suffix:
        raise UsageError(f"{output_}: -o and --attention cannot write the same file.")
    read, one = files_read(run, model), explicit(run) == 1
    job = ExplainJob(
        options=replace(run, batch_size=1, workers=0),
        model=replace(model, engine="torch"),
        classes=tuple(class_ or ()),
        topk=topk,
        stage=stage,
        heat=target(output_, "-o", read, one=one),
        attention=target(attention, "--attention", read, one=one),
        tiles=html is not None,
    )
    if html is not None:
        check_written(html, read)
    pictures = [made.path for made in (job.heat, job.attention) if made and not made.folder]
    with locked(*pictures, html):
        _show(job, html, format_)


def _show(job: ExplainJob, html: Path | None, format_: TableFormat) -> None:
    total = explicit(job.options)
    writer = explanation_writer(format_, single=total == 1)
    page = explanation_page(job.model.model) if html is not None else None

    def write(one: Explained) -> None:
        writer.write(one)
        if page is not None:
            add_to(page, one)

    found = explain(job, classifier)
    done, failed, lines = show_records(found, total, write, writer.close)
    if html is not None and page is not None:
        page.subtitle = f"{done:,} photo(s), {failed:,} of them unreadable. {LEGEND}"
        write_page(page, html)
    if done > failed:
        for made, what in ((job.heat, "Where it looked"), (job.attention, "Split attention")):
            if made is not None:
                output.message(f"{what}: {'in ' if made.folder else ''}{made.path}.")
        if job.heat is None and job.attention is None and not job.tiles:
            output.message("Nothing was drawn: -o heat.png does it, or --attention, or --html.")
    finish(failed, done, "input(s)", lines)
