"""What works: inputs -> rows, by the working process of this machine or an actor of Ray.

Both form batches by the input's number in the list, never by where a run was interrupted, so that
every row comes out of the same batch, with the same bits.

A crash ends the working process, and another goes on; see `supervise`. One that starts in the
middle of a batch computes it whole and drops what was received already. In what `supervise`
counts, the identity is 0, and our input number n, from the first one that is to be done, is n + 1.

An actor computes whole parts and writes them itself. A decoder that hangs ends the actor, as one
that crashes does: the next attempt at the part decodes in processes of their own.
"""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from io import RawIOBase
from itertools import islice
from typing import TYPE_CHECKING, Any

from resnest_cli.cpu import limit_cores
from resnest_cli.errors import CheckpointError, ErrorKind, ImageError, ResnestError, one_line
from resnest_cli.images.batches import Float32, Prepare, Prepared
from resnest_cli.images.sources import Source, SourceStats
from resnest_cli.inference.extraction import Extraction
from resnest_cli.inference.run import Stopwatch, careful, listed
from resnest_cli.jobs import predict
from resnest_cli.jobs.formats import Entry, Matrix, features_file, lines_file, records_file
from resnest_cli.jobs.inputs import Input, OpenShards, fetched
from resnest_cli.jobs.job import (
    NO_MARK,
    WHOLE,
    ClusterJob,
    Ending,
    FeaturesJob,
    Item,
    Mark,
    Ranking,
    Results,
    Todo,
    identity,
    without,
)
from resnest_cli.jobs.listing import Listing, failed_only
from resnest_cli.jobs.ray_output import Output, PartInfo
from resnest_cli.jobs.report import failures_of
from resnest_cli.supervise import Journal, Start

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier

_TRIES = 4  # at a file of the output
_TICK = 1.0  # seconds between two looks at what is being decoded


def extract(
    classifier: "Classifier",
    job: FeaturesJob,
    todo: Todo,
    start: Start,
    stdin: RawIOBase | None = None,
) -> Results:
    """The identity, then an item for each of our inputs that is to be done, in order.

    Raises:
        UsageError: the list of inputs cannot be read, or is not the one that was begun.
    """
    size = job.options.batch_size
    if start.skip == 0:
        format_ = job.target.suffix.lower().removeprefix(".")
        yield identity(classifier, size, job.extraction, format_, job.shard)
    stats = SourceStats()
    received = todo.done + max(0, start.skip - 1)
    first = received // size * size  # where its batch begins
    marked = None if todo.verify or todo.retry else first // size
    listing = Listing(listed(job.options, stats, stdin), job, todo, marked)
    if todo.verify:
        for _ in listing:
            pass
    else:
        sources = iter(listing)
        if todo.retry is not None:
            sources = failed_only(listing, todo.retry, job.target)
        found = _items(classifier, job, islice(sources, first, None), first, start, todo, listing)
        yield from islice(found, received - first, None)
    assert listing.end is not None
    return Ending(listing.end, stats.skipped)


def _items(
    classifier: "Classifier",
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
            mark: Mark | None = None  # a batch that is not whole is committed with the end
            if todo.retry is not None:
                mark = NO_MARK  # the lines of the finished output say what the list must be
            elif len(group) == size:
                mark = listing.marks.pop(number)
            for place, entry in enumerate(_entries(group, rows), start=1):
                last = place == len(group)
                yield Item(*entry, mark if last else None, seconds if last else None)


def _entries(group: list[Prepared], rows: Any) -> Iterator[Entry]:
    """The inputs of a batch, each with its error or its row."""
    found = iter(rows)
    for item in group:
        row = None if item.error is not None else next(found).tobytes()
        yield Entry(item.source.name, item.error, row, item.kind)


@dataclass(frozen=True, slots=True)
class Run:
    """What all workers of a run on Ray know beside the job.

    `identity` and `weights` are hashes, of all that decides the output and of the weights;
    `threads` are the cores of a worker.
    """

    id: str
    identity: str
    weights: str
    threads: int


def found(job: ClusterJob, threads: int) -> tuple[dict[str, Any], int]:
    """Loads the model in this process: what decides the output, and bytes of a photo's row.

    As on one machine, but for the kind of processor: nodes differ, and with them the last bits.
    """
    classifier = load(job, threads)
    wanted = Extraction() if isinstance(job.wanted, Ranking) else job.wanted
    described = identity(classifier, job.options.batch_size, wanted, job.format, WHOLE)
    described = without(described, "shard")
    described["engine"] = without(described["engine"], "device")
    size = 1024
    if isinstance(job.wanted, Ranking):
        names = json.dumps(classifier.class_names).encode()
        del described["extraction"]
        described["class_names_sha256"] = hashlib.sha256(names).hexdigest()
        described["ranking"] = asdict(job.wanted)
    else:
        size = wanted.row_bytes(wanted.row_shape(classifier.model, classifier.preprocessing.size))
    return json.loads(json.dumps(described)), size


def load(job: ClusterJob, threads: int) -> "Classifier":
    """The classifier, with so many threads in this process."""
    limit_cores(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # Ray has set that to the CPUs of the actor
    if isinstance(job.wanted, Ranking):
        return predict.classifier(job.model, tta=job.wanted.tta)
    return predict.classifier(job.model, ready_for=job.wanted.output)


class PartWorker:
    """Ray Data's callable: the bytes of a part's photos -> its rows, computed and written.

    One instance lives in each actor and holds the classifier.

    Raises:
        CheckpointError: this node has other weights than the one that began the run.
    """

    def __init__(self, job: ClusterJob, run: Run) -> None:
        self._job, self._run = job, run
        self.classifier = load(job, run.threads)
        model = self.classifier.model
        if model.sha256() != run.weights:
            raise CheckpointError(
                f"{model.path}: this node ({os.uname().nodename}) has other weights under this "
                "name than the others. Put the same file on every node, or name one that all can "
                "read."
            )
        self._output = Output(job.output, job.format, run.identity)
        self._journal = Journal()
        limit = job.options.time_limit
        threading.Thread(target=_watch, args=(self._journal, limit), daemon=True).start()

    def __call__(self, table: Any) -> Any:
        """A row of `ray_cluster.part_row` -> a row about the part; what it computes is written."""
        import pyarrow as pa

        begun = time.monotonic()
        part, inputs = table["part"][0].as_py(), len(table["inputs"][0])
        info = self._retried(part, "read", lambda: self._output.info(part, inputs))
        if info is None:
            info = self._computed(part, inputs, table)
        done = asdict(info), table["seconds"][0].as_py(), time.monotonic() - begun
        return pa.table({"done": [json.dumps(done)]})

    def _computed(self, part: int, inputs: int, table: Any) -> PartInfo:
        """Computes and writes a part."""
        job, wanted = self._job, self._job.wanted
        died = self._retried(part, "written", lambda: self._output.attempt(part, self._run.id))
        options = replace(job.options, isolate=True) if died else job.options
        kinds: dict[int, ErrorKind] = {}  # of errors, by place in the part
        with ExitStack() as stack:
            start = Start(journal=self._journal)
            prepare = _noting(careful(self.classifier, options, start, stack), kinds)
            how: dict[str, Any] = {"batch_size": options.batch_size, "prepare": prepare}
            how["workers"] = min(options.workers, 256)
            sources = _sources(table, kinds, offline=job.model.offline)
            if isinstance(wanted, Ranking):
                how |= without(asdict(wanted), "tta")
                found = self.classifier.records(sources, **how)
                records = [replace(record, model=job.name) for record in found]
                errors = [record.error for record in records]
            else:
                batches = self.classifier.feature_groups(sources, wanted, **how)
                entries = [entry for group, rows in batches for entry in _entries(group, rows)]
                errors = [entry.error for entry in entries]
        failures = failures_of((error, kinds.get(at)) for at, error in enumerate(errors))
        info = PartInfo(part, self._run.identity, inputs, failures)
        if not isinstance(wanted, Ranking):
            shape = wanted.row_shape(self.classifier.model, self.classifier.preprocessing.size)
            matrix = Matrix(inputs, inputs, shape, wanted.dtype)
            data = features_file(entries, matrix, asdict(info))
        elif job.format == "jsonl":
            data = lines_file(records)
        else:
            data = records_file(records, asdict(info), rejecting=wanted.reject_below > 0)
        self._retried(part, "written", lambda: self._output.commit(part, data))
        self._retried(part, "written", lambda: self._output.ended(part))
        return info

    def _retried(self, part: int, what: str, action: Callable[[], Any]) -> Any:
        """A file system far away may fail for a moment."""
        for attempt in range(1, _TRIES + 1):
            try:
                return action()
            except OSError as error:
                if attempt == _TRIES:
                    raise ResnestError(
                        f"{self._output.part_path(part)}: cannot be {what}: {one_line(str(error))}"
                    ) from error
                time.sleep(2.0**attempt / 4)
        raise AssertionError


def _noting(prepare: Prepare, kinds: dict[int, ErrorKind]) -> Prepare:
    """The same, which notes the kind of an error by the index of its photo."""

    def noting(index: int, source: Source) -> Float32:
        try:
            return prepare(index, source)
        except ImageError as error:
            kinds[index] = error.kind
            raise
        except MemoryError:
            kinds[index] = "too large"
            raise

    return noting


def _sources(table: Any, kinds: dict[int, ErrorKind], *, offline: bool) -> Iterator[Source]:
    """What there is to decode, one at a time; nothing is copied before its turn."""
    shards = OpenShards()
    columns = (table[name].combine_chunks().values for name in ("inputs", "data", "errors"))
    for place, (item_, data, error_) in enumerate(zip(*columns, strict=True)):
        item, error = Input(*json.loads(item_.as_py())), error_.as_py()
        if error is not None:
            error, kinds[place] = json.loads(error)
        if error is None and not data.is_valid and item.kind == "file" and item.is_local:
            yield Source(item.name, path=item.where)  # read by the threads that decode
            continue
        content = data.as_py()
        if error is None and content is None:
            try:
                content = fetched(item, offline=offline, shards=shards)
            except ImageError as problem:
                error, kinds[place] = str(problem), problem.kind
        assert not isinstance(content, str)
        yield Source(item.name, data=content, error=error)


def _watch(journal: Journal, limit: float) -> None:
    """Ends this process when a photo has been in its decoder for too long."""
    while True:
        time.sleep(_TICK)
        now = time.monotonic_ns()
        if any(now - since > limit * 1e9 for since in journal.in_flight().values()):
            os.kill(os.getpid(), signal.SIGKILL)
