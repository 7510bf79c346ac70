"""A whole run: a listing, what is missing of its parts, and the summary.

The parts are the memory of a run. Whatever has ended an earlier one, the parts that are whole are
left out before anything of them is read, and the others are computed.
"""

import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from typing import Any, Protocol

from resnest_cli.cluster import identity
from resnest_cli.cluster.batch import Run
from resnest_cli.cluster.filesystems import is_address
from resnest_cli.cluster.identity import Found
from resnest_cli.cluster.inputs import Input, Looking, iter_inputs, looked_into
from resnest_cli.cluster.job import ClusterJob, portable
from resnest_cli.cluster.listing import Chain, parts_of
from resnest_cli.cluster.machines import (
    READ_CPUS,
    Pool,
    connected,
    in_tasks,
    nodes,
    on_a_worker,
    ours,
    pool_for,
)
from resnest_cli.cluster.pipeline import NodesLostError, streamed
from resnest_cli.cluster.rows import PartInfo
from resnest_cli.cluster.target import Manifest, Target
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.features.differences import differences
from resnest_cli.features.session import DEFAULT_BATCH_SIZE
from resnest_cli.images.sources import SourceStats
from resnest_cli.signals import PatientStop

MOST_INPUTS = 1024  # of a part
LEAST_INPUTS = 32
_MOST_BYTES = 64 * 2**20  # of a part's rows
_PARTS_EACH = 4  # for a worker, where there are few inputs
_LOOKED_AT = 65_536  # inputs at most that are held to see whether they are few
_MOST_LOOKED_AT = 64  # shards; the names in each are held
_ROUNDS = 5  # in a row without a part


class Progress(Protocol):
    """Is told how far a run has come."""

    def begin(self, done: int, failed: int, total: int) -> None:
        """A run over `total` inputs begins, or goes on after so many of them."""

    def update(self, done: int, failed: int) -> None:
        """So many inputs are done, so many of them failed."""

    def tell(self, text: str) -> None:
        """Something that a user should know."""


@dataclass(slots=True)
class Report:
    """How a run ended: `summary` is `_summary.json`; `skipped` counts files that are no images."""

    summary: dict[str, Any]
    skipped: int = 0
    finished_before: bool = False


def run(
    job: ClusterJob,
    progress: Progress,
    *,
    resume: bool,
    overwrite: bool,
    retry: bool,
    debug: bool = False,
) -> Report:
    """Computes what is missing of the output. `retry` includes `resume`.

    Raises:
        UsageError: the output exists, or was begun with other options or inputs.
        InterruptedRunError: a signal came; whole parts are kept.
        ResnestError: whatever else prevents it; whole parts are kept.
    """
    target = Target(job.output)
    before = target.look(resume=resume or retry, overwrite=overwrite)
    if not is_address(job.output):
        job = replace(job, output=target.folder)
    job = _kept(replace(job, model=portable(job.model)), before)
    # Ray sets handlers of its own when it connects: `_Session.run` sets ours again.
    with target.locked(), PatientStop():
        return _Session(job, target, progress, retry=retry, debug=debug).run(before)


def _kept(job: ClusterJob, manifest: Manifest | None) -> ClusterJob:
    """The job with what was left open (a batch size of 0, `--engine auto`) as it was begun."""
    engine = manifest.identity["engine"] if manifest else {}
    options, model = job.options, job.model
    if not options.batch_size:
        options = replace(options, batch_size=engine.get("batch_size", DEFAULT_BATCH_SIZE))
    if model.engine == "auto" and engine:
        model = replace(model, engine=engine["engine"])
    return replace(job, options=options, model=model)


class _Session:
    """What the steps of a run share."""

    def __init__(
        self, job: ClusterJob, target: Target, progress: Progress, *, retry: bool, debug: bool
    ) -> None:
        self._job, self._target, self._progress = job, target, progress
        self._retry, self._debug = retry, debug
        self._parts: dict[int, PartInfo] = {}  # whole ones
        self._done = self._failed = 0  # inputs of these
        self._computed = self._photos = 0  # parts and inputs of this run
        self._seconds = {"computing": 0.0, "workers": 0.0, "reading": 0.0}

    def run(self, before: Manifest | None) -> Report:
        """The whole run; `before` is what an earlier one was begun with."""
        begun = time.monotonic()
        with connected(self._job, debug=self._debug), PatientStop():
            pool = self._pool()
            manifest = self._prepared(pool, before)
            rounds = _ROUNDS
            while self._missing(manifest):
                computed = self._computed
                try:
                    self._compute(manifest, pool)
                except NodesLostError:
                    self._progress.tell("A node is gone: going on without it.")
                    pool = self._pool()
                rounds = _ROUNDS if self._computed > computed else rounds - 1
                if not rounds:
                    raise ResnestError(
                        f"the cluster loses its nodes. Go on with:\n  {self._job.go_on}"
                    )
        return self._report(manifest, time.monotonic() - begun)

    def _pool(self) -> Pool:
        job = self._job
        return pool_for(
            list(nodes().values()),
            gpus=job.gpus,
            concurrency=job.concurrency,
            cpu_only=job.model.device == "cpu" or job.model.engine == "onnx",
        )

    def _prepared(self, pool: Pool, before: Manifest | None) -> Manifest:
        """What is begun, or was; finds the parts that are whole.

        Raises:
            UsageError: an earlier run was begun with something else.
        """
        if not pool.gpus and self._job.model.device == "auto":
            self._job = replace(self._job, model=replace(self._job.model, device="cpu"))
        found = on_a_worker(pool, identity.found, self._job, pool.threads)
        engine = found.identity["engine"]["engine"]
        self._job = replace(self._job, model=replace(self._job.model, engine=engine))
        if before is None:
            return self._begun(pool, found)
        self._check(before, found)
        self._find(before)
        return before

    def _begun(self, pool: Pool, found: Found) -> Manifest:
        self._target.clear()
        stats = SourceStats()
        inputs = self._inputs(stats)
        few = min(_LOOKED_AT, MOST_INPUTS * _PARTS_EACH * pool.size)
        head = list(islice(inputs, few))
        size = part_size_for(
            len(head) if len(head) < few else None,
            workers=pool.size,
            batch_size=self._job.options.batch_size,
            row_bytes=found.row_bytes,
        )
        listing = self._target.list_inputs(chain(head, inputs), size)
        if not listing.inputs:
            self._target.clear()
            raise ResnestError("no photo found in what was named.")
        manifest = Manifest(found.identity, listing, size, stats.skipped)
        self._target.begin(manifest)
        return manifest

    def _inputs(self, stats: SourceStats) -> Iterator[Input]:
        """What was named. Of several nodes all look into shards: far away these are read whole.

        Raises:
            UsageError: a list cannot be read.
            ResnestError: no node can look into a shard.
        """
        from ray.exceptions import RayError

        there = nodes().values()
        looking = None
        if len(there) > 1:
            cores = sum(node.get("CPU", 0) for node in there)
            at_once = min(_MOST_LOOKED_AT, max(1, int(cores / READ_CPUS)))
            looking = Looking(in_tasks(looked_into), at_once)
        try:
            yield from iter_inputs(self._job.options, self._job.path_column, stats, looking)
        except RayError as error:
            raise ours(error) from error

    def _check(self, before: Manifest, found: Found) -> None:
        """Is it the run that was begun? To a finished one, engine and versions do not matter."""
        passed = {"engine", "versions"} if self._target.summary() is not None else set()
        then, now = (
            {k: v for k, v in told.items() if k not in passed}
            for told in (before.identity, found.identity)
        )
        wrong = differences(then, now)
        if not wrong:
            names = Chain()
            for _ in names(self._inputs(SourceStats())):
                pass
            wrong = differences({"list": asdict(before.listing)}, {"list": asdict(names.listing)})
        if wrong:
            raise UsageError(
                f"{self._job.output} was begun with something else: {wrong}. Use the same, another "
                "-o, or --overwrite to start afresh."
            )

    def _find(self, manifest: Manifest) -> None:
        """The parts that are whole; with `retry`, those with failures are removed.

        Raises:
            ResnestError: the output cannot be read.
        """
        there = self._target.whole_parts(manifest, self._job.format)
        if self._retry:
            failed = [info.part for info in there if info.failed]
            self._target.drop(failed, manifest, self._job.format)
            there = [info for info in there if not info.failed]
        for info in there:
            self._note(info)

    def _note(self, info: PartInfo) -> None:
        self._parts[info.part] = info
        self._done += info.inputs
        self._failed += info.failed

    def _missing(self, manifest: Manifest) -> list[int]:
        count = parts_of(manifest.listing.inputs, manifest.part_size)
        return [part for part in range(count) if part not in self._parts]

    def _compute(self, manifest: Manifest, pool: Pool) -> None:
        """One round over what is missing.

        Raises:
            NodesLostError: there must be another one.
        """
        job = self._job
        if job.options.workers < 0:
            job = replace(job, options=replace(job.options, workers=pool.threads))
        run = Run(
            secrets.token_hex(8),
            manifest.hash,
            manifest.identity["weights_sha256"],
            pool.threads,
        )
        self._progress.begin(self._done, self._failed, manifest.listing.inputs)
        begun = time.monotonic()
        try:
            for part in streamed(job, run, pool, self._missing(manifest)):
                self._note(PartInfo(part.part, run.identity, part.inputs, part.failures))
                self._computed += 1
                self._photos += part.inputs
                self._seconds["workers"] += part.seconds
                self._seconds["reading"] += part.read
                self._progress.update(self._done, self._failed)
        finally:
            self._seconds["computing"] += time.monotonic() - begun

    def _report(self, manifest: Manifest, seconds: float) -> Report:
        """Writes the summary, unless a finished run has nothing to add to its own."""
        old = self._target.summary()
        if old is not None and not self._computed:
            return Report(old, manifest.skipped, finished_before=True)
        done, failed = self._done, self._failed
        failures: dict[str, int] = {}
        for part in self._parts.values():
            for kind, count in part.failures.items():
                failures[kind] = failures.get(kind, 0) + count
        speed = self._photos / max(self._seconds["computing"], 1e-9)
        summary = {
            **manifest.identity,
            "list": asdict(manifest.listing),
            "counts": {"inputs": done, "rows": done - failed, "failed": failed},
            "failures": failures,
            "parts": {
                "size": manifest.part_size,
                "computed": self._computed,
                "found": len(self._parts) - self._computed,
            },
            "seconds": {"total": seconds, **self._seconds},
            "photos": self._photos,
            "photos_per_second": speed,
        }
        self._target.finish(summary)
        return Report(summary, manifest.skipped)


def part_size_for(inputs: int | None, *, workers: int, batch_size: int, row_bytes: int) -> int:
    """How many inputs a part has: whole batches, several parts for each worker, rows that fit.

    `inputs` is None where there are many.
    """
    size = min(MOST_INPUTS, _MOST_BYTES // row_bytes)
    if inputs is not None:
        size = min(size, max(LEAST_INPUTS, inputs // (_PARTS_EACH * workers)))
    return max(1, -(-size // batch_size)) * batch_size
