"""Which inputs of the list are ours, and whether it is still the list that was begun.

The list is read anew on every start: nothing of it is held. A running SHA-256 over the names of
all inputs so far (each with its length in front) is kept with every part; a resumed run must meet
the same one at the same place. Names only: whether a photo that is done has been replaced by
another of the same name is not noticed, since that would cost a look at each of them.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.errors import UsageError
from resnest_cli.features.job import FeaturesJob, Mark, Todo
from resnest_cli.features.lines import encoded, read_lines
from resnest_cli.features.store import Store
from resnest_cli.images.sources import Source

if TYPE_CHECKING:
    from hashlib import _Hash


class Listing:
    """Our inputs, in order, from a list of all.

    Iterating gives a source for each of ours; the list is checked on the way. `marks` says, for
    each batch of ours from `first_batch` on that was given whole, how far the list had been read;
    None keeps no marks.
    """

    def __init__(
        self, sources: Iterable[Source], job: FeaturesJob, todo: Todo, first_batch: int | None
    ) -> None:
        self._sources = sources
        self._batch_size = job.options.batch_size
        self._shard = job.shard
        self._target = job.target
        self._expected = iter(todo.marks)
        self._last = todo.last
        self._verify = todo.verify
        self._first_batch = first_batch
        self.marks: dict[int, Mark] = {}  # by the number of our batch; who uses one takes it out
        self.end: Mark | None = None

    def __iter__(self) -> Iterator[Source]:
        """Our sources.

        Raises:
            UsageError: the list differs from the one that was begun; names the first difference.
        """
        chain, count, own = hashlib.sha256(), 0, 0
        expected = next(self._expected, None)
        since: list[str] = []  # names of ours since the last mark, while there are any to come
        for source in self._sources:
            if count == self._last:
                break
            if self._verify and expected is None:
                raise _different(self._target, f"input {count + 1} is new: {source.name!r}")
            batch, place = divmod(count, self._batch_size)
            add_name(chain, source.name)
            count += 1
            if self._shard.owns(batch):
                own += 1
                if place + 1 == self._batch_size:
                    self._note(own // self._batch_size - 1, count, chain)
                if expected is not None:
                    since.append(source.name)
            if expected is not None and count == expected.listed:
                if chain.hexdigest() != expected.chain:
                    raise self._changed(own - len(since), since, ended=False)
                expected, since = next(self._expected, None), []
            if self._shard.owns(batch):
                yield source
        self.end = Mark(count, chain.hexdigest())
        if expected is not None:
            raise self._changed(own - len(since), since, ended=True)

    def _note(self, batch: int, count: int, chain: "_Hash") -> None:
        if self._first_batch is not None and batch >= self._first_batch:
            self.marks[batch] = Mark(count, chain.hexdigest())

    def _changed(self, first: int, names: list[str], *, ended: bool) -> UsageError:
        """What differs among our inputs from number `first` on; `ended` where the list has."""
        known = Store.load(self._target)
        lines = (
            known.names_from(first)
            if known and known.kind == "run"
            else _names(self._target, first)
        )
        for number, then in enumerate(lines, start=first):
            at = number - first
            if at >= len(names) and not ended:
                break
            if at >= len(names):
                return _different(self._target, f"{then!r} is missing after input {number}")
            if names[at] != then:
                return _different(
                    self._target, f"input {number + 1} was {then!r} and is {names[at]!r}"
                )
        return _different(self._target, f"it differs after input {first}, where other shards read")


def _names(target: Path, first: int) -> Iterator[str]:
    lines = read_lines(target.with_suffix(".csv"), header=True)
    return (line.name for number, line in enumerate(lines) if number >= first)


def failed_only(sources: Iterable[Source], done: Path, target: Path) -> Iterator[Source]:
    """Of our sources those that failed, as the lines of the finished `done` say.

    Raises:
        UsageError: the list is not the one of these lines.
    """
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


def add_name(chain: "_Hash", name: str) -> None:
    """Takes the name of one more input into the hash of a list."""
    data = encoded(name)
    chain.update(len(data).to_bytes(8, "little") + data)
