"""Inputs of parts -> entries (features) or records (predict): decode, network, rows.

The road of both runners. Batches are formed inside a part, which holds whole ones but for the end
of the list; photos of the next part are decoded while the network runs on this one.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from resnest_cli.images.batches import Prepared, Stopwatch
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source
from resnest_cli.inference.extraction import Extraction
from resnest_cli.inference.ranking import Record
from resnest_cli.jobs.job import Item, Job, identity, without
from resnest_cli.jobs.listing import Input
from resnest_cli.jobs.predict import Ranking

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import BatchOptions, Classifier

Result = Item | Record  # what one input gives


class Computer:
    """A classifier at work for a job, with decoders in processes of their own; a context manager.

    `source` gives what there is to decode of an input. `stopwatch` has the seconds by step.
    """

    def __init__(
        self, job: Job, classifier: "Classifier", source: Callable[[Input], Source]
    ) -> None:
        self._job, self._classifier, self._source = job, classifier, source
        self.stopwatch = Stopwatch()
        self._decoders = Decoders.of(job.options, job.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoders.close()

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
        wanted, options = self._job.wanted, self._job.options
        reading: BatchOptions = {
            "batch_size": options.batch_size,
            "workers": options.workers,
            "decoders": self._decoders,
            "stopwatch": self.stopwatch,
        }
        if isinstance(wanted, Ranking):
            how = without(asdict(wanted), "tta")
            found = self._classifier.records(sources, **how, **reading)
            records = (replace(record, model=self._job.name) for record in found)
            while batch := list(islice(records, options.batch_size)):
                yield [*batch]
            return
        for group, rows in self._classifier.feature_groups(sources, wanted, **reading):
            yield [*entries_of(group, rows)]


def entries_of(group: list[Prepared], rows: Any) -> Iterator[Item]:
    """The inputs of a batch, each with its error or its row."""
    found = iter(rows)
    for item in group:
        row = None if item.error is not None else next(found).tobytes()
        yield Item(item.source.name, item.error, row, item.kind)


def described(job: Job, classifier: "Classifier") -> dict[str, Any]:
    """All that decides the rows of a folder beside the inputs; plain data, as JSON holds it.

    As of a file, but for the kind of processor: nodes differ, and with them the last bits.
    """
    ranking = job.wanted if isinstance(job.wanted, Ranking) else None
    wanted = Extraction() if isinstance(job.wanted, Ranking) else job.wanted
    if ranking is not None:
        classifier.model.need_classifier()
    found = identity(classifier, job.options.batch_size, wanted, job.format, job.shard)
    found = without(found, "shard")
    found["engine"] = without(found["engine"], "device")
    if ranking is not None:
        names = json.dumps(classifier.class_names).encode()
        del found["extraction"]
        found["class_names_sha256"] = hashlib.sha256(names).hexdigest()
        found["ranking"] = asdict(ranking)
        if ranking.unknown is None:  # as earlier versions had it
            del found["ranking"]["unknown"]
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain
