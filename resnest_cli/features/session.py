"""The caller of a run: rows -> parts -> output, whatever is there already and whatever comes up.

The working process tells first what decides the bytes of the output; an unfinished run must have
been begun with the same.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from resnest_cli.errors import ResnestError, UsageError, cannot_write
from resnest_cli.features.assemble import from_parts, retried
from resnest_cli.features.differences import differences
from resnest_cli.features.job import Ending, FeaturesJob, Item, Mark, Opening, Todo
from resnest_cli.features.parts import PartWriter
from resnest_cli.features.readers import identity_of
from resnest_cli.features.store import Store, discard
from resnest_cli.features.target import State, look
from resnest_cli.options import AUTO
from resnest_cli.signals import PatientStop

Results = Generator[Opening | Item, None, Ending]
Work = Callable[[FeaturesJob, Todo], Results]
FindBatchSize = Callable[[FeaturesJob], int]

DEFAULT_BATCH_SIZE = 8


class Progress(Protocol):
    """Is told how far a run has come."""

    def begin(self, job: FeaturesJob, done: int, failed: int, total: int | None) -> None:
        """A run over the inputs of `job` begins, or goes on after so many of them."""

    def update(self, done: int, failed: int) -> None:
        """So many inputs are done, so many of them failed."""


@dataclass(slots=True)
class Report:
    """How a run ended: `info` is `feats.json`; the rest says what this start had to do with it."""

    info: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)  # by kind; of those that were read now
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    photos: int = 0
    elapsed: float = 0.0
    skipped: int = 0
    finished_before: bool = False  # there was nothing to do
    damaged: int = 0  # inputs that were computed again, since their parts were damaged


def run(
    job: FeaturesJob,
    work: Work,
    progress: Progress,
    *,
    resume: bool,
    overwrite: bool,
    retry: bool,
    find_batch_size: FindBatchSize | None = None,
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
    job = _kept(job, state.identity, find_batch_size)
    report = Report(damaged=state.damaged)
    if state.info is None:
        begun = state.store is not None and state.store.inputs > state.store.rows
        _extract(job, work, progress, state.store, report)
        if not (retry and begun):
            return report
        state = State(info=report.info)  # rows that had failed before this start
        report = Report(skipped=report.skipped, damaged=report.damaged)
    if state.store is not None or (retry and state.info and state.info["counts"]["failed"]):
        _retry(job, work, progress, state, report)
    else:
        _verify(job, work, state, report)
    return report


def _kept(
    job: FeaturesJob, identity: dict[str, Any] | None, find_batch_size: FindBatchSize | None
) -> FeaturesJob:
    """The job with what was left open (a batch size of 0 or AUTO, `--engine auto`) as begun."""
    engine = identity["engine"] if identity else {}
    options, model = job.options, job.model
    if options.batch_size == AUTO and find_batch_size is not None and not engine:
        options = replace(options, batch_size=find_batch_size(job))
    elif options.batch_size in {0, AUTO}:
        options = replace(options, batch_size=engine.get("batch_size", DEFAULT_BATCH_SIZE))
    if model.engine == "auto" and engine:
        model = replace(model, engine=engine["engine"])
    return replace(job, options=options, model=model)


def _verify(job: FeaturesJob, work: Work, state: State, report: Report) -> None:
    """All is finished: was it made of the same? The versions of today do not matter any more."""
    assert state.info is not None
    mark = Mark(state.info["list"]["inputs"], state.info["list"]["sha256"])
    results = work(job, Todo(marks=(mark,), verify=True))
    with PatientStop():
        _opened(results, job, _asked_for(state.info), _asked_for)
        _ended(results)
    report.info, report.finished_before = state.info, not state.published


def _asked_for(identity: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in identity_of(identity).items() if k not in {"engine", "versions"}}


def _extract(
    job: FeaturesJob, work: Work, progress: Progress, store: Store | None, report: Report
) -> None:
    """A run from its beginning, or from where it was interrupted."""
    marks = _marks(store) if store else ()
    done = store.inputs if store else 0
    if store is not None and store.complete:
        results = work(job, Todo(marks=marks, verify=True, last=marks[-1].listed))
    else:
        results = work(job, Todo(done=done, marks=marks))
    with PatientStop() as stopping:
        identity = _opened(results, job, store.identity if store else None)
        if store is not None and store.complete:
            _ended(results)
        else:
            with _writing(job, store):
                store = store or Store.create(job.target, "run", identity)
            progress.begin(job, done, done - store.rows, None)
            ending = _collect(results, store, job, stopping, progress, report)
            if ending.mark.listed == 0:
                discard(store.folder)
                raise ResnestError("no photo found in what was named.")
        stopping.check()
        with _writing(job, store), _timed(report):
            report.info = from_parts(store, job.target)
    report.failures = _failures(store)
    report.skipped = store.parts[-1].skipped


def _retry(job: FeaturesJob, work: Work, progress: Progress, state: State, report: Report) -> None:
    """The failed rows of a finished output once more."""
    store, old = state.store, state.info
    assert old is not None
    lines = job.target.with_suffix(".csv")
    done = store.inputs if store else 0
    complete = store is not None and store.complete
    mark = Mark(old["list"]["inputs"], old["list"]["sha256"])
    results = work(job, Todo(done=done, marks=(mark,), retry=lines, verify=complete))
    with PatientStop() as stopping:
        identity = _opened(results, job, identity_of(old))
        if complete:
            assert store is not None
            _ended(results)
        else:
            with _writing(job, store):
                store = store or Store.create(job.target, "retry", identity)
            progress.begin(job, done, done - store.rows, old["counts"]["failed"])
            _collect(results, store, job, stopping, progress, report)
        stopping.check()
        with _writing(job, store), _timed(report):
            report.info = retried(store, job.target, old)
    report.failures = _failures(store)


def _collect(
    results: Results,
    store: Store,
    job: FeaturesJob,
    stopping: PatientStop,
    progress: Progress,
    report: Report,
) -> Ending:
    """Writes what comes, to the end; all that is done is committed however it ends.

    Raises:
        InterruptedRunError: after the batch that was in hand when the signal came.
    """
    before = done = store.inputs
    failed = done - store.rows
    start = time.monotonic()
    writer = PartWriter(store)
    stopping.patient = True
    try:
        while True:
            try:
                item = next(results)
            except StopIteration as end:
                ending: Ending = end.value
                break
            assert isinstance(item, Item)
            with _writing(job, store):
                writer.add(item)
                if item.mark is not None:
                    writer.reached(item.mark, commit=stopping.requested is not None)
            done, failed = done + 1, failed + (item.error is not None)
            for step, seconds in (item.seconds or {}).items():
                _add(report, step, seconds)
            progress.update(done, failed)
            if item.mark is not None:
                stopping.check()
        with _writing(job, store):
            writer.finish(ending.mark, ending.skipped)
    except BaseException as error:
        if not isinstance(error, _DiskError):
            with _writing(job, store):
                writer.salvage()
        stopping.check()  # a signal to all our processes may look like a crash
        raise
    finally:
        results.close()
        writer.close()
        report.photos += done - before
        report.elapsed += time.monotonic() - start
        _add(report, "write", writer.seconds)
    return ending


def _add(report: Report, step: str, seconds: float) -> None:
    report.seconds[step] = report.seconds.get(step, 0.0) + seconds


@contextmanager
def _timed(report: Report) -> Iterator[None]:
    """What is done inside is writing, and part of the whole time."""
    start = time.monotonic()
    yield
    _add(report, "write", time.monotonic() - start)
    report.elapsed += time.monotonic() - start


class _DiskError(ResnestError):
    """The output cannot be written."""


@contextmanager
def _writing(job: FeaturesJob, store: Store | None) -> Iterator[None]:
    """Says what is kept where the disk is full or fails."""
    try:
        yield
    except OSError as error:
        text = cannot_write(job.target, error)
        if store is not None:
            text += f" {store.inputs:,} inputs are done and kept in {store.folder}. Go on with:\n"
            text += f"  {job.go_on}"
        raise _DiskError(text) from error


def _opened(
    results: Results,
    job: FeaturesJob,
    then: dict[str, Any] | None,
    part: Callable[[dict[str, Any]], dict[str, Any]] = lambda identity: identity,
) -> dict[str, Any]:
    """What the working process says of itself, which must be what an earlier run has said.

    Raises:
        UsageError: it is not; names what differs.
    """
    opening = next(results)
    assert isinstance(opening, Opening)
    if then is not None and (wrong := differences(then, part(opening.identity))):
        results.close()
        raise UsageError(
            f"{job.target} was begun with something else: {wrong}. Use the same, another -o, or "
            "--overwrite to start afresh."
        )
    return opening.identity


def _ended(results: Results) -> Ending:
    try:
        item = next(results)
    except StopIteration as end:
        ending: Ending = end.value
        return ending
    raise AssertionError(item)


def _marks(store: Store) -> tuple[Mark, ...]:
    """The marks of the parts; a last one without inputs may repeat the one before."""
    return tuple(dict.fromkeys(part.mark for part in store.parts))


def _failures(store: Store) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in store.parts:
        for kind, count in part.failures.items():
            total[kind] = total.get(kind, 0) + count
    return total
