"""Ray Data's callable: the bytes of a part -> its rows, computed and written.

One instance lives in each actor and holds the classifier. Decoding, preprocessing and the network
are those of the local runner, in batches at the same places of the list. A decoder that hangs ends
the actor, as one that crashes does: the next attempt at the part decodes in processes of their own.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from resnest_cli.cluster.filesystems import is_address, opened
from resnest_cli.cluster.inputs import Input
from resnest_cli.cluster.job import ClusterJob, Ranking
from resnest_cli.cluster.parts import Parts
from resnest_cli.cluster.reading import OpenShards, fetched
from resnest_cli.cluster.rows import PartInfo, counted, features_file, lines_file, records_file
from resnest_cli.cpu import limit_cores
from resnest_cli.errors import CheckpointError, ImageError, ResnestError, one_line
from resnest_cli.images.sources import Source
from resnest_cli.supervise.journal import Journal, Start

if TYPE_CHECKING:
    from resnest_cli.images.batches import Float32
    from resnest_cli.inference.classifier import Classifier

_TRIES = 4  # at a file of the output
_TICK = 1.0  # seconds between two looks at what is being decoded

Prepare = Callable[[int, Source], "Float32"]


@dataclass(frozen=True, slots=True)
class Run:
    """What all workers of a run are told beside the job.

    `identity` and `weights` are hashes, of all that decides the output and of the weights;
    `threads` are the cores of a worker.
    """

    id: str
    identity: str
    weights: str
    threads: int


class PartWorker:
    """Computes parts; see the module."""

    def __init__(self, job: ClusterJob, run: Run) -> None:
        self._job, self._run = job, run
        self.classifier = load(job, run.threads)
        self._check_weights(run.weights)
        system, folder = opened(job.output)
        self._parts = Parts(system, folder, job.format, run.identity)
        self._journal = Journal()
        limit = job.options.time_limit
        threading.Thread(target=_watch, args=(self._journal, limit), daemon=True).start()

    def __call__(self, table: Any) -> Any:
        """A row of `reading.part_row` -> a row about the part; the rows themselves are written.

        Raises:
            ResnestError: the part cannot be written, or too many workers have died of it.
        """
        import pyarrow as pa

        begun = time.monotonic()
        part = table["part"][0].as_py()
        names = table["names"][0].as_py()
        info = self._retried(part, "read", lambda: self._parts.info(part, len(names)))
        computed = info is None
        if info is None:
            info = self._computed(part, table, len(names))
        return pa.table(
            {
                "part": [part],
                "inputs": [info.inputs],
                "failures": [json.dumps(info.failures)],
                "computed": [computed],
                "read": [table["seconds"][0].as_py()],
                "seconds": [time.monotonic() - begun],
            }
        )

    def _computed(self, part: int, table: Any, inputs: int) -> PartInfo:
        died = self._retried(part, "written", lambda: self._parts.attempt(part, self._run.id))
        options = self._job.options
        if died:
            options = replace(options, isolate=True)
        with ExitStack() as stack:
            from resnest_cli.inference.run import careful

            prepare = careful(self.classifier, options, Start(journal=self._journal), stack)
            sources = _sources(table, offline=self._job.model.offline)
            data, errors = self._rows(sources, prepare, lambda e: self._info(part, inputs, e))
        self._retried(part, "written", lambda: self._parts.commit(part, data))
        self._retried(part, "written", lambda: self._parts.ended(part))
        return self._info(part, inputs, errors)

    def _info(self, part: int, inputs: int, errors: list[str | None]) -> PartInfo:
        return PartInfo(part, self._run.identity, inputs, counted(errors))

    def _rows(
        self,
        sources: Iterator[Source],
        prepare: Prepare,
        info: Callable[[list[str | None]], PartInfo],
    ) -> tuple[bytes, list[str | None]]:
        """The bytes of a part's file, and the error of each input."""
        job, wanted = self._job, self._job.wanted
        workers = min(job.options.workers, 256)
        how = {"batch_size": job.options.batch_size, "workers": workers, "prepare": prepare}
        if isinstance(wanted, Ranking):
            records = [
                replace(record, model=job.name)
                for record in self.classifier.records(
                    sources,
                    topk=wanted.topk,
                    threshold=wanted.threshold,
                    reject_below=wanted.reject_below,
                    **how,  # type: ignore[arg-type]
                )
            ]
            errors = [record.error for record in records]
            if job.format == "jsonl":
                return lines_file(records), errors
            rejecting = wanted.reject_below > 0
            return records_file(records, info(errors), rejecting=rejecting), errors
        from resnest_cli.features.extract import with_rows
        from resnest_cli.features.formats import Entry, Matrix

        entries = [
            Entry(item.source.name, error, row)
            for group, rows in self.classifier.feature_groups(sources, wanted, **how)  # type: ignore[arg-type]
            for item, error, row in with_rows(group, rows)
        ]
        errors = [entry.error for entry in entries]
        shape = wanted.row_shape(self.classifier.model, self.classifier.preprocessing.size)
        matrix = Matrix(len(entries), len(entries), shape, wanted.dtype)
        return features_file(entries, matrix, info(errors)), errors

    def _retried(self, part: int, what: str, action: Callable[[], Any]) -> Any:
        """A file system far away may fail for a moment."""
        for attempt in range(1, _TRIES + 1):
            try:
                return action()
            except OSError as error:
                if attempt == _TRIES:
                    raise ResnestError(
                        f"{self._parts.path(part)}: cannot be {what}: {one_line(str(error))}"
                    ) from error
                time.sleep(2.0**attempt / 4)
        raise AssertionError

    def _check_weights(self, expected: str) -> None:
        model = self.classifier.model
        if model.sha256() != expected:
            raise CheckpointError(
                f"{model.path}: this node ({os.uname().nodename}) has other weights under this "
                "name than the others. Put the same file on every node, or name one that all can "
                "read."
            )


def load(job: ClusterJob, threads: int) -> "Classifier":
    """The classifier, with so many threads in this process.

    Raises:
        ResnestError: the model, its weights, its labels or the device cannot be had.
    """
    limit_cores(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # Ray has set that to the CPUs of the actor
    return job.build(job.model, job.wanted)


def _sources(table: Any, *, offline: bool) -> Iterator[Source]:
    """What there is to decode, one at a time; nothing is copied before its turn."""
    shards = OpenShards()
    names, data, errors, left = (
        table[column].combine_chunks().values for column in ("names", "data", "errors", "left")
    )
    for place in range(len(names)):
        name = json.loads(names[place].as_py())
        error, later = errors[place].as_py(), left[place].as_py()
        if error is not None:
            yield Source(name, error=error)
        elif later is None:
            yield Source(name, data=data[place].as_py())
        else:
            yield _late(Input(*json.loads(later)), shards, offline=offline)


def _late(item: Input, shards: OpenShards, *, offline: bool) -> Source:
    if item.kind == "file" and not is_address(item.where):
        return Source(item.name, path=item.where)  # read by the threads that decode
    try:
        found = fetched(item, offline=offline, shards=shards)
    except ImageError as error:
        return Source(item.name, error=str(error))
    assert isinstance(found, bytes)
    return Source(item.name, data=found)


def _watch(journal: Journal, limit: float) -> None:
    """Ends this process when a photo has been in its decoder for too long."""
    while True:
        time.sleep(_TICK)
        now = time.monotonic_ns()
        if any(now - since > limit * 1e9 for since in journal.in_flight().values()):
            os.kill(os.getpid(), signal.SIGKILL)
