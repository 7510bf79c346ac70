"""Inputs of parts -> entries (features) or records (predict): decode, network, rows.

The road of both runners. Batches are formed inside a part, which holds whole ones but for the end
of the list; photos of the next part are decoded while the network runs on this one.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from resnest_cli.images.batches import Float32, Prepared
from resnest_cli.images.decode import read_file
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source
from resnest_cli.inference.ranking import Record
from resnest_cli.inference.run import Stopwatch
from resnest_cli.jobs.job import Item, Job, Ranking, failures_of, without
from resnest_cli.jobs.listing import Input

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier

Result = Item | Record  # what one input gives


class Computer:
    """A classifier at work for a job; a context manager, as its decoders may be processes.

    `source` gives what there is to decode of an input. `stopwatch` has the seconds by step.
    """

    def __init__(
        self, job: Job, classifier: "Classifier", source: Callable[[Input], Source]
    ) -> None:
        self._job, self._classifier, self._source = job, classifier, source
        self.stopwatch = Stopwatch()
        options, preparation = job.options, classifier.preparation
        self._reading: dict[str, Any] = {
            "batch_size": options.batch_size,
            "workers": options.workers,
            "prepare": self._prepare,
        }
        self._decoders = Decoders(
            options.workers,
            time_limit=options.time_limit,
            max_pixels=preparation.portable.max_pixels,
        )

    def __enter__(self) -> "Computer":
        return self

    def __exit__(self, *_: object) -> None:
        self._decoders.close()

    def _prepare(self, _index: int, source: Source) -> Float32:
        """Reads and preprocesses one source; a GPU's decoder is no process of its own."""
        with self.stopwatch.running("read"):
            photo = self._classifier.read(source)
            if isinstance(photo, str):
                photo = read_file(photo)
        with self.stopwatch.running("decode"):
            preparation = self._classifier.preparation
            if preparation.on_gpu:
                return preparation(photo)
            return self._decoders.run(preparation.portable, photo)

    def batches(
        self, parts: Iterable[tuple[int, Sequence[Input]]]
    ) -> Iterator[tuple[int, list[Result]]]:
        """The results of each batch, in order, with the number of its part."""
        begun: deque[list[int]] = deque()  # parts with how many of their inputs are to come

        def sources() -> Iterator[Source]:
            for number, inputs in parts:
                begun.append([number, len(inputs)])
                yield from map(self._source, inputs)

        for results in self._results(sources()):
            part = begun[0]
            part[1] -= len(results)
            if part[1] == 0:
                begun.popleft()
            yield part[0], results

    def _results(self, sources: Iterator[Source]) -> Iterator[list[Result]]:
        wanted = self._job.wanted
        if isinstance(wanted, Ranking):
            how = without(asdict(wanted), "tta")
            found = self._classifier.records(sources, **how, **self._reading)
            records = (replace(record, model=self._job.name) for record in found)
            while batch := list(islice(records, self._job.options.batch_size)):
                yield [*batch]
            return
        for group, rows in self._classifier.feature_groups(
            sources, wanted, stopwatch=self.stopwatch, **self._reading
        ):
            yield [*entries_of(group, rows)]


def entries_of(group: list[Prepared], rows: Any) -> Iterator[Item]:
    """The inputs of a batch, each with its error or its row."""
    found = iter(rows)
    for item in group:
        row = None if item.error is not None else next(found).tobytes()
        yield Item(item.source.name, item.error, row, item.kind)


def failures_in(results: Iterable[Result]) -> dict[str, int]:
    """Failures by kind."""
    return failures_of((result.error, result.kind) for result in results)
