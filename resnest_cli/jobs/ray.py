"""A run on Ray: a listing, what is missing of its parts, and the summary.

The parts are the memory of a run. Whatever has ended an earlier one, the parts that are whole are
left out before anything of them is read, and the others are computed.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain, islice
from typing import Any, cast

from resnest_cli import output
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images.sources import SourceStats
from resnest_cli.inference.extraction import Extraction
from resnest_cli.jobs.filesystems import is_address
from resnest_cli.jobs.inputs import iter_inputs, looked_into
from resnest_cli.jobs.job import (
    ClusterJob,
    PartFormat,
    Ranking,
    Report,
    as_begun,
    carry_out,
    check_same,
    go_on,
    portable,
    say_going_on,
    summed,
    without,
)
from resnest_cli.jobs.listing import Chain, Input
from resnest_cli.jobs.ray_cluster import (
    READ_CPUS,
    NodesLostError,
    Pool,
    Workers,
    connected,
    in_tasks,
    nodes,
    on_a_worker,
    ours,
    pool_for,
)
from resnest_cli.jobs.ray_output import Manifest, Output, PartInfo
from resnest_cli.jobs.ray_worker import Run, found
from resnest_cli.options import AUTO, ModelOptions, RayOptions, RunOptions
from resnest_cli.progress import Progress
from resnest_cli.signals import PatientStop

MOST_INPUTS = 1024  # of a part
LEAST_INPUTS = 32
ALL_CORES = -1  # as many decoding threads as a worker has cores

_MOST_BYTES = 64 * 2**20  # of a part's rows
_PARTS_EACH = 4  # for a worker, where there are few inputs
_LOOKED_AT = 65_536  # inputs at most that are held to see whether they are few
_MOST_LOOKED_AT = 64  # shards; the names in each are held
_ROUNDS = 5  # in a row without a part


def run_command(
    options: RunOptions,
    model: ModelOptions,
    ray: RayOptions,
    wanted: Extraction | Ranking,
    output_: str | None,
    *,
    format_: str | None = None,
    resume: bool,
    overwrite: bool,
    retry: bool = False,
) -> None:
    """Runs `features` or `predict` on Ray and says how it went.

    Raises:
        UsageError: there is no folder to write to, or the options do not go together.
        ResnestError: Ray is missing, or whatever else prevents it.
        SystemExit: with 3 if an input failed, with 128 + n after signal n.
    """
    if output_ is None or output_ == "-":
        raise UsageError("name the folder to write with -o: --runner ray writes many files.")
    if format_ not in {None, "parquet", "jsonl"}:
        raise UsageError(f"--format {format_} is for --runner local; Ray's are parquet and jsonl.")
    if options.batch_size == AUTO:
        raise UsageError("--batch-size auto is for --runner local: nodes differ. Name a size.")
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise ResnestError('--runner ray needs Ray. Run: pip install "resnest-cli[ray]"')
    job = ClusterJob(
        output=output_,
        options=options,
        model=model,
        wanted=wanted,
        name=model.model,
        format=cast("PartFormat", format_ or "parquet"),
        path_column=ray.path_column or "path",
        address=ray.ray_address,
        gpus=ray.gpus_per_worker,
        concurrency=ray.concurrency,
        go_on=go_on("predict" if isinstance(wanted, Ranking) else "features"),
    )
    how = {"resume": resume, "overwrite": overwrite, "retry": retry}
    carry_out(
        lambda progress: run(job, progress, **how, debug=output.debug_wanted()),
        job.go_on,
        lambda report: summary_of(job, report),
    )


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
    target = Output(job.output, job.format)
    before = target.look(resume=resume or retry, overwrite=overwrite)
    if not is_address(job.output):
        job = replace(job, output=target.folder)
    job = as_begun(replace(job, model=portable(job.model)), before.identity if before else None)
    # Ray sets handlers of its own when it connects: ours are set again behind it.
    with target.locked(), PatientStop():
        begun = time.monotonic()
        with connected(job.address, debug=debug), PatientStop():
            running = _Run(job, target, progress, before)
            running.find(retry=retry)
            running.compute()
        return running.report(time.monotonic() - begun)


class _Run:
    """What the steps of a run share; `before` is what an earlier one was begun with."""

    def __init__(
        self, job: ClusterJob, target: Output, progress: Progress, before: Manifest | None
    ) -> None:
        self._job, self._target, self._progress = job, target, progress
        self._parts: dict[int, PartInfo] = {}  # whole ones
        self._done = self._failed = 0  # inputs of these
        self._computed = self._photos = 0  # parts and inputs of this run
        self._seconds = {"computing": 0.0, "workers": 0.0, "reading": 0.0}
        self._pool = self._find_pool()
        self._manifest = self._prepared(before)

    def _note(self, info: PartInfo) -> None:
        self._parts[info.part] = info
        self._done += info.inputs
        self._failed += info.failed

    def _find_pool(self) -> Pool:
        model = self._job.model
        return pool_for(
            list(nodes().values()),
            gpus=self._job.gpus,
            concurrency=self._job.concurrency,
            cpu_only=model.device == "cpu" or model.engine == "onnx",
        )

    def _prepared(self, before: Manifest | None) -> Manifest:
        """What is begun, or was."""
        if not self._pool.gpus and self._job.model.device == "auto":
            self._job = replace(self._job, model=replace(self._job.model, device="cpu"))
        identity, row_bytes = on_a_worker(self._pool, found, self._job, self._pool.threads)
        engine = identity["engine"]["engine"]
        self._job = replace(self._job, model=replace(self._job.model, engine=engine))
        if before is None:
            return self._begun(identity, row_bytes)
        # To a finished run, engine and versions do not matter.
        passed = ("engine", "versions") if self._target.summary() is not None else ()
        then, now = (without(one, *passed) for one in (before.identity, identity))
        check_same(self._job.output, then, now)
        names = Chain()
        for _ in names(inputs_of(self._job, SourceStats())):
            pass
        then, now = ({"list": mark.about} for mark in (before.listing, names.mark))
        check_same(self._job.output, then, now)
        return before

    def _begun(self, identity: dict[str, Any], row_bytes: int) -> Manifest:
        self._target.clear()
        stats = SourceStats()
        inputs = inputs_of(self._job, stats)
        few = min(_LOOKED_AT, MOST_INPUTS * _PARTS_EACH * self._pool.size)
        head = list(islice(inputs, few))
        size = part_size_for(
            len(head) if len(head) < few else None,
            workers=self._pool.size,
            batch_size=self._job.options.batch_size,
            row_bytes=row_bytes,
        )
        listing = self._target.list_inputs(chain(head, inputs), size)
        if not listing.listed:
            self._target.clear()
            raise ResnestError("no photo found in what was named.")
        manifest = Manifest(identity, listing, size, stats.skipped)
        self._target.begin(manifest)
        return manifest

    def find(self, *, retry: bool) -> None:
        """The parts that are whole; with `retry`, those with failures are removed."""
        there = self._target.whole_parts(self._manifest.sizes)
        if retry:
            self._target.drop(info.part for info in there if info.failed)
        for info in there:
            if not (retry and info.failed):
                self._note(info)

    def compute(self) -> None:
        """Rounds over what is missing, until nothing is."""
        rounds = _ROUNDS
        while missing := [n for n in range(len(self._manifest.sizes)) if n not in self._parts]:
            computed = self._computed
            try:
                self._round(missing)
            except NodesLostError:
                output.message("A node is gone: going on without it.")
                self._pool = self._find_pool()
            rounds = _ROUNDS if self._computed > computed else rounds - 1
            if not rounds:
                raise ResnestError(f"the cluster loses its nodes. Go on with:\n  {self._job.go_on}")

    def _round(self, missing: list[int]) -> None:
        job, manifest, threads = self._job, self._manifest, self._pool.threads
        if job.options.workers < 0:
            job = replace(job, options=replace(job.options, workers=threads))
        weights = manifest.identity["weights_sha256"]
        run = Run(manifest.hash, weights, threads)
        total = manifest.listing.listed
        say_going_on(self._done, self._failed)
        self._progress(self._done, total, failed=self._failed)
        begun = time.monotonic()
        try:
            with closing(Workers(job, run, self._pool, missing).computed()) as computed:
                for info, reading, working in computed:
                    self._note(info)
                    self._computed += 1
                    self._photos += info.inputs
                    self._seconds["workers"] += working
                    self._seconds["reading"] += reading
                    self._progress(self._done, total, failed=self._failed)
        finally:
            self._seconds["computing"] += time.monotonic() - begun

    def report(self, seconds: float) -> Report:
        """Writes the summary, unless a finished run has nothing to add to its own."""
        old = self._target.summary()
        skipped = self._manifest.skipped
        if old is not None and not self._computed:
            return Report(old, old["failures"], skipped=skipped, finished_before=True)
        done, failed = self._done, self._failed
        failures = summed(part.failures for part in self._parts.values())
        elapsed = self._seconds["computing"]
        summary = {
            **self._manifest.identity,
            "list": self._manifest.listing.about,
            "counts": {"inputs": done, "rows": done - failed, "failed": failed},
            "failures": failures,
            "parts": {
                "size": self._manifest.part_size,
                "computed": self._computed,
                "found": len(self._parts) - self._computed,
            },
            "seconds": {"total": seconds, **self._seconds},
            "photos": self._photos,
            "photos_per_second": self._photos / max(elapsed, 1e-9),
        }
        self._target.finish(summary)
        return Report(summary, failures, photos=self._photos, elapsed=elapsed, skipped=skipped)


def inputs_of(job: ClusterJob, stats: SourceStats) -> Iterator[Input]:
    """What was named. Of several nodes all look into shards: far away these are read whole."""
    from ray.exceptions import RayError

    there = nodes().values()
    how: dict[str, Any] = {}
    if len(there) > 1:
        cores = sum(node.get("CPU", 0) for node in there)
        how["at_once"] = min(_MOST_LOOKED_AT, max(1, int(cores / READ_CPUS)))
        how["look"] = in_tasks(looked_into)
    try:
        yield from iter_inputs(job.options, job.path_column, stats, **how)
    except RayError as error:
        raise ours(error) from error


def part_size_for(inputs: int | None, *, workers: int, batch_size: int, row_bytes: int) -> int:
    """How many inputs a part has: whole batches, several parts for each worker, rows that fit.

    `inputs` is None where there are many.
    """
    size = min(MOST_INPUTS, _MOST_BYTES // row_bytes)
    if inputs is not None:
        size = min(size, max(LEAST_INPUTS, inputs // (_PARTS_EACH * workers)))
    return max(1, -(-size // batch_size)) * batch_size


def summary_of(job: ClusterJob, report: Report) -> str:
    """The summary of a run, for people."""
    info = report.info
    parts, inputs = info["parts"], info["counts"]["inputs"]
    found = f", {parts['found']:,} of them found" if parts["found"] else ""
    count = parts["computed"] + parts["found"]
    return report.text(
        "" if report.finished_before else f"{info['seconds']['total']:.1f} s in all",
        "their rows say",
        f"{job.output}: {inputs:,} rows in {count:,} part(s){found}",
    )
