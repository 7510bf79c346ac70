"""`resnest explain`: photos -> where the network looked, and which splits it preferred."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from resnest_cli import output
from resnest_cli.commands import inputs
from resnest_cli.commands.flags import Without, command
from resnest_cli.errors import UsageError
from resnest_cli.explanation import Explained, ExplainJob
from resnest_cli.explanation import explain as explaining
from resnest_cli.files import locked
from resnest_cli.images.sources import SourceStats
from resnest_cli.jobs.predict import classifier
from resnest_cli.options import Html, ModelOptions, Option, RunOptions, TableFormat
from resnest_cli.output.records import explanation_writer
from resnest_cli.text import count, joined, short_name

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier

FIRST = "model class_ topk output_ attention html format_ stage quiet"
EXAMPLES = """
resnest explain photo.jpg --model resnest50d -o heat.png
resnest explain photo.jpg --class "tabby" --class n02123159 -o heat.png
resnest explain photo.jpg --attention attention.png
resnest explain photos/ -o heat/ --html page.html
resnest explain photo.jpg --model best.safetensors --format json
"""

_MOST_CLASSES = 12  # in one picture
_MOST_ON_PAGE = 1000  # photos: each brings some 10 kB a class
_LEGEND = (
    "The lighter and the more yellow a place, the more it speaks for the class (Grad-CAM, each map "
    "on its own scale); the white line goes where it is half the most, the orange frame around "
    "what the network saw."
)


@command
def explain(
    *,
    run: Annotated[RunOptions, Without("frames every batch_size workers")],
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
        int, Option("How many classes, where none is named.", f"-k [1, {_MOST_CLASSES}]")
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
    inputs.check_inputs(run)
    if class_ and len(class_) > _MOST_CLASSES:
        raise UsageError(f"--class: {len(class_)} classes; a picture has room for {_MOST_CLASSES}.")
    if output_ is not None and output_ == attention and output_.suffix:
        raise UsageError(f"{output_}: -o and --attention cannot write the same file.")
    read, one = inputs.files_read(run, model), inputs.explicit(run) == 1
    job = ExplainJob(
        options=replace(run, batch_size=1, workers=0),
        model=replace(model, engine="torch"),
        classes=tuple(class_ or ()),
        topk=topk,
        stage=stage,
        heat=explaining.target(output_, "-o", read, one=one),
        attention=explaining.target(attention, "--attention", read, one=one),
        tiles=html is not None,
    )
    if html is not None:
        inputs.check_written(html, read)
    pictures = [made.path for made in (job.heat, job.attention) if made and not made.folder]
    with locked(*pictures, html):
        _show(job, html, format_)


def _show(job: ExplainJob, html: Path | None, format_: TableFormat) -> None:
    total = inputs.explicit(job.options)
    writer = explanation_writer(format_, single=total == 1)
    page = None
    if html is not None:
        from resnest_cli.report.pages import Page, model_line
        from resnest_cli.report.thumbnails import jpeg_uri

        page = Page(
            f"Where {short_name(job.model.model)} looked", "", most=_MOST_ON_PAGE, wide=True
        )

    def write(one: Explained) -> None:
        writer.write(one)
        if page is not None:
            page.add(one.record, tiles=list(map(jpeg_uri, one.tiles)))

    def make(options: ModelOptions) -> "Classifier":
        made = classifier(options)
        if page is not None:
            page.model = model_line(made)
        return made

    stats = SourceStats()
    found = explaining.explain(job, make, stats)
    kept = _kept(job, html)
    done, failed, lines = inputs.show_records(found, total, write, writer.close, stats, kept=kept)
    if html is not None and page is not None:
        page.subtitle = f"{page.summary()} {_LEGEND}"
        inputs.write_page(page, html)
    if done > failed:
        for made, what in ((job.heat, "Where it looked"), (job.attention, "Split attention")):
            if made is not None:
                output.message(f"{what}: {'in ' if made.folder else ''}{made.path}.")
        if job.heat is None and job.attention is None and not job.tiles:
            output.message("Nothing was drawn: -o heat.png does it, or --attention, or --html.")
    inputs.finish(failed, count(done, "input"), lines)


def _kept(job: ExplainJob, html: Path | None) -> str:
    """What there is after Ctrl-C beside the records."""
    drawn = [str(made.path) for made in (job.heat, job.attention) if made is not None]
    pictures = f" So are their pictures, in {joined(dict.fromkeys(drawn))}." if drawn else ""
    page = f" {html} was not written." if html else ""
    return f"{pictures}{page} The same command begins again with the first photo."
