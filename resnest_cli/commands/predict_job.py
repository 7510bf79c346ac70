"""What `resnest predict` does, apart from its command line; free of Typer.

`begin` is called before the command line is parsed: a child process imports numpy and the engine
meanwhile. `records` then tells it the job.
"""

import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from resnest_cli import output
from resnest_cli.inference.run_options import RunOptions
from resnest_cli.supervise import Early, Replay, Start, supervised

if TYPE_CHECKING:
    from collections.abc import Generator

    from resnest_cli.images.preprocess import CropMode
    from resnest_cli.inference.engine import EngineName
    from resnest_cli.inference.records import Record
    from resnest_cli.model.variants import Interpolation

DECODING_LIMIT = 60.0  # seconds after which the decoder of a photo counts as hung


@dataclass(frozen=True, slots=True)
class PredictJob:
    """What was asked for; see the options of `resnest predict`."""

    options: RunOptions
    model: str
    weights: str | None
    labels: str | None
    device: str
    engine: "EngineName"
    img_size: int | None
    crop_pct: float | None
    interpolation: "Interpolation | None"
    crop_mode: "CropMode"
    exif: bool
    tta: bool
    mirror: str | None
    offline: bool
    quiet: bool


_early: "Early[PredictJob, Record, int] | None" = None
_stdin: Replay | None = None


def begin() -> None:
    """Starts to get ready for whatever `sys.argv` will turn out to ask for."""
    global _early, _stdin  # noqa: PLW0603 - there is one command line
    if "-" in sys.argv:
        _stdin = _replayed_stdin()
    room = 2**16 + 8 * sum(map(len, sys.argv))
    _early = Early(ready, work, time_limit=DECODING_LIMIT, room=room)


def records(job: PredictJob) -> "Generator[Record, None, int]":
    """One record per input, in order; returns how many other files were passed over.

    Raises:
        ResnestError: the model or the list of inputs cannot be had.
    """
    global _early, _stdin  # noqa: PLW0603 - there is one command line
    if _early is not None:
        early, _early = _early, None
        return early.tell(job)
    _stdin = _replayed_stdin() if "-" in (*job.options.inputs, job.options.from_file) else None
    return supervised(partial(work, job), time_limit=DECODING_LIMIT)


def ready() -> None:
    """Imports what nearly every job needs."""
    import resnest_cli.inference.run

    with suppress(Exception):  # missing or broken: the choice of the engine will tell
        import resnest_cli.inference.onnx_engine  # noqa: F401


def work(job: PredictJob, start: Start) -> "Generator[Record, None, int]":
    """The records from `start.skip` on, in this process."""
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.inference.run import run
    from resnest_cli.model.weights import Access

    output.set_quiet(job.quiet)
    classifier = Classifier(
        job.model,
        weights=job.weights,
        labels=job.labels,
        device=job.device,
        engine=job.engine,
        img_size=job.img_size,
        crop_pct=job.crop_pct,
        interpolation=job.interpolation,
        crop_mode=job.crop_mode,
        exif=job.exif,
        tta=job.tta,
        access=Access(job.mirror, job.offline, output.DownloadBar(), output.message),
    )
    return (yield from run(classifier, job.options, start, _stdin))


def _replayed_stdin() -> Replay | None:
    """stdin, which a pipe gives only once, for work that may have to start again."""
    if sys.stdin is None:  # closed: reading it will say so
        return None
    try:
        return Replay()
    except OSError:
        return None
