"""`resnest benchmark`: how fast a network is on this machine."""

from typing import Annotated

from resnest_cli import output
from resnest_cli.benchmark.benchmark import BenchmarkJob, Engines
from resnest_cli.benchmark.benchmark import benchmark as timed
from resnest_cli.commands.flags import command
from resnest_cli.commands.inputs import show_summary
from resnest_cli.errors import UsageError
from resnest_cli.model.names import understand
from resnest_cli.options import (
    DEFAULT_MODEL,
    MOST_PHOTOS,
    Device,
    ImgSize,
    ModelName,
    Option,
    TableFormat,
)

EXAMPLES = """
resnest benchmark --model resnest101e
resnest benchmark --batch-size 1,8,32 --engine onnx
resnest benchmark --photos photos/
resnest benchmark --model best.safetensors --img-size 320 --device cuda
resnest benchmark --format json | jq '.runs[] | [.engine, .batch_size, .photos_per_second]'
"""


@command
def benchmark(
    *,
    model: ModelName = DEFAULT_MODEL,
    engine: Annotated[
        Engines, Option("all that can run here; auto is the one that predict takes.")
    ] = "all",
    device: Device = "auto",
    batch_size: Annotated[
        list[str] | None,
        Option(
            "Photos that the network sees at once; may be given several times.  [default: 1,8,32]",
            "-b N[,N...]",
        ),
    ] = None,
    img_size: ImgSize = None,
    repeats: Annotated[int, Option("Blocks of runs that are timed.", "[5, 1000]")] = 5,
    min_time: Annotated[
        float, Option("How long a block of runs lasts at least.", "SECONDS [0, 600]")
    ] = 0.5,
    photos: Annotated[
        str | None, Option("Also time decoding, resizing and the whole, on these photos.", "DIR")
    ] = None,
    format_: TableFormat = "table",
) -> None:
    """Say how fast a network is on this machine, and where its time goes.

    For each engine and batch: time, photos a second, and the share of what a matrix product reaches
    here. Weights that are not on this machine are not fetched: random ones take as long.
    """
    understand(model)
    sizes = _sizes(batch_size or ["1,8,32"])
    job = BenchmarkJob(model, engine, device, sizes, img_size, repeats, min_time, photos)
    with output.Bar(unit="steps", logged=True) as progress:
        found = timed(job, output.message, progress)
    from resnest_cli.output.results import show_benchmark

    show_summary(found, format_, show_benchmark)


def _sizes(given: list[str]) -> tuple[int, ...]:
    """`["1,8", "32"]` -> (1, 8, 32), in order and once each."""
    words = [word.strip() for text in given for word in text.split(",")]
    for word in words:
        if not word.isdecimal() or not 1 <= int(word) <= MOST_PHOTOS:
            raise UsageError(
                f"--batch-size {word!r}: give numbers from 1 to {MOST_PHOTOS}, such as 1,8,32."
            )
    return tuple(sorted(set(map(int, words))))
