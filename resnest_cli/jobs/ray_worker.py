"""What runs in the processes of Ray: tasks that read the photos of a part, actors that compute it.

An actor computes whole parts and writes them itself; its batches are those of a run on one machine.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.cpu import limit_cores
from resnest_cli.errors import CheckpointError, ImageError, ResnestError
from resnest_cli.images.sources import Source
from resnest_cli.inference.extraction import Extraction
from resnest_cli.inference.run import careful
from resnest_cli.jobs import predict
from resnest_cli.jobs.extract import entries_of
from resnest_cli.jobs.formats import Matrix, features_file, lines_file, records_file
from resnest_cli.jobs.inputs import OpenShards, fetched
from resnest_cli.jobs.job import ClusterJob, Ranking, failures_of, identity, without
from resnest_cli.jobs.listing import WHOLE, Input
from resnest_cli.jobs.ray_output import Output, PartInfo
from resnest_cli.supervise import Start
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


@dataclass(frozen=True, slots=True)
class PartPhotos:
    """The inputs of a part, each with its bytes or its error, and the seconds of reading them.

    None is left for the worker to read when it comes to it. Bytes are arrays uint8: Ray's processes
    share these, and copy none before its turn.
    """

    part: int
    inputs: list[Input]
    contents: list[NDArray[Any] | ImageError | None]
    seconds: float = 0.0

    def sources(self, *, offline: bool) -> Iterator[Source]:
        """What there is to decode, one at a time."""
        shards = OpenShards()
        for item, content in zip(self.inputs, self.contents, strict=True):
            if content is None and item.kind == "file" and item.is_local:
                yield Source(item.name, path=item.where)  # read by what decodes it
                continue
            found: Any = content
            if content is None:
                found = _attempted(partial(fetched, item, offline=offline, shards=shards))
            if isinstance(found, ImageError):
                yield Source(item.name, error=str(found), kind=found.kind)
            else:
                yield Source(item.name, data=bytes(found))


def part_photos(output: str, part: int, *, offline: bool, alone: bool = False) -> PartPhotos:
    """Reads the photos of a part, up to `HELD` bytes, so that the object store can bear them.

    The files of this machine are left where it is the only one (`alone`): their way through the
    store gains nothing.
    """
    begun = time.monotonic()
    photos = PartPhotos(part, Output(output, "").inputs_of(part), [])
    held = 0
    for item, get in _ahead(photos.inputs, offline):
        found: Any = None
        if held <= HELD and not (alone and item.is_local):
            found = _attempted(get)
        if isinstance(found, bytes):
            held += len(found)
            found = np.frombuffer(found, np.uint8)
        large = isinstance(found, str)  # the path of a file that is not held
        photos.contents.append(None if large else found)
    return replace(photos, seconds=time.monotonic() - begun)


def _attempted(get: Callable[[], bytes | str]) -> bytes | str | ImageError:
    try:
        return get()
    except ImageError as error:
        return error


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


class PartWorker:
    """An actor: the photos of a part -> its rows, computed and written."""

    def __init__(self, job: ClusterJob, run: Run) -> None:
        self._job, self._run = job, run
        self._output = Output(job.output, job.format, run.identity)

    @cached_property
    def classifier(self) -> "Classifier":
        """Loaded at the first use, so that an error of ours reaches the driver as it is.

        Raises:
            CheckpointError: this node has other weights than the one that began the run.
        """
        classifier = load(self._job, self._run.threads)
        model = classifier.model
        if model.sha256() != self._run.weights:
            raise CheckpointError(
                f"{model.path}: this node ({os.uname().nodename}) has other weights under this "
                "name than the others. Put the same file on every node, or name one that all can "
                "read."
            )
        return classifier

    def load(self) -> None:
        """Loads the network while the first photos are read; `compute` raises what is wrong."""
        with suppress(ResnestError):
            self.classifier  # noqa: B018

    def compute(self, photos: PartPhotos) -> tuple[PartInfo, float, float]:
        """Writes a part, unless it is there; with it come the seconds of reading and of this.

        Raises:
            ResnestError: the network cannot be loaded, or the part cannot be written.
        """
        begun = time.monotonic()
        part, inputs = photos.part, len(photos.inputs)
        info = self._retried(part, "read", lambda: self._output.info(part, inputs))
        if info is None:
            info = self._computed(photos)
        return info, photos.seconds, time.monotonic() - begun

    def _computed(self, photos: PartPhotos) -> PartInfo:
        job, wanted, part, count = self._job, self._job.wanted, photos.part, len(photos.inputs)
        options = replace(job.options, isolate=True)
        with ExitStack() as stack:
            prepare = careful(self.classifier, options, Start(), stack)
            how: dict[str, Any] = {"batch_size": options.batch_size, "prepare": prepare}
            how["workers"] = min(options.workers, 256)
            sources = photos.sources(offline=job.model.offline)
            if isinstance(wanted, Ranking):
                how |= without(asdict(wanted), "tta")
                found = self.classifier.records(sources, **how)
                records = [replace(record, model=job.name) for record in found]
                failures = failures_of((record.error, record.kind) for record in records)
            else:
                batches = self.classifier.feature_groups(sources, wanted, **how)
                entries = [entry for group, rows in batches for entry in entries_of(group, rows)]
                failures = failures_of((entry.error, entry.kind) for entry in entries)
        info = PartInfo(part, self._run.identity, count, failures)
        if not isinstance(wanted, Ranking):
            shape = wanted.row_shape(self.classifier.model, self.classifier.preprocessing.size)
            data = features_file(entries, Matrix(count, count, shape, wanted.dtype), asdict(info))
        elif job.format == "jsonl":
            data = lines_file(records)
        else:
            data = records_file(records, asdict(info), rejecting=wanted.reject_below > 0)
        self._retried(part, "written", lambda: self._output.commit(part, data))
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
