"""`resnest benchmark`: how fast a network is on this machine."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from resnest_cli import benchmark as benchmarking
from resnest_cli import output
from resnest_cli.benchmark import BenchmarkJob
from resnest_cli.commands.flags import command
from resnest_cli.commands.inputs import show_summary
from resnest_cli.errors import UsageError
from resnest_cli.model.names import understand
from resnest_cli.options import MOST_PHOTOS, TableFormat
from resnest_cli.output.results import show_benchmark

PAGE = "speed"
EXAMPLES = """
resnest benchmark --model resnest101e
resnest benchmark --batch-size 1,8,32 --engine onnx
resnest benchmark --photos photos/
resnest benchmark --model best.safetensors --img-size 320 --device cuda
resnest benchmark --format json | jq '.runs[].photos_per_second'
"""


@command
def benchmark(*, job: BenchmarkJob, format_: TableFormat = "table") -> None:
    """Say how fast a network is on this machine, and where its time goes.

    For each engine and batch: time, photos a second, and the share of what a matrix product reaches
    here. Weights that are not on this machine are not fetched: random ones take as long.
    """
    understand(job.model)
    job = replace(job, batch_size=_sizes(job.batch_size or ("1,8,32",)))
    with output.Bar(unit="steps", logged=True) as progress:
        found = benchmarking.benchmark(job, output.message, progress)
    show_summary(found, format_, show_benchmark)


def _sizes(given: Sequence[Any]) -> tuple[int, ...]:
    """`("1,8", "32")` -> (1, 8, 32), in order and once each."""
    words = [word.strip() for text in given for word in text.split(",")]
    for word in words:
        if not word.isdecimal() or not 1 <= int(word) <= MOST_PHOTOS:
            raise UsageError(
                f"--batch-size {word or 'nothing'}: give numbers from 1 to {MOST_PHOTOS}, such as "
                "1,8,32."
            )
    return tuple(sorted(set(map(int, words))))
