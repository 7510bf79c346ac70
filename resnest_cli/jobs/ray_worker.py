"""What runs in the processes of Ray: tasks that read the photos of a part, actors that compute it.

An actor computes whole parts and writes them itself; its batches are those of a run on one machine.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from resnest_cli.cpu import limit_cores
from resnest_cli.errors import CheckpointError, ImageError, ResnestError
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source
from resnest_cli.inference.extraction import Extraction
from resnest_cli.jobs import predict
from resnest_cli.jobs.extract import entries_of
from resnest_cli.jobs.formats import Matrix, features_file, lines_file, records_file
from resnest_cli.jobs.inputs import Input, OpenShards, fetched
from resnest_cli.jobs.job import WHOLE, ClusterJob, Ranking, failures_of, identity, without
from resnest_cli.jobs.ray_output import Output, PartInfo
from resnest_cli.text import one_line

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier

HELD = 96 * 2**20  # bytes of a part's photos; what is beyond is left for the worker to read

_PHOTOS = 16  # remote ones that are read at once
_TRIES = 4  # at a file of the output


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
        self._decoders = Decoders.of(job.options, job.model)

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
        self._retried(part, "written", lambda: self._output.attempt(part, self._run.id))
        how: dict[str, Any] = {"batch_size": job.options.batch_size, "decoders": self._decoders}
        how["workers"] = min(job.options.workers, 256)
        sources = _sources(table, offline=job.model.offline)
        if isinstance(wanted, Ranking):
            how |= without(asdict(wanted), "tta")
            found = self.classifier.records(sources, **how)
            records = [replace(record, model=job.name) for record in found]
            failures = failures_of((record.error, record.kind) for record in records)
        else:
            batches = self.classifier.feature_groups(sources, wanted, **how)
            entries = [entry for group, rows in batches for entry in entries_of(group, rows)]
            failures = failures_of((entry.error, entry.kind) for entry in entries)
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


def _sources(table: Any, *, offline: bool) -> Iterator[Source]:
    """What there is to decode, one at a time; nothing is copied before its turn."""
    shards = OpenShards()
    columns = (table[name].combine_chunks().values for name in ("inputs", "data", "errors"))
    for item_, data, error in zip(*columns, strict=True):
        item, content = Input(*json.loads(item_.as_py())), data.as_py()
        if error.is_valid:
            text, kind = json.loads(error.as_py())
            yield Source(item.name, error=text, kind=kind)
        elif content is not None:
            yield Source(item.name, data=content)
        elif item.kind == "file" and item.is_local:
            yield Source(item.name, path=item.where)  # read by the threads that decode
        else:
            try:
                content = fetched(item, offline=offline, shards=shards)
            except ImageError as problem:
                yield Source(item.name, error=str(problem), kind=problem.kind)
            else:
                assert not isinstance(content, str)
                yield Source(item.name, data=content)


def part_row(output: str, part: int, *, offline: bool, alone: bool = False) -> Any:
    """The row of a part as a table: its number, its inputs with their bytes or error, and seconds.

    An input with neither is left for the worker to read when it comes to it. What is beyond `HELD`
    bytes is left, so that a row has a size that the object store can bear.
    So are the files of this machine where it is the only one (`alone`): their way through the store
    gains nothing.
    """
    import pyarrow as pa

    begun = time.monotonic()
    inputs = Output(output, "").inputs_of(part)
    data: list[bytes | None] = []
    problems: list[str | None] = []
    held = 0
    for item, get in _ahead(inputs, offline):
        content, error = None, None
        if held <= HELD and not (alone and item.is_local):
            try:
                found = get()
            except ImageError as problem:
                error = json.dumps([str(problem), problem.kind])
            else:
                if isinstance(found, bytes):  # else the path of a large file
                    content, held = found, held + len(found)
        data.append(content)
        problems.append(error)
    items = [json.dumps(item) for item in inputs]
    return pa.table(
        {
            "part": pa.array([part], pa.int64()),
            "inputs": pa.array([items], pa.list_(pa.string())),
            "data": pa.array([data], pa.list_(pa.large_binary())),
            "errors": pa.array([problems], pa.list_(pa.string())),
            "seconds": pa.array([time.monotonic() - begun], pa.float64()),
        }
    )


def _ahead(inputs: list[Input], offline: bool) -> Iterator[tuple[Input, Callable[[], bytes | str]]]:
    """Each input with what gives its bytes; remote ones are fetched before they are asked for."""
    get = partial(fetched, offline=offline, shards=OpenShards())
    if all(item.is_error or item.is_local for item in inputs):
        for item in inputs:
            yield item, partial(get, item)
        return
    with ThreadPoolExecutor(_PHOTOS) as pool:
        for begin in range(0, len(inputs), _PHOTOS):
            group = inputs[begin : begin + _PHOTOS]
            waiting = [pool.submit(get, item) for item in group]
            for item, future in zip(group, waiting, strict=True):
                yield item, future.result
