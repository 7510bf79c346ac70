"""Work on several shards at a time, in processes: a tar file costs the interpreter's time.

One worker is a thread of this process. More are processes, forked where that can be, which stop at
the next photo when one fails or a signal comes, and end by themselves soon after this process was
killed; see `packing.job` for what is then left.
"""

import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_EXCEPTION,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeVar

from resnest_cli.errors import ResnestError
from resnest_cli.signals import leave_to_parent

Job = TypeVar("Job")
Result = TypeVar("Result")
Tell = Callable[[], None]  # after each photo; may raise to stop

_PAUSE = 0.1  # seconds between two looks at what is done
_WATCH = 0.5  # seconds between two looks at whether the parent is there


class _StoppedError(Exception):
    """Another worker has failed, or a signal came."""


class _Count:
    """How many photos are done, and whether to stop; shared by all workers."""

    def __init__(self, context: Any) -> None:
        self._done, self._stop = context.Value("q", 0), context.Value("b", 0, lock=False)

    def tell(self) -> None:
        with self._done.get_lock():
            self._done.value += 1
        if self._stop.value:
            raise _StoppedError

    @property
    def done(self) -> int:
        return int(self._done.value)

    def stop(self) -> None:
        self._stop.value = 1


def _context() -> Any:
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if "fork" in methods else "spawn")


def _executor(workers: int, count: _Count) -> Executor:
    """One thread, or so many processes that end with this one."""
    if workers <= 1:
        return ThreadPoolExecutor(1, thread_name_prefix="pack")
    # What is forked are copies of one thread; others are those of displays, and none holds a lock.
    warnings.filterwarnings("ignore", r".*multi-threaded, use of fork\(\)", DeprecationWarning)
    return ProcessPoolExecutor(workers, _context(), _begin, (count, os.getpid()))


def run(
    work: Callable[[Job, Tell], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    progress: Callable[[int], None],
    check: Callable[[], None],
) -> list[Result]:
    """`work` of each job, in order; `progress` is told how many photos are done.

    The first error stops all workers, and so does one that `check` raises.

    Raises:
        ResnestError: a worker was killed.
    """
    count = _Count(_context())
    workers = min(workers, len(jobs))
    pool = _executor(workers, count)
    task: Callable[[Job], Result] = partial(_work, work)
    if workers <= 1:
        task = partial(_alone, work, count.tell)
    try:
        futures: list[Future[Result]] = [pool.submit(task, job) for job in jobs]
        pending: set[Future[Result]] = set(futures)
        while pending:
            done, pending = wait(pending, _PAUSE, FIRST_EXCEPTION)
            for future in done:
                future.result()
            check()
            progress(count.done)
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise ResnestError(
            "a process that packs has died, as when memory runs out. Use fewer --workers; the same "
            "command goes on with what is there."
        ) from error
    finally:
        count.stop()
        pool.shutdown(wait=True, cancel_futures=True)


_count: _Count | None = None


def _begin(count: _Count, parent: int) -> None:
    """Once in each process. Signals are for the parent to answer."""
    global _count  # noqa: PLW0603 - an initializer has no other way
    _count = count
    leave_to_parent()
    threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)


def _alone(work: Callable[[Job, Tell], Result], tell: Tell, job: Job) -> Result:
    return work(job, tell)


def _work(work: Callable[[Job, Tell], Result], job: Job) -> Result:
    assert _count is not None
    return work(job, _count.tell)
