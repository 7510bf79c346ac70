"""Options that several commands share, each defined once."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from resnest_cli import output
from resnest_cli.inference.run_options import AUTO, Amp
from resnest_cli.model.weights import Access

_MOST_PHOTOS = 4096  # in a batch


def _quiet(value: bool) -> bool:
    output.set_quiet(value)
    return value


def _debug(value: bool) -> bool:
    output.set_debug(value)
    return value


def _batch_size(text: object) -> int:
    """A number from 1 to 4096, or `auto`."""
    if str(text) == "auto":
        return AUTO
    if not (str(text).isdecimal() and 1 <= int(str(text)) <= _MOST_PHOTOS):
        raise typer.BadParameter(f"{text} is neither a number from 1 to {_MOST_PHOTOS} nor auto.")
    return int(str(text))


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        envvar="RESNEST_MODEL",
        help="A variant (see `resnest models`), a name or address of Hugging Face's hub, a folder "
        "with a config.json, or a checkpoint file.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|URL|NAME",
        help="Other weights for the named variant. A path never connects.",
    ),
]
TrustOnnx = Annotated[
    bool,
    typer.Option(
        "--trust-onnx", help="Run an .onnx unlike those of `resnest export`, if you trust it."
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Class names, one a line, instead of the model's own."),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:1|mps",
        envvar="RESNEST_DEVICE",
        help="Where the network runs; auto takes an accelerator where there is one.",
    ),
]
Engine = Annotated[
    Literal["auto", "torch", "onnx"],
    typer.Option(
        envvar="RESNEST_ENGINE",
        help="What runs the network; auto is onnx on a CPU, torch on an accelerator.",
    ),
]
HalfPrecision = Annotated[
    Amp,
    typer.Option(
        "--amp", help="Convolutions in half precision (torch engine); float32 unless said."
    ),
]
Compiled = Annotated[
    bool,
    typer.Option(
        "--compile", help="Run the network through torch.compile, for long runs (torch engine)."
    ),
]
CudaGraphs = Annotated[
    bool,
    typer.Option(
        "--cuda-graphs", help="Record the network as one CUDA graph (torch engine, NVIDIA GPU)."
    ),
]
GpuDecode = Annotated[
    bool,
    typer.Option(
        "--gpu-decode", help="Decode JPEGs on the NVIDIA GPU: answers change a bit (torch engine)."
    ),
]
Mirror = Annotated[
    str | None,
    typer.Option(
        metavar="URL|FOLDER",
        envvar="RESNEST_MIRROR",
        help="Where weights are looked for before the published hosts and the hub.",
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", envvar="RESNEST_OFFLINE", help="Never connect to anything.")
]
Topk = Annotated[
    int,
    typer.Option("--topk", "-k", metavar="N", min=1, help="How many classes for each photo."),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write records there, not on stdout (-). With --runner ray a folder, required.",
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        "-b",
        metavar="N",
        min=1,
        max=4096,
        envvar="RESNEST_BATCH_SIZE",
        help="Photos that the network sees at once.",
    ),
]
Workers = Annotated[
    int,
    typer.Option("--workers", "-j", metavar="N", min=0, max=256, help="Threads that decode ahead."),
]
ChosenBatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        "-b",
        metavar="N|auto",
        parser=_batch_size,
        envvar="RESNEST_BATCH_SIZE",
        help="Photos that the network sees at once; auto tries out which is best here.",
    ),
]
KeptBatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        metavar="N|auto",
        parser=_batch_size,
        envvar="RESNEST_BATCH_SIZE",
        help="Photos that the network sees at once: 8, or what an interrupted run had; auto tries "
        "out which is best here.",
        show_default=False,
    ),
]
AutoWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-j",
        metavar="N",
        min=0,
        max=256,
        help="Threads that decode ahead: as many as there are cores.",
        show_default=False,
    ),
]
FromFile = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="A file of further inputs, one a line; - for stdin."),
]
NullSeparated = Annotated[
    bool, typer.Option("--null", "-0", help="The list is NUL-separated (find -print0).")
]
Recursive = Annotated[
    bool, typer.Option("--recursive/--no-recursive", help="Read the folders inside folders.")
]
Exif = Annotated[
    bool,
    typer.Option(
        "--exif/--no-exif",
        help="Turn photos upright; published accuracies were measured without.",
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        envvar="RESNEST_MAX_PIXELS",
        help="Refuse photos of more pixels; one takes up to 12 bytes of memory for each.",
    ),
]
FastDecode = Annotated[
    bool,
    typer.Option(
        "--fast-decode", help="Decode large JPEGs at reduced scale: quicker, answers change a bit."
    ),
]
ImgSize = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=8192, help="Side of the network's input in pixels."),
]
CropPct = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", min=0.01, max=1.0, help="Share of the resized shorter side that is kept."
    ),
]
Interpolation = Annotated[
    Literal["bilinear", "bicubic"] | None, typer.Option(help="How photos are resized.")
]
CropMode = Annotated[
    Literal["center", "border", "squash"] | None,
    typer.Option(
        help="center (the usual one) cuts the edges off, border pads, squash ignores the aspect "
        "ratio."
    ),
]
Isolate = Annotated[
    bool,
    typer.Option("--isolate", help="Decode in replaceable processes with limits; slower."),
]
Runner = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Where the work is done: in this process, or on a Ray cluster."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A running Ray cluster (auto: the one of this machine), not one that is started here.",
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        min=0.0,
        help="GPUs of each of Ray's workers; 0.5 shares one. 1 where the cluster has any.",
        show_default=False,
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="How many workers Ray runs: one on each node, or one for each GPU.",
        show_default=False,
    ),
]
PathColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of a Parquet or CSV input that has the paths (ray): path, unless said.",
        show_default=False,
    ),
]
# How labelled photos are read, where the data cannot say so; see `data.listing.Reading`.
READING = {
    "split_names": (
        "TRAIN,VAL[,TEST]",
        "Unusual names of the splits, as folders or in a column; none: all folders are classes.",
    ),
    "path_column": ("NAME", "Of a table: the column of paths, where its name is not a usual one."),
    "label_column": ("NAME", "Of a table: the column of labels, likewise."),
    "split_column": ("NAME", "Of a table: the column of train, val and test, likewise."),
    "base_folder": ("DIR", "Of a table: the folder with the photos; the table's own, unless said."),
    "extension": ("EXT", "Of a table: what paths without an extension lack, such as .jpg."),
}


def reading_option(name: str, panel: str | None = None) -> Any:
    """The option of a field of `Reading`."""
    metavar, help_ = READING[name]
    flag = "--" + name.replace("_", "-")
    return typer.Option(
        flag, metavar=metavar, help=help_, rich_help_panel=panel, show_default=False
    )


SplitNames = Annotated[str | None, reading_option("split_names")]
TablePathColumn = Annotated[str | None, reading_option("path_column")]
LabelColumn = Annotated[str | None, reading_option("label_column")]
SplitColumn = Annotated[str | None, reading_option("split_column")]
BaseFolder = Annotated[str | None, reading_option("base_folder")]
Extension = Annotated[str | None, reading_option("extension")]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Also write a page to look at in a browser."),
]
RecordFormat = Annotated[
    Literal["table", "json", "jsonl", "csv", "parquet"] | None,
    typer.Option(
        "--format",
        help="How records are written; by the extension of -o FILE, else a table. "
        "With --runner ray: parquet, or jsonl.",
    ),
]
TableFormat = Annotated[
    Literal["table", "json"], typer.Option("--format", help="How it is printed on stdout.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=_quiet, help="No messages and bars, errors only."),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        callback=_debug,
        envvar="RESNEST_DEBUG",
        help="Show the traceback of an error.",
    ),
]


def access(mirror: str | None, offline: bool) -> Access:
    """How weights may be had, with progress and messages on stderr."""
    return Access(
        mirror=mirror, offline=offline, progress=output.DownloadBar(), notify=output.message
    )
