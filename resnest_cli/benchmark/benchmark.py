"""What `resnest benchmark` does: a network -> how fast it is here.

Everything runs in turn in one thread. The main one waits, so that Ctrl-C ends at once what a
library would not let go of for seconds.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from resnest_cli.progress import Notify, Progress, silent
from resnest_cli.signals import PatientStop

Engines = Literal["all", "auto", "onnx", "torch"]


@dataclass(frozen=True, slots=True)
class BenchmarkJob:
    """What was asked for; see the options of `resnest benchmark`. `min_time` is in seconds."""

    model: str
    engine: Engines = "all"
    device: str = "auto"
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    img_size: int | None = None
    repeats: int = 5
    min_time: float = 0.5
    photos: str | None = None


class Step(NamedTuple):
    """So many steps of so many are done, and what comes next."""

    done: int
    total: int
    title: str


def benchmark(job: BenchmarkJob, notify: Notify, progress: Progress = silent) -> dict[str, Any]:
    """The figures, JSON-ready; `notify` gets what the user should know.

    Raises:
        UsageError: an unknown model or device, or an engine that does not run on it.
        ResnestError: the network cannot be run, or no photo can be read.
    """
    temporary = tempfile.TemporaryDirectory(prefix="resnest-", ignore_cleanup_errors=True)
    with PatientStop(), temporary as folder:  # gone after a signal, too
        progress(0, 1, title="getting ready")
        from resnest_cli.benchmark.measure import measure

        thread, steps = ThreadPoolExecutor(1), measure(job, Path(folder), notify)
        while True:
            try:
                step = thread.submit(next, steps).result()
            except StopIteration as end:
                found: dict[str, Any] = end.value
                return found
            progress(step.done, step.total, title=step.title)
