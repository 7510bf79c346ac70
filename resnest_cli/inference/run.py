"""A whole run over many inputs, in a process that a bad photo may bring down.

`supervise.supervised` starts `run` anew after a crash, with what is known by then: how many records
are out, and which photos were being decoded. Those suspects are decoded alone, in a process of
their own. `batch_size_for` tries out what `--batch-size auto` is; `Stopwatch` times a run's steps.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader, RawIOBase
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from resnest_cli.errors import EngineError, UsageError
from resnest_cli.images import leave_note, memory_for, noted
from resnest_cli.images.batches import Float32, Photo
from resnest_cli.images.decode import read_file
from resnest_cli.images.sources import Source, SourceStats, iter_sources
from resnest_cli.inference.classifier import Classifier, Prepare
from resnest_cli.inference.ranking import Record
from resnest_cli.options import AUTO, RunOptions

if TYPE_CHECKING:
    from resnest_cli.inference.engine import Output
    from resnest_cli.supervise import Start

A = TypeVar("A")
B = TypeVar("B")
Step = Literal["read", "decode", "network"]

# Sizes that are tried, in photos. Beyond 32 a CPU's caches are long full; a GPU is busy only from
# some number on, which depends on the network, the photos' size and the card.
_FIRST, _MOST, _MOST_OF_CPU = 8, 1024, 32
_NEARLY = 0.98  # of the best rate: a larger batch for less than that is not worth its memory
_REPEATS, _ENOUGH = 3, 0.5  # runs of a size, and seconds after which no more are made


def run(
    classifier: Classifier,
    options: RunOptions,
    start: "Start",
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
    start: "Start",
    stack: ExitStack,
    stopwatch: "Stopwatch | None" = None,
) -> Prepare:
    """The classifier's `prepare`, with a journal of what is in flight, and suspects isolated.

    A `stopwatch` times reading and decoding.
    """
    read: Callable[[Source], Photo] = classifier.read
    decoded: Callable[[Photo], Float32] = classifier.preparation
    if stopwatch is not None:
        read, decoded = stopwatch.timed("read", read), stopwatch.preparation(decoded)
    portable = classifier.preparation.portable
    return guarded(read, decoded, portable, options, start, stack, portable.max_pixels)


def guarded(
    read: Callable[[Source], Photo],
    decoded: Callable[[Photo], B],
    portable: Callable[[Photo], B],
    options: RunOptions,
    start: "Start",
    stack: ExitStack,
    max_pixels: int,
) -> Callable[[int, Source], B]:
    """A source's index, counted from 0, and the source -> what `decoded` makes of it.

    What is in flight stands in the journal; suspects are isolated, for which `portable` is a
    `decoded` that can be sent to another process, of photos of at most `max_pixels`.
    """
    journal, suspects = start.journal, start.suspects
    isolated = None
    if options.isolate or suspects:
        from resnest_cli.images.isolation import MEMORY_LIMIT, IsolatedDecoder

        memory = max(MEMORY_LIMIT, memory_for(max_pixels))
        isolated = stack.enter_context(
            IsolatedDecoder(
                max(1, options.workers), time_limit=options.time_limit, memory_limit=memory
            )
        )

    def prepare(index: int, source: Source) -> B:
        photo = read(source)  # outside of the journal: a slow server is no crash
        if isolated is not None and (options.isolate or index in suspects):
            assert isinstance(photo, str | bytes)
            result, note = isolated.submit(noted, portable, photo).result()
            if note is not None:
                leave_note(note)
            return result
        if journal is None:
            return decoded(photo)
        journal.begin(index)
        try:
            return decoded(photo)
        finally:
            journal.end(index)

    return prepare


class Stopwatch:
    """Adds up seconds by step, over all threads: two that decode for one second make two."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[Step, float] = {}

    @contextmanager
    def running(self, step: Step) -> Iterator[None]:
        """Counts the time spent inside for this step, however it ends."""
        start = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - start
            with self._lock:
                self._seconds[step] = self._seconds.get(step, 0.0) + passed

    def timed(self, step: Step, function: Callable[[A], B]) -> Callable[[A], B]:
        """The function, whose time counts for this step."""

        def run(argument: A) -> B:
            with self.running(step):
                return function(argument)

        return run

    def preparation(self, preparation: Callable[[Photo], Float32]) -> Callable[[Photo], Float32]:
        """A preparation that reads a file whole before it decodes it, to time them apart."""

        def prepare(photo: Photo) -> Float32:
            if isinstance(photo, str):
                with self.running("read"):
                    photo = read_file(photo)
            with self.running("decode"):
                return preparation(photo)

        return prepare

    def take(self) -> dict[Step, float]:
        """The seconds since the last call."""
        with self._lock:
            taken, self._seconds = self._seconds, {}
        return taken


def batch_size_for(classifier: Classifier, output: "Output", batch_size: int) -> int:
    """`batch_size`, unless that is `AUTO`: then the best one for this output on this device.

    Takes seconds, and notifies of what it found.

    Raises:
        UsageError: the network is compiled for each size, which would take minutes.
        EngineError: not even one photo fits into the device's memory.
    """
    if batch_size != AUTO:
        return batch_size
    if classifier.compiled:
        raise UsageError("--batch-size auto with --compile would compile many times: name a size.")
    side = classifier.preprocessing.size

    def run(count: int) -> None:
        classifier.engine.output(np.zeros((count, 3, side, side), np.float32), output)

    rates = measured_rates(run, most=_MOST_OF_CPU if classifier.engine.device == "cpu" else _MOST)
    size = best(rates)
    tried = ", ".join(f"{count}: {rate:,.0f}" for count, rate in rates.items())
    classifier.notify(f"Batches of {size}; photos/s by size of batch: {tried}.")
    return size


def measured_rates(run: Callable[[int], None], *, most: int) -> dict[int, float]:
    """Photos a second of `run(count)` for 8, 16, 32, ... as fit into memory, else for 4, 2 or 1."""
    rates: dict[int, float] = {}
    count = _FIRST
    while count <= most:
        try:
            rates[count] = count / _seconds(run, count)
        except (EngineError, MemoryError):
            if rates:
                break
            if count == 1:
                raise
            count //= 2
            continue
        if count < _FIRST:
            break  # the next size has failed already
        count *= 2
    return rates


def best(rates: dict[int, float]) -> int:
    """The smallest size whose rate is nearly the best."""
    enough = _NEARLY * max(rates.values())
    return min(count for count, rate in rates.items() if rate >= enough)


def _seconds(run: Callable[[int], None], count: int) -> float:
    """Of the quickest of a few runs, after one that gets the device ready."""
    run(count)
    taken: list[float] = []
    while len(taken) < _REPEATS and sum(taken) < _ENOUGH:
        begin = time.perf_counter()
        run(count)
        taken.append(time.perf_counter() - begin)
    return min(taken)
