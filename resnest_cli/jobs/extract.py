"""`features` in its working process: which inputs are ours, whether it is the list, and their rows.

The list is read anew on every start: nothing of it is held. A running SHA-256 over the names of
all inputs so far (each with its length in front) is kept with every part; a resumed run must meet
the same one at the same place. Names only: whether a photo that is done has been replaced by
another of the same name is not noticed, since that would cost a look at each of them.

Batches are formed by the input's number in the list, never by where a run was interrupted, so that
every row comes out of the same batch, with the same bits.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import UsageError
from resnest_cli.images.batches import Prepared, Stopwatch
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source, SourceStats, listed
from resnest_cli.jobs.formats import read_lines
from resnest_cli.jobs.job import (
    NO_MARK,
    Chain,
    Ending,
    FeaturesJob,
    Item,
    Mark,
    Results,
    Todo,
    identity,
)
from resnest_cli.jobs.parts import Store

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier


class Listing:
    """Our inputs, in order, from a list of all.

    Iterating gives a source for each of ours; the list is checked on the way. `marks` says, for
    each batch of ours from `first_batch` on that was given whole, how far the list had been read;
    None keeps no marks.
    """

    def __init__(
        self, sources: Iterable[Source], job: FeaturesJob, todo: Todo, first_batch: int | None
    ) -> None:
        self._sources, self._job, self._todo = sources, job, todo
        self._first_batch = first_batch
        self.marks: dict[int, Mark] = {}  # by the number of our batch; who uses one takes it out
        self.end: Mark | None = None

    def __iter__(self) -> Iterator[Source]:
        """Our sources."""
        chain, own, size = Chain(), 0, self._job.options.batch_size
        marks = iter(self._todo.marks)
        expected = next(marks, None)
        since: list[str] = []  # names of ours since the last mark, while there are any to come
        for source in self._sources:
            if chain.count == self._todo.last:
                break
            if self._todo.verify and expected is None:
                new = f"input {chain.count + 1} is new: {source.name!r}"
                raise _different(self._job.target, new)
            batch = chain.count // size
            ours = self._job.shard.owns(batch)
            chain.add(source.name)
            if ours:
                own += 1
                if chain.count % size == 0:
                    number = own // size - 1
                    if self._first_batch is not None and number >= self._first_batch:
                        self.marks[number] = chain.mark
                if expected is not None:
                    since.append(source.name)
            if expected is not None and chain.count == expected.listed:
                if chain.mark != expected:
                    raise self._changed(own - len(since), since, ended=False)
                expected, since = next(marks, None), []
            if ours:
                yield source
        self.end = chain.mark
        if expected is not None:
            raise self._changed(own - len(since), since, ended=True)

    def _changed(self, first: int, names: list[str], *, ended: bool) -> UsageError:
        """What differs among our inputs from number `first` on; `ended` where the list has."""
        target = self._job.target
        known = Store.load(target)
        if known and known.kind == "run":
            lines = known.lines()
        else:
            lines = read_lines(target.with_suffix(".csv"), header=True)
        for number, line in enumerate(lines):
            if number < first:
                continue
            at = number - first
            if at >= len(names):
                if not ended:
                    break
                return _different(target, f"{line.name!r} is missing after input {number}")
            if names[at] != line.name:
                what = f"input {number + 1} was {line.name!r} and is {names[at]!r}"
                return _different(target, what)
        return _different(target, f"it differs after input {first}, where other shards read")


def failed_only(sources: Iterable[Source], done: Path, target: Path) -> Iterator[Source]:
    """Of our sources those that failed, as the lines of the finished `done` say."""
    lines = read_lines(done, header=True)
    number = 0
    for number, source in enumerate(sources, start=1):
        line = next(lines, None)
        if line is None:
            raise _different(target, f"input {number} is new: {source.name!r}")
        if line.name != source.name:
            raise _different(target, f"input {number} was {line.name!r} and is {source.name!r}")
        if line.error is not None:
            yield source
    if (line := next(lines, None)) is not None:
        raise _different(target, f"{line.name!r} is missing after input {number}")


def _different(target: Path, what: str) -> UsageError:
    return UsageError(
        f"the inputs are not those that {target} was begun with: {what}. Name the same ones, "
        "another -o, or --overwrite to start afresh."
    )


def extract(
    classifier: "Classifier",
    job: FeaturesJob,
    todo: Todo,
) -> Results:
    """The identity, then an item for each of our inputs that is to be done, in order.

    Raises:
        UsageError: the list of inputs cannot be read, or is not the one that was begun.
    """
    size = job.options.batch_size
    format_ = job.target.suffix.lower().removeprefix(".")
    yield identity(classifier, size, job.extraction, format_, job.shard)
    stats = SourceStats()
    first = todo.done // size * size  # where its batch begins
    marked = None if todo.verify or todo.retry else first // size
    listing = Listing(listed(job.options, stats), job, todo, marked)
    if todo.verify:
        for _ in listing:
            pass
    else:
        sources = iter(listing)
        if todo.retry is not None:
            sources = failed_only(listing, todo.retry, job.target)
        found = _items(classifier, job, islice(sources, first, None), first, todo, listing)
        yield from islice(found, todo.done - first, None)
    assert listing.end is not None
    return Ending(listing.end, stats.skipped)


def _items(
    classifier: "Classifier",
    job: FeaturesJob,
    sources: Iterator[Source],
    first: int,
    todo: Todo,
    listing: Listing,
) -> Iterator[Item]:
    """The items of whole batches, from our input number `first` on."""
    stopwatch = Stopwatch()
    size = job.options.batch_size
    with Decoders.of(job.options, job.model) as decoders:
        batches = classifier.feature_groups(
            sources,
            job.extraction,
            batch_size=size,
            workers=job.options.workers,
            decoders=decoders,
            stopwatch=stopwatch,
        )
        for number, (group, rows) in enumerate(batches, start=first // size):
            seconds: dict[str, float] = dict(stopwatch.take().items())
            mark: Mark | None = None  # a batch that is not whole is committed with the end
            if todo.retry is not None:
                mark = NO_MARK  # the lines of the finished output say what the list must be
            elif len(group) == size:
                mark = listing.marks.pop(number)
            for place, entry in enumerate(entries_of(group, rows), start=1):
                last = place == len(group)
                yield entry._replace(mark=mark, seconds=seconds) if last else entry


def entries_of(group: list[Prepared], rows: Any) -> Iterator[Item]:
    """The inputs of a batch, each with its error or its row."""
    found = iter(rows)
    for item in group:
        row = None if item.error is not None else next(found).tobytes()
        yield Item(item.source.name, item.error, row, item.kind)
