"""A whole run of `predict`: inputs -> records, in a process that a bad photo may bring down.

`supervise.supervised` starts `run` anew after a crash, with what is known by then: how many records
are out, and which photos were being decoded. Those suspects are decoded alone, in a process of
their own.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from io import BufferedReader, RawIOBase
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from resnest_cli.images.batches import Float32, Photo
from resnest_cli.images.limits import memory_for
from resnest_cli.images.notes import leave, noted
from resnest_cli.images.sources import Source, SourceStats, iter_sources
from resnest_cli.inference.batch_size import batch_size_for
from resnest_cli.inference.classifier import Classifier, Prepare
from resnest_cli.inference.records import Record
from resnest_cli.inference.run_options import RunOptions
from resnest_cli.supervise import Start

if TYPE_CHECKING:
    from resnest_cli.images.isolation import IsolatedDecoder
    from resnest_cli.inference.stopwatch import Stopwatch

T = TypeVar("T")


def run(
    classifier: Classifier,
    options: RunOptions,
    start: Start,
    stdin: RawIOBase | None = None,
    *,
    topk: int = 5,
    threshold: float = 0.0,
    reject_below: float = 0.0,
) -> Generator[Record, None, int]:
    """One record per input from `start.skip` on, in order; `stdin` gives a list or an image.

    The generator returns how many files of other kinds were passed over.

    Raises:
        UsageError: the list of inputs cannot be read.
        CheckpointError: the network has no classifier.
    """
    classifier.model.need_classifier()
    stats = SourceStats()
    sources = listed(options, stats, stdin)
    with ExitStack() as stack:
        yield from classifier.records(
            islice(sources, start.skip, None),
            topk=topk,
            threshold=threshold,
            reject_below=reject_below,
            batch_size=batch_size_for(classifier, "logits", options.batch_size),
            workers=options.workers,
            first=start.skip,
            prepare=careful(classifier, options, start, stack),
        )
    return stats.skipped


def listed(
    options: RunOptions, stats: SourceStats, stdin: RawIOBase | None = None
) -> Iterator[Source]:
    """The inputs that the options name, in order; see `images.sources.iter_sources`."""
    return iter_sources(
        options.inputs,
        recursive=options.recursive,
        from_file=options.from_file,
        null_separated=options.null_separated,
        stdin=BufferedReader(stdin) if stdin else None,
        stats=stats,
    )


def careful(
    classifier: Classifier,
    options: RunOptions,
    start: Start,
    stack: ExitStack,
    stopwatch: "Stopwatch | None" = None,
) -> Prepare:
    """The classifier's `prepare`, with a journal of what is in flight, and suspects isolated.

    A `stopwatch` is told how long reading and decoding take.
    """
    read: Callable[[Source], Photo] = classifier.read
    decoded: Callable[[Photo], Float32] = classifier.preparation
    if stopwatch is not None:
        read, decoded = stopwatch.timed("read", read), stopwatch.preparation(decoded)
    portable = classifier.preparation.portable
    return guarded(read, decoded, portable, options, start, stack, portable.max_pixels)


def guarded(
    read: Callable[[Source], Photo],
    decoded: Callable[[Photo], T],
    portable: Callable[[Photo], T],
    options: RunOptions,
    start: Start,
    stack: ExitStack,
    max_pixels: int,
) -> Callable[[int, Source], T]:
    """A source's index, counted from 0, and the source -> what `decoded` makes of it.

    What is in flight stands in the journal; suspects are isolated, for which `portable` is a
    `decoded` that can be sent to another process, of photos of at most `max_pixels`.
    """
    journal, suspects = start.journal, start.suspects
    isolated = None
    if options.isolate or suspects:
        isolated = stack.enter_context(_isolated_decoder(options, max_pixels))

    def prepare(index: int, source: Source) -> T:
        photo = read(source)  # outside of the journal: a slow server is no crash
        if isolated is not None and (options.isolate or index in suspects):
            assert isinstance(photo, str | bytes)
            result, note = isolated.submit(noted, portable, photo).result()
            if note is not None:
                leave(note)
            return result
        if journal is None:
            return decoded(photo)
        journal.begin(index)
        try:
            return decoded(photo)
        finally:
            journal.end(index)

    return prepare


def _isolated_decoder(options: RunOptions, max_pixels: int) -> "IsolatedDecoder":
    from resnest_cli.images.isolation import MEMORY_LIMIT, IsolatedDecoder

    memory = max(MEMORY_LIMIT, memory_for(max_pixels))
    return IsolatedDecoder(
        max(1, options.workers), time_limit=options.time_limit, memory_limit=memory
    )
