"""The working process: sources -> rows. A crash ends it, and another goes on; see `supervise`.

Batches are formed by the input's number in the list, never by where a run was interrupted, so that
every row comes out of the same batch, with the same bits. A process that starts in the middle of a
batch computes it whole and drops what was received already.

In what `supervise` counts, the opening is 0, and our input number n, from the first one that is to
be done, is n + 1.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from io import RawIOBase
from itertools import islice
from typing import Any

from resnest_cli import __version__
from resnest_cli.errors import CheckpointError
from resnest_cli.features.job import Ending, FeaturesJob, Item, Mark, Opening, Todo
from resnest_cli.features.listing import Listing, failed_only
from resnest_cli.images.batches import Prepared
from resnest_cli.images.sources import Source, SourceStats
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.run import Stopwatch, careful, listed
from resnest_cli.supervise import Start


def extract(
    classifier: Classifier,
    job: FeaturesJob,
    todo: Todo,
    start: Start,
    stdin: RawIOBase | None = None,
) -> Generator[Opening | Item, None, Ending]:
    """The opening, then an item for each of our inputs that is to be done, in order.

    Raises:
        UsageError: the list of inputs cannot be read, or is not the one that was begun.
    """
    if start.skip == 0:
        yield Opening(identity(classifier, job))
    stats = SourceStats()
    size = job.options.batch_size
    received = todo.done + max(0, start.skip - 1)
    first = received // size * size  # where its batch begins
    marked = None if todo.verify or todo.retry else first // size
    listing = Listing(listed(job.options, stats, stdin), job, todo, marked)
    if todo.verify:
        for _ in listing:
            pass
    else:
        sources: Iterable[Source] = listing
        if todo.retry is not None:
            sources = failed_only(listing, todo.retry, job.target)
        found = _items(classifier, job, islice(sources, first, None), first, start, todo, listing)
        yield from islice(found, received - first, None)
    assert listing.end is not None
    return Ending(listing.end, stats.skipped)


def _items(
    classifier: Classifier,
    job: FeaturesJob,
    sources: Iterator[Source],
    first: int,
    start: Start,
    todo: Todo,
    listing: Listing,
) -> Iterator[Item]:
    """The items of whole batches, from our input number `first` on."""
    stopwatch = Stopwatch()
    size = job.options.batch_size
    with ExitStack() as stack:
        batches = classifier.feature_groups(
            sources,
            job.extraction,
            batch_size=size,
            workers=job.options.workers,
            first=first - todo.done + 1,
            prepare=careful(classifier, job.options, start, stack, stopwatch),
            stopwatch=stopwatch,
        )
        for number, (group, rows) in enumerate(batches, start=first // size):
            seconds: dict[str, float] = dict(stopwatch.take().items())
            mark = _mark(listing, number, todo, len(group) == size)
            found = with_rows(group, rows)
            for place, (item, error, row) in enumerate(found, start=1):
                last = place == len(group)
                yield Item(
                    item.source.name,
                    error,
                    row,
                    mark if last else None,
                    seconds if last else None,
                )


def _mark(listing: Listing, number: int, todo: Todo, whole: bool) -> Mark | None:
    """What may be committed after this batch; the last one, where it is not whole, at the end."""
    if todo.retry is not None:
        return Mark(0, "")  # the lines of the output that is retried tell what the list must be
    if not whole:
        return None
    return listing.marks.pop(number)


def with_rows(
    group: list[Prepared], rows: Any
) -> Iterator[tuple[Prepared, str | None, bytes | None]]:
    """Each input of a batch with its error or its row."""
    found = iter(rows)
    for item in group:
        yield item, item.error, None if item.error is not None else next(found).tobytes()


def identity(classifier: Classifier, job: FeaturesJob) -> dict[str, Any]:
    """All that decides the bytes of the output beside the inputs; plain data, as JSON holds it.

    Raises:
        CheckpointError: the weights cannot be read.
    """
    model = classifier.model
    try:
        sha256 = model.sha256()
    except OSError as error:
        raise CheckpointError(f"{model.path} cannot be read: {error}.") from error
    size = classifier.preprocessing.size
    preprocessing: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(classifier.preprocessing).items()
    }
    shard = job.shard
    return {
        "format": job.target.suffix.lower().removeprefix("."),
        "model": model.variant.id,
        "weights_sha256": sha256,
        "classes": model.num_classes,
        "preprocessing": preprocessing
        | {"crop_mode": classifier.preparation.crop_mode, "exif": classifier.preparation.exif}
        # Only where it is on: what earlier versions finished is still the same.
        | ({"fast_decode": True} if classifier.preparation.fast else {})
        | ({"gpu_decode": True} if classifier.preparation.on_gpu else {}),
        "extraction": asdict(job.extraction)
        | {"row_shape": list(job.extraction.row_shape(model, size))},
        "engine": asdict(classifier.engine.fingerprint(job.options.batch_size)),
        "versions": {
            "resnest_cli": __version__,
            "pillow": version("pillow"),
            "numpy": version("numpy"),
        },
        "shard": None if shard.count == 1 else asdict(shard),
    }
