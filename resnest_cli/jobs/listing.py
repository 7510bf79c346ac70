"""Which inputs of a list are ours, and whether it is still the list that was begun.

The list is read anew on every start: nothing of it is held. A running SHA-256 over the names of
all inputs so far (each with its length in front) is kept with every part; a resumed run must meet
the same one at the same place. Names only: whether a photo that is done has been replaced by
another of the same name is not noticed, since that would cost a look at each of them.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images.sources import Source, SourceStats, iter_sources
from resnest_cli.jobs.formats import encoded, read_lines
from resnest_cli.jobs.job import FeaturesJob, Mark, Todo
from resnest_cli.jobs.parts import Store
from resnest_cli.options import RunOptions


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


class Chain:
    """Counts inputs that pass through, and takes the hash over their names."""

    def __init__(self) -> None:
        self._hash, self.count = hashlib.sha256(), 0

    def add(self, name: str) -> None:
        """One more input."""
        data = encoded(name)
        self._hash.update(len(data).to_bytes(8, "little") + data)
        self.count += 1

    def __call__(self, inputs: Iterable[N]) -> Iterator[N]:
        """The same inputs."""
        for item in inputs:
            self.add(item.name)
            yield item

    @property
    def mark(self) -> Mark:
        """What has passed through by now."""
        return Mark(self.count, self._hash.hexdigest())


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
                    self._note(own // size - 1, chain)
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

    def _note(self, batch: int, chain: Chain) -> None:
        if self._first_batch is not None and batch >= self._first_batch:
            self.marks[batch] = chain.mark

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


class Counting:
    """How many inputs there are, counted ahead in a thread while the first are worked on.

    That costs a look at each name (some µs, against tens of ms in the network) and no memory. A
    list on stdin cannot be read ahead: `total` stays None.
    """

    def __init__(self, job: FeaturesJob) -> None:
        self._job, self._count, self._stop = job, 0, False
        self._thread: threading.Thread | None = None
        if "-" not in (*job.options.inputs, job.options.from_file):
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Nobody wants to know any more."""
        self._stop = True
        if self._thread is not None:
            self._thread.join(1.0)  # a folder on a slow disk may hold it up longer

    @property
    def total(self) -> int | None:
        """How many of our inputs have been counted by now."""
        if self._thread is None:
            return None
        return self._job.shard.size(self._count, self._job.options.batch_size)

    def _run(self) -> None:
        with suppress(ResnestError, OSError):  # the working process raises it, too
            for _ in sources_of(self._job.options):
                self._count += 1
                if self._stop:
                    return


def sources_of(options: RunOptions, stats: SourceStats | None = None) -> Iterator[Source]:
    """What the options name on this machine, without stdin."""
    return iter_sources(
        options.inputs,
        recursive=options.recursive,
        from_file=options.from_file,
        null_separated=options.null_separated,
        stats=stats,
    )
