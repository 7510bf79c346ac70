"""A whole run of `predict`: inputs -> records, in a process that a bad photo may bring down.

`supervise.supervised` starts `run` anew after a crash, with what is known by then: how many records
are out, and which photos were being decoded. Those suspects are decoded alone, in a process of
their own.
"""

from collections.abc import Generator
from contextlib import ExitStack
from io import BufferedReader, RawIOBase
from itertools import islice
from typing import TYPE_CHECKING

from resnest_cli.images.batches import Float32
from resnest_cli.images.sources import Source, SourceStats, iter_sources
from resnest_cli.inference.classifier import Classifier, Prepare
from resnest_cli.inference.records import Record
from resnest_cli.inference.run_options import RunOptions
from resnest_cli.supervise import Start

if TYPE_CHECKING:
    from resnest_cli.images.isolation import IsolatedDecoder


def run(
    classifier: Classifier, options: RunOptions, start: Start, stdin: RawIOBase | None = None
) -> Generator[Record, None, int]:
    """One record per input from `start.skip` on, in order; `stdin` gives a list or an image.

    The generator returns how many files of other kinds were passed over.

    Raises:
        UsageError: the list of inputs cannot be read.
    """
    stats = SourceStats()
    sources = iter_sources(
        options.inputs,
        recursive=options.recursive,
        from_file=options.from_file,
        null_separated=options.null_separated,
        stdin=BufferedReader(stdin) if stdin else None,
        stats=stats,
    )
    with ExitStack() as stack:
        yield from classifier.records(
            islice(sources, start.skip, None),
            topk=options.topk,
            threshold=options.threshold,
            batch_size=options.batch_size,
            workers=options.workers,
            first=start.skip,
            prepare=_careful(classifier, options, start, stack),
        )
    return stats.skipped


def _careful(
    classifier: Classifier, options: RunOptions, start: Start, stack: ExitStack
) -> Prepare:
    """The classifier's `prepare`, with a journal of what is in flight, and suspects isolated."""
    journal, suspects = start.journal, start.suspects
    isolated = None
    if options.isolate or suspects:
        isolated = stack.enter_context(_isolated_decoder(options))

    def prepare(index: int, source: Source) -> Float32:
        photo = classifier.read(source)  # outside of the journal: a slow server is no crash
        if isolated is not None and (options.isolate or index in suspects):
            assert isinstance(photo, str | bytes)
            return isolated.submit(classifier.preparation, photo).result()
        if journal is None:
            return classifier.preparation(photo)
        journal.begin(index)
        try:
            return classifier.preparation(photo)
        finally:
            journal.end(index)

    return prepare


def _isolated_decoder(options: RunOptions) -> "IsolatedDecoder":
    from resnest_cli.images.isolation import IsolatedDecoder

    return IsolatedDecoder(max(1, options.workers), time_limit=options.time_limit)
