"""How fast a network is on this machine, and where its time goes.

measure.py     engines and photos, timed in turn; the figures
timing.py      cases in turn, shares of the stages, the machine's own rate
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resnest_cli.options import DEFAULT_MODEL, Device, ImgSize, ModelName, setting
from resnest_cli.progress import Notify, Progress, silent
from resnest_cli.signals import PatientStop

Engines = Literal["all", "auto", "onnx", "torch"]


@dataclass(frozen=True, slots=True)
class BenchmarkJob:
    """What is timed; `min_time` is in seconds."""

    model: ModelName = DEFAULT_MODEL
    engine: Engines = setting("all", "all that can run here; auto is the one that predict takes.")
    device: Device = "auto"
    batch_size: tuple[int, ...] = setting(
        (),
        "Photos that the network sees at once; may be given several times.  [default: 1,8,32]",
        "-b N[,N...]",
    )
    img_size: ImgSize = None
    repeats: int = setting(5, "Blocks of runs that are timed.", "[5, 1000]")
    min_time: float = setting(0.5, "How long a block of runs lasts at least.", "SECONDS [0, 600]")
    photos: str | None = setting(
        None, "Also time decoding, resizing and the whole, on these photos.", "DIR"
    )


def benchmark(job: BenchmarkJob, notify: Notify, progress: Progress = silent) -> dict[str, Any]:
    """The figures, JSON-ready; `notify` gets what the user should know.

    Everything runs in turn in one thread. The main one waits, so that Ctrl-C ends at once what a
    library would not let go of for seconds.

    Raises:
        UsageError: an unknown model or device, or an engine that does not run on it.
        ResnestError: the network cannot be run, or no photo can be read.
    """
    temporary = tempfile.TemporaryDirectory(prefix="resnest-", ignore_cleanup_errors=True)
    with PatientStop(), temporary as folder:  # gone after a signal, too
        progress(0, 1, title="getting ready")
        from resnest_cli.benchmark.measure import measure

        thread, steps = ThreadPoolExecutor(1), measure(job, Path(folder), notify)
        done = 0
        while True:
            try:
                total, title = thread.submit(next, steps).result()
            except StopIteration as end:
                return dict(end.value)
            progress(done, total, title=title)
            done += 1
