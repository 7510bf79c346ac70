"""`predict` on this machine, and what every command gives its working process.

`begin` is called before the command line is parsed: a child process imports numpy and the engine
meanwhile. `records` then sends it the job.
"""

import sys
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

from resnest_cli import options, output
from resnest_cli.options import ModelOptions, RunOptions
from resnest_cli.supervise import Early, Replay, Start, supervised

if TYPE_CHECKING:
    from collections.abc import Generator

    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.inference.engine import Output
    from resnest_cli.inference.ranking import Record


@dataclass(frozen=True, slots=True)
class PredictJob:
    """What was asked for; see the options of `resnest predict`."""

    options: RunOptions
    model: ModelOptions
    topk: int
    threshold: float
    reject_below: float
    tta: bool
    quiet: bool


_early: "Early[PredictJob, Record, int] | None" = None
_stdin: Replay | None = None


def begin() -> None:
    """Starts to get ready for whatever `sys.argv` will turn out to ask for."""
    global _early, _stdin  # noqa: PLW0603 - there is one command line
    if "-" in sys.argv:
        _stdin = replayed_stdin()
    room = 2**16 + 8 * sum(map(len, sys.argv))
    _early = Early(ready, work, time_limit=options.DECODING_LIMIT, room=room)


def records(job: PredictJob) -> "Generator[Record, None, int]":
    """One record per input, in order; returns how many other files were passed over."""
    global _early, _stdin  # noqa: PLW0603 - there is one command line
    if _early is not None:
        early, _early = _early, None
        return early.send(job)
    _stdin = replayed_stdin() if reads_stdin(job.options) else None
    return supervised(partial(work, job), time_limit=job.options.time_limit)


def ready() -> None:
    """Imports what nearly every job needs."""
    import resnest_cli.inference.run

    with suppress(Exception):  # missing or broken: the choice of the engine raises it
        import resnest_cli.inference.onnx_engine  # noqa: F401


def work(job: PredictJob, start: Start) -> "Generator[Record, None, int]":
    """The records from `start.skip` on, in this process."""
    from resnest_cli.inference.run import run

    output.set_quiet(job.quiet)
    found = classifier(job.model, tta=job.tta)
    ranking = {name: getattr(job, name) for name in ("topk", "threshold", "reject_below")}
    return (yield from run(found, job.options, start, _stdin, **ranking))


def classifier(
    options: ModelOptions, *, tta: bool = False, ready_for: "Output" = "logits"
) -> "Classifier":
    """The classifier that was asked for, with progress and messages on stderr."""
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.net import Access

    given = {field.name: getattr(options, field.name) for field in fields(options)}
    access = Access(given.pop("mirror"), given.pop("offline"), output.DownloadBar(), output.message)
    return Classifier(given.pop("model"), **given, tta=tta, ready_for=ready_for, access=access)


def reads_stdin(options: RunOptions) -> bool:
    """Whether the list of inputs, or one of them, comes on stdin."""
    return "-" in (*options.inputs, options.from_file)


def replayed_stdin() -> Replay | None:
    """stdin, which a pipe gives only once, for work that may have to start again."""
    if sys.stdin is None:  # closed: reading it will say so
        return None
    try:
        return Replay()
    except OSError:
        return None
