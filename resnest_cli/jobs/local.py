"""`features` on this machine: rows -> parts -> output, whatever is there and whatever comes up.

The working process first sends what decides the bytes of the output; an unfinished run must have
been begun with the same.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from resnest_cli import output
from resnest_cli.errors import ResnestError, UsageError, cannot_write
from resnest_cli.jobs.assemble import from_parts, retried
from resnest_cli.jobs.formats import identity_of
from resnest_cli.jobs.job import (
    Ending,
    FeaturesJob,
    Item,
    Mark,
    Results,
    Todo,
    as_begun,
    check_same,
    without,
)
from resnest_cli.jobs.listing import Counting
from resnest_cli.jobs.parts import PartWriter, State, Store, discard, look
from resnest_cli.jobs.predict import classifier, reads_stdin, replayed_stdin
from resnest_cli.jobs.report import Progress, Report, summed
from resnest_cli.options import AUTO
from resnest_cli.signals import PatientStop, leave_to_parent
from resnest_cli.supervise import Replay, Start, supervised

Work = Callable[[FeaturesJob, Todo], Results]

_stdin: list[Replay | None] = []  # made once: it is read again by every working process


def run(
    job: FeaturesJob,
    work: Work,
    progress: Progress,
    *,
    resume: bool,
    overwrite: bool,
    retry: bool,
    find_batch_size: Callable[[FeaturesJob], int] | None = None,
) -> Report:
    """Computes what is missing of the output, and writes it. `retry` includes `resume`.

    `work` starts the working process and gives what that sends. `find_batch_size` tries out which
    is best, where the job has `AUTO`.

    Raises:
        UsageError: the output exists, or was begun with other options or inputs.
        InterruptedRunError: a signal came; the batch in hand is done and kept.
        ResnestError: whatever else prevents it; finished parts are kept.
    """
    state = look(job.target, resume=resume or retry, overwrite=overwrite)
    if job.options.batch_size == AUTO and find_batch_size is not None and not state.identity:
        job = replace(job, options=replace(job.options, batch_size=find_batch_size(job)))
    running = _Run(as_begun(job, state.identity), work, progress, Report(damaged=state.damaged))
    if state.info is None:
        begun = state.store is not None and state.store.inputs > state.store.rows
        running.extract(state.store)
        if not (retry and begun):
            return running.report
        state = State(info=running.report.info)  # rows that had failed before this start
        running.report = Report(skipped=running.report.skipped, damaged=running.report.damaged)
    assert state.info is not None
    if state.store is not None or (retry and state.info["counts"]["failed"]):
        running.retry(state.store, state.info)
    else:
        running.verify(state.info, finished_before=not state.published)
    return running.report


class _Run:
    """What the steps of a run share."""

    def __init__(self, job: FeaturesJob, work: Work, progress: Progress, report: Report) -> None:
        self._job, self._work, self._progress, self.report = job, work, progress, report

    def verify(self, info: dict[str, Any], *, finished_before: bool) -> None:
        """All is finished: was it made of the same? Engine and versions do not matter any more."""

        def asked_for(identity: dict[str, Any]) -> dict[str, Any]:
            return without(identity_of(identity), "engine", "versions")

        mark = Mark(info["list"]["inputs"], info["list"]["sha256"])
        results = self._work(self._job, Todo(marks=(mark,), verify=True))
        with PatientStop():
            self._opened(results, asked_for(info), asked_for)
            _ended(results)
        self.report.info, self.report.finished_before = info, finished_before

    def extract(self, store: Store | None) -> None:
        """A run from its beginning, or from where it was interrupted."""
        # The last part may have no inputs and repeat the mark before.
        marks = tuple(dict.fromkeys(part.mark for part in store.parts)) if store else ()
        done = store.inputs if store else 0
        complete = store is not None and store.complete
        last = marks[-1].listed if complete else None
        todo = Todo(0 if complete else done, marks, last=last, verify=complete)
        results = self._work(self._job, todo)
        with PatientStop() as stopping:
            identity = self._opened(results, store.identity if store else None)
            if store is not None and complete:
                _ended(results)
            else:
                with self._writing(store):
                    store = store or Store.create(self._job.target, "run", identity)
                counting = partial(Counting, self._job)
                self._progress.begin(done, done - store.rows, None, counting)
                ending = self._collect(results, store, stopping)
                if ending.mark.listed == 0:
                    discard(store.folder)
                    raise ResnestError("no photo found in what was named.")
            stopping.check()
            with self._writing(store), self.report.writing():
                self.report.info = from_parts(store, self._job.target)
        self.report.failures = summed(part.failures for part in store.parts)
        self.report.skipped = store.parts[-1].skipped

    def retry(self, store: Store | None, old: dict[str, Any]) -> None:
        """The failed rows of a finished output once more."""
        target = self._job.target
        done = store.inputs if store else 0
        complete = store is not None and store.complete
        mark = Mark(old["list"]["inputs"], old["list"]["sha256"])
        lines = target.with_suffix(".csv")
        todo = Todo(done=done, marks=(mark,), retry=lines, verify=complete)
        results = self._work(self._job, todo)
        with PatientStop() as stopping:
            identity = self._opened(results, identity_of(old))
            if store is not None and complete:
                _ended(results)
            else:
                with self._writing(store):
                    store = store or Store.create(target, "retry", identity)
                self._progress.begin(done, done - store.rows, old["counts"]["failed"])
                self._collect(results, store, stopping)
            stopping.check()
            with self._writing(store), self.report.writing():
                self.report.info = retried(store, target, old)
        self.report.failures = summed(part.failures for part in store.parts)

    def _collect(self, results: Results, store: Store, stopping: PatientStop) -> Ending:
        """Writes what comes, to the end; all that is done is committed however it ends."""
        report = self.report
        before = done = store.inputs
        failed = done - store.rows
        start = time.monotonic()
        writer = PartWriter(store)
        stopping.patient = True
        try:
            while not isinstance(item := _next(results), Ending):
                assert isinstance(item, Item)
                with self._writing(store):
                    writer.add(item)
                    if item.mark is not None:
                        writer.reached(item.mark, commit=stopping.requested is not None)
                done, failed = done + 1, failed + (item.error is not None)
                for step, seconds in (item.seconds or {}).items():
                    report.add(step, seconds)
                self._progress.update(done, failed)
                if item.mark is not None:
                    stopping.check()
            with self._writing(store):
                writer.finish(item.mark, item.skipped)
        except BaseException as error:
            if not isinstance(error, _DiskError):
                with self._writing(store):
                    writer.salvage()
            stopping.check()  # a signal to all our processes may look like a crash
            raise
        finally:
            results.close()
            writer.close()
            report.photos += done - before
            report.elapsed += time.monotonic() - start
            report.add("write", writer.seconds)
        return item

    @contextmanager
    def _writing(self, store: Store | None) -> Iterator[None]:
        """Says what is kept where the disk is full or fails."""
        try:
            yield
        except OSError as error:
            text = cannot_write(self._job.target, error)
            if store is not None:
                text += f" {store.inputs:,} inputs are done and kept in {store.folder}. "
                text += f"Go on with:\n  {self._job.go_on}"
            raise _DiskError(text) from error

    def _opened(
        self,
        results: Results,
        then: dict[str, Any] | None,
        part: Callable[[dict[str, Any]], dict[str, Any]] = lambda identity: identity,
    ) -> dict[str, Any]:
        """What the working process says of itself, which must be what an earlier run has said."""
        identity = next(results)
        assert isinstance(identity, dict)
        if then is not None:
            try:
                check_same(self._job.target, then, part(identity))
            except UsageError:
                results.close()
                raise
        return identity


class _DiskError(ResnestError):
    """The output cannot be written."""


def _next(results: Results) -> dict[str, Any] | Item | Ending:
    """What comes next; the end is what the generator returns."""
    try:
        return next(results)
    except StopIteration as end:
        ending: Ending = end.value
        return ending


def _ended(results: Results) -> None:
    """Runs a working process to its end, which has nothing to compute."""
    ending = _next(results)
    assert isinstance(ending, Ending), ending


def start(job: FeaturesJob, todo: Todo) -> Results:
    """Starts the working process; what it sends."""
    if reads_stdin(job.options) and not _stdin:
        _stdin.append(replayed_stdin())
    return supervised(partial(_work, job, todo), time_limit=job.options.time_limit)


def _work(job: FeaturesJob, todo: Todo, begin: Start) -> Results:
    """In the working process."""
    if begin.journal is not None:  # a signal to all our processes is for the caller to answer
        leave_to_parent()
    from resnest_cli.jobs.compute import extract

    output.set_quiet(job.quiet)
    found = classifier(job.model, ready_for=job.extraction.output)
    return (yield from extract(found, job, todo, begin, _stdin[0] if _stdin else None))


def find_batch_size(job: FeaturesJob) -> int:
    """What `--batch-size auto` comes to; in a process of its own, which the run outlives."""
    (found,) = supervised(partial(_find_batch_size, job), time_limit=job.options.time_limit)
    return found


def _find_batch_size(job: FeaturesJob, _begin: Start) -> Generator[int, None, None]:
    from resnest_cli.inference.run import batch_size_for

    output.set_quiet(job.quiet)
    wanted = job.extraction.output
    yield batch_size_for(classifier(job.model, ready_for=wanted), wanted, AUTO)


def close() -> None:
    """Lets go of what was read of stdin."""
    while _stdin:
        stream = _stdin.pop()
        if stream is not None:
            with suppress(OSError):
                stream.close()


def summary_of(job: FeaturesJob, report: Report) -> str:
    """The summary of a run, for people."""
    counts, extraction = report.info["counts"], report.info["extraction"]
    steps = ("read", "decode", "network", "write")
    times = ", ".join(f"{step} {report.seconds.get(step, 0.0):.1f} s" for step in steps)
    return report.text(
        times if report.photos else "",
        f"{job.target.with_suffix('.csv')} says",
        f"{job.target}: {extraction['dtype']} {(counts['rows'], *extraction['row_shape'])}",
    )
