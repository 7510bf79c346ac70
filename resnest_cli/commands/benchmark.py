"""`resnest benchmark`: how fast a network is on this machine."""

from typing import Annotated

import typer

from resnest_cli import options, output
from resnest_cli.benchmarking.job import BenchmarkJob, Engines, Step, benchmark
from resnest_cli.errors import UsageError
from resnest_cli.model.loading import check_model_name
from resnest_cli.model.variants import DEFAULT_MODEL

EPILOG = """Examples:

  resnest benchmark --model resnest101e

  resnest benchmark --batch-size 1,8,32 --engine onnx

  resnest benchmark --photos photos/

  resnest benchmark --model best.safetensors --img-size 320 --device cuda

  resnest benchmark --format json | jq '.runs[] | [.engine, .batch_size, .photos_per_second]'"""

_LARGEST = 4096  # photos in a batch


def benchmark_command(
    model: options.Model = DEFAULT_MODEL,
    engine: Annotated[
        Engines, typer.Option(help="all that can run here; auto is the one that predict takes.")
    ] = "all",
    device: options.Device = "auto",
    batch_size: Annotated[
        list[str] | None,
        typer.Option(
            "--batch-size",
            "-b",
            metavar="N[,N...]",
            help="Photos that the network sees at once; may be given several times.  "
            "[default: 1,8,32]",
            show_default=False,
        ),
    ] = None,
    img_size: options.ImgSize = None,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=5, max=1000, help="Blocks of runs that are timed.")
    ] = 5,
    min_time: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.0, max=600.0, help="How long a block of runs lasts at least."
        ),
    ] = 0.5,
    photos: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Also time decoding, resizing and the whole, on these photos."
        ),
    ] = None,
    format_: options.TableFormat = "table",
    quiet: options.Quiet = False,  # noqa: ARG001 (its callback acts)
    debug: options.Debug = False,  # noqa: ARG001 (its callback acts)
) -> None:
    """Say how fast a network is on this machine, and where its time goes.

    For each engine and batch: time, photos a second, and the share of what a matrix product reaches
    here. Weights that are not on this machine are not fetched: random ones take as long.
    """
    check_model_name(model)
    job = BenchmarkJob(
        model, engine, device, _sizes(batch_size or ["1,8,32"]), img_size, repeats, min_time, photos
    )
    line = output.StatusLine()

    def progress(step: Step) -> None:
        line.show(lambda: output.Line(step.title, step.done, step.total))

    try:
        found = benchmark(job, output.message, progress)
    finally:
        line.clear()
    if format_ == "json":
        output.emit(output.to_json(found, indent=2) + "\n")
    else:
        from resnest_cli.output.benchmark import show_benchmark

        show_benchmark(found)


def _sizes(given: list[str]) -> tuple[int, ...]:
    """`["1,8", "32"]` -> (1, 8, 32), in order and once each."""
    words = [word.strip() for text in given for word in text.split(",")]
    for word in words:
        if not word.isdecimal() or not 1 <= int(word) <= _LARGEST:
            raise UsageError(
                f"--batch-size {word!r}: give numbers from 1 to {_LARGEST}, such as 1,8,32."
            )
    return tuple(sorted(set(map(int, words))))
