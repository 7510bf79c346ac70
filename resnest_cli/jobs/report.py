"""How far a run has come while it goes on, how it ended, and its failures by kind."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from resnest_cli import output
from resnest_cli.errors import ErrorKind
from resnest_cli.inference.extraction import BEYOND_FLOAT16
from resnest_cli.inference.ranking import NOT_FINITE

if TYPE_CHECKING:
    from resnest_cli.jobs.listing import Counting


class Progress:
    """A bar on a terminal, and messages; where no total is known, it grows as inputs are counted.

    A context manager.
    """

    def __init__(self) -> None:
        self._bar = output.RecordProgress(None, beside_records=False)
        self._counting: Counting | None = None
        self._total: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()
        self._stop()

    def begin(
        self,
        done: int,
        failed: int,
        total: int | None,
        counting: "Callable[[], Counting] | None" = None,
    ) -> None:
        """A run begins, or goes on after so many inputs; `counting` finds what total there is."""
        self._stop()
        self._total = total
        if self._bar.wanted and total is None and counting is not None:
            self._counting = counting()
        self._bar.begin(done)
        if done:
            self.message(f"Going on after {done:,} inputs, {failed:,} of them failed.")

    def update(self, done: int, failed: int) -> None:
        """So many inputs are done, so many of them failed."""
        total = self._counting.total if self._counting else self._total
        self._bar.update(done, failed, total)

    def message(self, text: str) -> None:
        """Something that a user should know."""
        output.message(text)

    def _stop(self) -> None:
        if self._counting is not None:
            self._counting.stop()
            self._counting = None


@dataclass(slots=True)
class Report:
    """How a run ended: `info` is `feats.json`, or `_summary.json` of a folder.

    The rest says what this start had to do with it.
    """

    info: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)  # by kind; of those that were read now
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    photos: int = 0
    elapsed: float = 0.0
    skipped: int = 0  # files that are no images
    finished_before: bool = False  # there was nothing to do
    damaged: int = 0  # inputs that were computed again, since their parts were damaged

    def add(self, step: str, seconds: float) -> None:
        """A step took so long once more."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is done inside is writing, and part of the whole time."""
        start = monotonic()
        yield
        self.add("write", monotonic() - start)
        self.elapsed += monotonic() - start

    def text(self, times: str, why: str, made: str) -> str:
        """The report for people: `times` of the steps, `why` names where errors stand."""
        counts = self.info["counts"]
        lines = ["All was finished already."]
        if times:
            speed = self.photos / max(self.elapsed, 1e-9)
            lines = [f"{self.photos:,} photos, {speed:.1f} photos/s; {times}."]
        if self.damaged:
            lines.append(f"{self.damaged:,} inputs were computed again: their parts were damaged.")
        if self.skipped:
            lines.append(
                f"{self.skipped:,} other file(s) without a known image extension were skipped."
            )
        if counts["failed"]:
            kinds = f" ({summary(self.failures)})" if self.failures else ""
            lines.append(
                f"{counts['failed']:,} of {counts['inputs']:,} input(s) could not be read{kinds}: "
                f"{why} why."
            )
        return "\n".join([*lines, made])


# What the network gives, not a photo: no ImageError was raised.
_OF_ROWS: dict[str, ErrorKind] = {
    NOT_FINITE: "no finite numbers",
    BEYOND_FLOAT16: "beyond float16",
}


def add_failure(failures: dict[str, int], error: str, kind: ErrorKind | None) -> None:
    """Counts one more by its kind, where that is known."""
    name = kind or _OF_ROWS.get(error, "other")
    failures[name] = failures.get(name, 0) + 1


def failures_of(errors: Iterable[tuple[str | None, ErrorKind | None]]) -> dict[str, int]:
    """Failures by kind, of inputs with their error, if any, and its kind."""
    failures: dict[str, int] = {}
    for error, kind in errors:
        if error is not None:
            add_failure(failures, error, kind)
    return failures


def summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Failures by kind of several parts."""
    total: dict[str, int] = {}
    for failures in counts:
        for kind, count in failures.items():
            total[kind] = total.get(kind, 0) + count
    return total


def summary(failures: dict[str, int]) -> str:
    """The kinds and their numbers, most frequent first: 3 damaged, 1 missing."""
    ranked = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {kind}" for kind, count in ranked)
