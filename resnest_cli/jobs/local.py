"""`features` on this machine: rows -> parts -> output, whatever is there and whatever comes up.

The working process first sends what decides the bytes of the output; an unfinished run must have
been begun with the same.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from resnest_cli import output
from resnest_cli.errors import ResnestError, UsageError, cannot_write
from resnest_cli.images.sources import iter_sources
from resnest_cli.jobs.assemble import from_parts, retried
from resnest_cli.jobs.job import (
    Ending,
    FeaturesJob,
    Item,
    Report,
    Results,
    Todo,
    as_begun,
    carry_out,
    check_same,
    say_going_on,
    summed,
    without,
)
from resnest_cli.jobs.listing import Mark
from resnest_cli.jobs.parts import PartWriter, State, Store, discard, look
from resnest_cli.jobs.predict import classifier, reads_stdin, replayed_stdin
from resnest_cli.options import AUTO
from resnest_cli.progress import Progress, silent
from resnest_cli.signals import PatientStop, leave_to_parent
from resnest_cli.supervise import Replay, Start, supervised

Work = Callable[[FeaturesJob, Todo], Results]
Total = Callable[[], int | None]


def run_command(job: FeaturesJob, *, resume: bool, overwrite: bool, retry: bool) -> None:
    """Runs `features` and says how it went; see `run` and `carry_out`."""
    stdin = replayed_stdin() if reads_stdin(job.options) else None
    how = {"resume": resume, "overwrite": overwrite, "retry": retry}
    carry_out(
        lambda progress: run(job, partial(_start, stdin), progress, **how),
        job.go_on,
        lambda report: _summary_of(job, report),
    )


def _start(stdin: Replay | None, job: FeaturesJob, todo: Todo) -> Results:
    """Starts the working process; what it sends."""
    return supervised(partial(_work, stdin, job, todo), time_limit=job.options.time_limit)


def _work(stdin: Replay | None, job: FeaturesJob, todo: Todo, begin: Start) -> Results:
    """In the working process."""
    if begin.journal is not None:  # a signal to all our processes is for the caller to answer
        leave_to_parent()
    from resnest_cli.jobs.extract import extract

    output.set_quiet(job.quiet)
    found = classifier(job.model, ready_for=job.extraction.output)
    return (yield from extract(found, job, todo, begin, stdin))


def _find_batch_size(job: FeaturesJob, _begin: Start) -> Generator[int, None, None]:
    """What `--batch-size auto` comes to; in a process of its own, which the run outlives."""
    from resnest_cli.inference.run import batch_size_for

    output.set_quiet(job.quiet)
    wanted = job.extraction.output
    yield batch_size_for(classifier(job.model, ready_for=wanted), wanted, AUTO)


def run(
    job: FeaturesJob, work: Work, progress: Progress,
    *, resume: bool, overwrite: bool, retry: bool,
) -> Report:  # fmt: skip
    """Computes what is missing of the output, and writes it. `retry` includes `resume`.

    `work` starts the working process and gives what that sends.

    Raises:
        UsageError: the output exists, or was begun with other options or inputs.
        StoppedError: a signal came; the batch in hand is done and kept.
        ResnestError: whatever else prevents it; finished parts are kept.
    """
    state = look(job.target, resume=resume or retry, overwrite=overwrite)
    if job.options.batch_size == AUTO and not state.identity:
        trial = partial(_find_batch_size, job)
        (size,) = supervised(trial, time_limit=job.options.time_limit)
        job = replace(job, options=replace(job.options, batch_size=size))
    running = _Run(as_begun(job, state.identity), work, progress, Report(damaged=state.damaged))
    if state.info is None:
        begun = state.store is not None and state.store.inputs > state.store.rows
        running.compute(state.store)
        if not (retry and begun):
            return running.report
        state = State(info=running.report.info)  # rows that had failed before this start
        running.report = Report(skipped=running.report.skipped, damaged=running.report.damaged)
    assert state.info is not None
    if state.store is not None or (retry and state.info["counts"]["failed"]):
        running.compute(state.store, state.info)
    else:
        running.verify(state.info, finished_before=not state.published)
    return running.report


class _Run:
    """What the steps of a run share."""

    def __init__(self, job: FeaturesJob, work: Work, progress: Progress, report: Report) -> None:
        self._job, self._work, self._progress, self.report = job, work, progress, report

    def verify(self, info: dict[str, Any], *, finished_before: bool) -> None:
        """All is finished: was it made of the same? Engine and versions do not matter any more."""
        results = self._work(self._job, Todo(marks=(Mark.of(info["list"]),), verify=True))
        with PatientStop():
            self._opened(results, info, "engine", "versions")
            _ended(results)
        self.report.info, self.report.finished_before = info, finished_before

    def compute(self, store: Store | None, old: dict[str, Any] | None = None) -> None:
        """A run from its beginning, or from where it was interrupted.

        With `old`, the failed rows of this finished output once more.
        """
        job, target = self._job, self._job.target
        done = store.inputs if store else 0
        complete = store is not None and store.complete
        if old is None:
            # The last part may have no inputs and repeat the mark before.
            marks = tuple(dict.fromkeys(part.mark for part in store.parts)) if store else ()
            last = marks[-1].listed if complete else None
            todo = Todo(done, marks, last=last, verify=complete)
        else:
            lines = target.with_suffix(".csv")
            todo = Todo(done, (Mark.of(old["list"]),), retry=lines, verify=complete)
        results = self._work(job, todo)
        with PatientStop() as stopping:
            identity = self._opened(results, old or (store.identity if store else None))
            if store is not None and complete:
                _ended(results)
            else:
                with self._writing(store):
                    store = store or Store.create(target, "retry" if old else "run", identity)
                known = int(old["counts"]["failed"]) if old else None
                ahead = old is None and self._progress is not silent
                with counting(job) if ahead else nullcontext(lambda: known) as total:
                    ending = self._collect(results, store, stopping, total)
                if ending.mark.listed == 0:
                    discard(store.folder)
                    raise ResnestError("no photo found in what was named.")
            stopping.check()
            with self._writing(store), self.report.writing():
                info = retried(store, target, old) if old else from_parts(store, target)
                self.report.info = info
        self.report.failures = summed(part.failures for part in store.parts)
        if old is None:
            self.report.skipped = store.parts[-1].skipped

    def _collect(
        self, results: Results, store: Store, stopping: PatientStop, total: Total
    ) -> Ending:
        """Writes what comes, to the end; all that is done is committed however it ends."""
        report = self.report
        before = done = store.inputs
        failed = done - store.rows
        say_going_on(done, failed)
        self._progress(done, total(), failed=failed)
        start = time.monotonic()
        writer = PartWriter(store)
        stopping.patient = True
        try:
            while not isinstance(item := _next(results), Ending):
                assert isinstance(item, Item)
                with self._writing(store):
                    writer.add(item)
                    if item.mark is not None:
                        writer.reached(item.mark, commit=stopping.signal is not None)
                done, failed = done + 1, failed + (item.error is not None)
                for step, seconds in (item.seconds or {}).items():
                    report.add(step, seconds)
                self._progress(done, total(), failed=failed)
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
        self, results: Results, then: dict[str, Any] | None, *passed: str
    ) -> dict[str, Any]:
        """What the working process says of itself, which must be what an earlier run has said."""
        identity = next(results)
        assert isinstance(identity, dict)
        if then is not None:
            begun, now = (without(one, "list", "counts", *passed) for one in (then, identity))
            try:
                check_same(self._job.target, begun, now)
            except UsageError:
                results.close()
                raise
        return identity


@contextmanager
def counting(job: FeaturesJob) -> Iterator[Total]:
    """Gives how many inputs there are, counted in a thread while the first are worked on.

    That costs a look at each name (some µs, against tens of ms in the network) and no memory. A
    list on stdin cannot be read ahead: the total stays None.
    """
    if reads_stdin(job.options):
        yield lambda: None
        return
    options, count, stop = job.options, 0, False

    def count_all() -> None:
        nonlocal count
        sources = iter_sources(
            options.inputs,
            recursive=options.recursive,
            from_file=options.from_file,
            null_separated=options.null_separated,
        )
        with suppress(ResnestError, OSError):  # the working process raises it, too
            for _ in sources:
                count += 1
                if stop:
                    return

    thread = threading.Thread(target=count_all, daemon=True)
    thread.start()
    try:
        yield lambda: job.shard.size(count, options.batch_size)
    finally:
        stop = True
        thread.join(1.0)  # a folder on a slow disk may hold it up longer


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


def _summary_of(job: FeaturesJob, report: Report) -> str:
    """The summary of a run, for people."""
    counts, extraction = report.info["counts"], report.info["extraction"]
    steps = ("read", "decode", "network", "write")
    times = ", ".join(f"{step} {report.seconds.get(step, 0.0):.1f} s" for step in steps)
    return report.text(
        times if report.photos else "",
        f"{job.target.with_suffix('.csv')} says",
        f"{job.target}: {extraction['dtype']} {(counts['rows'], *extraction['row_shape'])}",
    )
