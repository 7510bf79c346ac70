"""What `resnest features` does, apart from its command line; free of Typer."""

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from resnest_cli import output
from resnest_cli.commands.predict_job import (
    DECODING_LIMIT,
    classifier,
    reads_stdin,
    replayed_stdin,
)
from resnest_cli.features.counting import Counting
from resnest_cli.features.failures import summary
from resnest_cli.features.job import FeaturesJob, Todo
from resnest_cli.features.session import Report, Results
from resnest_cli.options import AUTO
from resnest_cli.signals import leave_to_parent
from resnest_cli.supervise import Replay, Start, supervised

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Self

_stdin: "list[Replay | None]" = []  # made once: it is read again by every working process


def start(job: FeaturesJob, todo: Todo) -> Results:
    """Starts the working process; what it sends."""
    if reads_stdin(job.options) and not _stdin:
        _stdin.append(replayed_stdin())
    return supervised(partial(_work, job, todo), time_limit=DECODING_LIMIT)


def _work(job: FeaturesJob, todo: Todo, begin: Start) -> Results:
    """In the working process."""
    if begin.journal is not None:  # a signal to all our processes is for the caller to answer
        leave_to_parent()
    from resnest_cli.features.extract import extract

    output.set_quiet(job.quiet)
    found = classifier(job.model, ready_for=job.extraction.output)
    return (yield from extract(found, job, todo, begin, _stdin[0] if _stdin else None))


def find_batch_size(job: FeaturesJob) -> int:
    """What `--batch-size auto` comes to; in a process of its own, which the run outlives."""
    (found,) = supervised(partial(_find_batch_size, job), time_limit=DECODING_LIMIT)
    return found


def _find_batch_size(job: FeaturesJob, _begin: Start) -> "Generator[int, None, None]":
    from resnest_cli.inference.run import batch_size_for

    output.set_quiet(job.quiet)
    wanted = job.extraction.output
    yield batch_size_for(classifier(job.model, ready_for=wanted), wanted, AUTO)


class FeaturesProgress:
    """A bar on a terminal, with a total that grows until all inputs are counted."""

    def __init__(self) -> None:
        self._bar = output.RecordProgress(None, beside_records=False)
        self._counting: Counting | None = None
        self._total: int | None = None

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()
        self._stop()

    def begin(self, job: FeaturesJob, done: int, failed: int, total: int | None) -> None:
        """A run over the inputs of `job` begins, or goes on after so many of them."""
        self._stop()
        self._total = total
        if self._bar.wanted and total is None:
            self._counting = Counting(job).__enter__()
        self._bar.begin(done)
        if done:
            output.message(f"Going on after {done:,} inputs, {failed:,} of them failed.")

    def update(self, done: int, failed: int) -> None:
        """So many inputs are done, so many of them failed."""
        total = self._counting.total if self._counting else self._total
        self._bar.update(done, failed, total)

    def _stop(self) -> None:
        if self._counting is not None:
            self._counting.__exit__()
            self._counting = None


def told(job: FeaturesJob, report: Report) -> str:
    """The summary of a run, for people."""
    counts, extraction = report.info["counts"], report.info["extraction"]
    shape = (counts["rows"], *extraction["row_shape"])
    lines = []
    if report.photos:
        speed = report.photos / max(report.elapsed, 1e-9)
        times = ", ".join(
            f"{step} {report.seconds.get(step, 0.0):.1f} s"
            for step in ("read", "decode", "network", "write")
        )
        lines.append(f"{report.photos:,} photos, {speed:.1f} photos/s; {times}.")
    else:
        lines.append("All was finished already.")
    if report.damaged:
        lines.append(f"{report.damaged:,} inputs were computed again: their parts were damaged.")
    if report.skipped:
        lines.append(
            f"{report.skipped:,} other file(s) without a known image extension were skipped."
        )
    if counts["failed"]:
        kinds = f" ({summary(report.failures)})" if report.failures else ""
        lines.append(
            f"{counts['failed']:,} of {counts['inputs']:,} input(s) could not be read{kinds}: "
            f"{job.target.with_suffix('.csv')} says why."
        )
    lines.append(f"{job.target}: {extraction['dtype']} {shape}")
    return "\n".join(lines)


def close() -> None:
    """Lets go of what was read of stdin."""
    while _stdin:
        stream = _stdin.pop()
        if stream is not None:
            with suppress(OSError):
                stream.close()
