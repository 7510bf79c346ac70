"""The driver of a job, whoever computes its parts and wherever they go.

    look -> what decides the bytes -> the listing, written or compared -> missing parts -> finish

A part is a fixed slice of the listing: computed whole, and written whole in one step. What is
missing is what has no whole part; so whatever ended an earlier run, the next one goes on.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from resnest_cli.errors import ResnestError
from resnest_cli.images.sources import SourceStats
from resnest_cli.jobs.file_output import FileOutput
from resnest_cli.jobs.folder import FolderOutput
from resnest_cli.jobs.job import Job, Report, as_begun, check_same, say_going_on, summed, without
from resnest_cli.jobs.listing import Chain, Input, check_same_list
from resnest_cli.jobs.parts import Manifest, PartInfo
from resnest_cli.jobs.update import Prune
from resnest_cli.progress import Progress
from resnest_cli.signals import PatientStop

Advance = Callable[[int, int], None]  # so many inputs of no whole part yet, and failed ones of them


Output = FolderOutput | FileOutput  # where the parts of a job go


class Runner(Protocol):
    """Who computes the parts of a job."""

    @property
    def patient(self) -> bool:
        """Whether a signal is answered in `advance`, not at once."""

    def opened(self) -> AbstractContextManager[None]:
        """Connects to what computes."""

    def prepare(self, job: Job, manifest: Manifest | None) -> tuple[Job, dict[str, Any]]:
        """The job with what was left open, and all that decides its bytes beside the inputs."""

    def inputs(self, stats: SourceStats) -> Iterator[Input]:
        """The whole list, in order, from its beginning."""

    def cut(self, inputs: Iterator[Input]) -> tuple[Iterator[Input], int]:
        """The same inputs, and how many a part has."""

    def compute(
        self, manifest: Manifest, missing: list[int], advance: Advance
    ) -> Iterator[PartInfo]:
        """Computes and commits these parts, in any order."""


def run(
    job: Job, target: Output, runner: Runner, progress: Progress,
    *, resume: bool, overwrite: bool, retry: bool = False, update: bool = False,
    prune: Prune | None = None,
) -> Report:  # fmt: skip
    """Computes what is missing of the output, and finishes it.

    `retry` reads failed inputs again; `update` finishes an unfinished output, and then computes
    what is new or changed; `prune` drops photos that are gone, and perhaps whole folders.

    Raises:
        UsageError: the output exists, or was begun with other options or inputs.
        StoppedError: a signal came; whole parts are kept.
        ResnestError: whatever else prevents it; whole parts are kept.
    """
    with target.locked(), PatientStop():
        before = target.look(resume=resume or retry or update, overwrite=overwrite)
        job = as_begun(job, before.identity if before else None)
        # What connects may set handlers of its own: ours are set again behind it.
        with runner.opened(), PatientStop() as stopping:
            job, identity = runner.prepare(job, before)

            def computed(manifest: Manifest) -> Report:
                return carried_on(manifest, target, runner, progress, stopping)

            if before is None:
                return computed(begun(job, identity, target, runner))
            if not before.part_size:
                before = replace(before, part_size=runner.cut(iter(()))[1])
            check(job, identity, before, target, runner, update=update)
            if retry:
                listed = listing(job, runner, Chain(), SourceStats())
                before = target.retry(before, identity, listed)
            report = None if update and before.finished else computed(before)
            if not update:
                assert report is not None
                return report
            assert isinstance(target, FileOutput)
            size = before.part_size
            manifest = target.update(identity, runner.inputs, size, prune=prune)
            # One that finds nothing to do says what this start has done.
            return report if report and manifest.finished else computed(manifest)


def listing(job: Job, runner: Runner, chain: Chain, stats: SourceStats) -> Iterator[Input]:
    """Our inputs; the whole list passes through the chain."""
    return job.shard.own(chain(runner.inputs(stats)), job.options.batch_size)


def begun(job: Job, identity: dict[str, Any], target: Output, runner: Runner) -> Manifest:
    """Writes the listing down, and notes what is begun."""
    stats, chain = SourceStats(), Chain()
    inputs, size = runner.cut(listing(job, runner, chain, stats))
    count = target.write_listing(inputs, size)
    if not chain.count:
        target.clear()
        raise ResnestError("no photo found in what was named.")
    manifest = Manifest(identity, chain.mark, size, stats.skipped, count)
    target.begin(manifest)
    return manifest


def check(
    job: Job,
    identity: dict[str, Any],
    manifest: Manifest,
    target: Output,
    runner: Runner,
    *,
    update: bool,
) -> None:
    """Whether what was begun is what is asked for now; UsageError if not."""
    # Outputs of earlier versions do not name their classes, which come with the weights.
    passed = ["class_names"]
    if manifest.finished:
        passed += ["versions"] if update else ["versions", "engine"]
    check_same(job.output, *(without(one, *passed) for one in (manifest.identity, identity)))
    if not update:  # which takes any list
        chain = Chain()
        inputs = listing(job, runner, chain, SourceStats())
        check_same_list(job.output, inputs, target.names(manifest), manifest.listing, chain)


def carried_on(
    manifest: Manifest, target: Output, runner: Runner, progress: Progress, stopping: PatientStop
) -> Report:
    """Computes the missing parts of what was begun, and finishes it."""
    report = Report(skipped=manifest.skipped)
    parts = {} if manifest.finished else {p.part: p for p in target.whole_parts(manifest)}
    done = sum(part.inputs for part in parts.values())
    failed = sum(part.failed for part in parts.values())
    missing = [] if manifest.finished else sorted({*range(len(manifest.sizes))} - parts.keys())
    if missing:
        shown = done
        say_going_on(done, failed)
        progress(done, manifest.inputs, failed=failed)

        def advance(inputs: int, of_them_failed: int) -> None:
            nonlocal shown
            shown = max(shown, done + inputs)
            progress(shown, manifest.inputs, failed=failed + of_them_failed)
            if stopping.patient:
                stopping.check()

        start, stopping.patient = time.monotonic(), runner.patient
        try:
            for info in runner.compute(manifest, missing, advance):
                parts[info.part] = info
                done, failed = done + info.inputs, failed + info.failed
                report.computed += 1
                report.photos += info.inputs
                for step, seconds in info.seconds.items():
                    report.add(step, seconds)
                advance(0, 0)
        finally:
            report.elapsed += time.monotonic() - start
    report.parts = len(parts)
    report.failures = summed(part.failures for part in parts.values())
    stopping.check()
    if manifest.finished:
        report.info = target.finish(manifest, report)
    else:
        with report.writing():
            report.info = target.finish(manifest, report)
    return report
