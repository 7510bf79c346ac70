"""What `resnest search` answers: a record for each query, or for each group of alike photos."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ErrorKind, UsageError
from resnest_cli.images.batches import Prepared
from resnest_cli.images.inputs import listed
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import SourceStats
from resnest_cli.options import ModelOptions, RunOptions
from resnest_cli.progress import Progress
from resnest_cli.search.features import Features
from resnest_cli.search.nearest import Metric, Neighbours
from resnest_cli.search.recorded_model import extraction_of, load
from resnest_cli.text import count

_SMALL = 2**26  # bytes of rows that may be gone through for every batch of photos
_TOGETHER = 1024  # photos that go through more rows than that in one pass
_NAMED = 3  # inputs that a message suggests


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One found photo: `rank` from 1, its `row` in the features, its name, and the score."""

    rank: int
    row: int
    input: str
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """The answer for one query: its neighbours, the nearest first, or why there are none.

    `row` is that of a query that is a row itself, which is not among its neighbours.
    """

    input: str
    model: str
    metric: Metric
    row: int | None = None
    error: str | None = None
    neighbours: tuple[Neighbour, ...] = ()
    kind: ErrorKind = "other"

    @property
    def status(self) -> Literal["ok", "error"]:
        """`ok`, or `error` where the query could not be read."""
        return "ok" if self.error is None else "error"

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON has it; the order of the keys is fixed."""
        return {
            "input": self.input,
            "row": self.row,
            "status": self.status,
            "error": self.error,
            "model": self.model,
            "metric": self.metric,
            "neighbours": [asdict(neighbour) for neighbour in self.neighbours],
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Photos that are alike, in the order of their rows; `group` counts from 1.

    The score of each is that with the first one. In a chain it may be below the threshold.
    """

    group: int
    metric: Metric
    neighbours: tuple[Neighbour, ...]
    error: None = None

    @property
    def input(self) -> str:
        """A title."""
        return f"Group {self.group}: {count(len(self.neighbours), 'photo')}"

    def as_dict(self) -> dict[str, Any]:
        """The group as JSON has it."""
        photos = [
            {"row": one.row, "input": one.input, "score": one.score} for one in self.neighbours
        ]
        return {"group": self.group, "metric": self.metric, "photos": photos}


def of_rows(features: Features, wanted: Iterable[str], k: int, metric: Metric) -> Iterator[Found]:
    """Rows of the features themselves, by number or name, as queries.

    Raises:
        UsageError: there is no such row.
    """
    for name in wanted:
        row = _row(features, name)
        if row is None:
            error = features.failed[name]
            yield Found(name, features.model, metric, error=error)
            continue
        found = features.search(features.rows[row], k, metric, without=np.array([row]))
        yield from _records(features, found, [features.names[row]], [row], metric)


def check_rows(features: Features, wanted: Iterable[str]) -> None:
    """Raises UsageError where a row is not there, before anything slow begins."""
    for name in wanted:
        _row(features, name)


def _row(features: Features, name: str) -> int | None:
    """The row of a number or a name; None of an input that has none."""
    if name.isascii() and name.isdecimal():
        if int(name) < len(features):
            return int(name)
        raise UsageError(f"--row {name}: the rows are 0 to {len(features) - 1:,}.")
    row = features.row_of(name)
    if row is None and name not in features.failed:
        ends = (other for other in features.names if other.endswith(name))
        near = " or ".join(islice(ends, _NAMED))
        raise UsageError(
            f"--row {name}: no input has this name." + (f" Did you mean {near}?" if near else "")
        )
    return row


def of_photos(
    features: Features,
    run: RunOptions,
    model: ModelOptions,
    k: int,
    metric: Metric,
    decoders: Decoders,
    stats: SourceStats,
) -> Iterator[Found]:
    """Photos as queries, in order: one record for each, whatever is wrong with it.

    They go through the rows together, many at a time where there are many rows. `model` says where
    the model is now, in an empty name that it is to be found by the record.

    Raises:
        UsageError: it is not found, or is another one.
    """
    from resnest_cli.inference.batch_size import batch_size_for

    extraction, classifier = (
        extraction_of(features.record),
        load(features.record, features.place, model),
    )
    together = 1 if features.rows.nbytes <= _SMALL else _TOGETHER
    items, rows = list[Prepared](), list[NDArray[Any]]()
    for group, found in classifier.feature_groups(
        listed(run, stats),
        extraction,
        batch_size=batch_size_for(classifier, extraction.output, run.batch_size),
        workers=run.workers,
        decoders=decoders,
    ):
        # A photo is 0.6 MB, its file may be more, and both are done with.
        items += (i._replace(photo=None, source=replace(i.source, data=None)) for i in group)
        rows.append(found.reshape(len(found), features.rows.shape[1]))
        if len(items) >= together:
            yield from _of_prepared(features, items, np.concatenate(rows), k, metric)
            items, rows = [], []
    if items:
        yield from _of_prepared(features, items, np.concatenate(rows), k, metric)


def _of_prepared(
    features: Features, items: list[Prepared], rows: NDArray[Any], k: int, metric: Metric
) -> Iterator[Found]:
    names = [item.source.name for item in items if item.error is None]
    found = _records(features, features.search(rows, k, metric), names, [None] * len(names), metric)
    for item in items:
        if item.error is None:
            yield next(found)
        else:
            yield Found(item.source.name, features.model, metric, error=item.error,
                        kind=item.kind or "other")  # fmt: skip


def of_every_row(features: Features, k: int, metric: Metric) -> Iterator[Found]:
    """The nearest of every row, in order."""
    start = 0
    for found in features.nearest(k, metric):
        rows = range(start, start + len(found.rows))
        yield from _records(features, found, [features.names[row] for row in rows], rows, metric)
        start = rows.stop


def _records(
    features: Features,
    found: Neighbours,
    names: Iterable[str],
    rows: Iterable[int | None],
    metric: Metric,
) -> Iterator[Found]:
    lines = zip(names, rows, found.rows.tolist(), found.scores.tolist(), strict=True)
    for name, row, near, scores in lines:
        neighbours = tuple(
            Neighbour(rank, other, features.names[other], score)
            for rank, (other, score) in enumerate(zip(near, scores, strict=True), start=1)
            if other >= 0
        )
        yield Found(name, features.model, metric, row, None, neighbours)


def groups(
    features: Features, threshold: float, metric: Metric, progress: Progress
) -> Iterator[Group]:
    """Groups of alike photos, in the order of their first ones; see `Features.duplicates`."""
    found = features.duplicates(threshold, metric, progress=progress)
    for number, rows in enumerate(found, start=1):
        scores = features.scores(int(rows[0]), rows, metric)
        pairs = zip(rows.tolist(), scores.tolist(), strict=True)
        photos = tuple(
            Neighbour(rank, row, features.names[row], score)
            for rank, (row, score) in enumerate(pairs, start=1)
        )
        yield Group(number, metric, photos)
