"""Work on several shards at a time, in processes: a tar file costs the interpreter's time.

One worker is a thread of this process. More are processes, forked where that can be, which stop at
the next photo when one fails or a signal comes, and end by themselves soon after this process was
killed; see `pack` for what is then left.
"""

import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, ThreadPoolExecutor, wait
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
        self.done, self.stop = context.Value("q", 0), context.Value("b", 0, lock=False)

    def tell(self) -> None:
        with self.done.get_lock():
            self.done.value += 1
        if self.stop.value:
            raise _StoppedError


def run(
    work: Callable[[Job, Tell], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    progress: Callable[[int], None],
    check: Callable[[], None],
) -> list[Result]:
    """`work` of each job, in order; `progress` is called with the number of photos done.

    The first error stops all workers, and so does one that `check` raises.

    Raises:
        ResnestError: a worker was killed.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    count = _Count(context)
    workers = min(workers, len(jobs))
    pool: ThreadPoolExecutor | ProcessPoolExecutor
    task: Callable[[Job], Result]
    if workers <= 1:
        pool = ThreadPoolExecutor(1, thread_name_prefix="pack")
        task = lambda job: work(job, count.tell)  # noqa: E731 - never pickled
    else:
        # Forked, one thread is copied; others are those of displays, and none holds a lock.
        warnings.filterwarnings("ignore", r".*multi-threaded, use of fork\(\)", DeprecationWarning)
        pool = ProcessPoolExecutor(workers, context, _begin, (count, os.getpid()))
        task = partial(_in_worker, work)
    try:
        futures = [pool.submit(task, job) for job in jobs]
        pending = set(futures)
        while pending:
            done, pending = wait(pending, _PAUSE, FIRST_EXCEPTION)
            for future in done:
                future.result()
            check()
            progress(int(count.done.value))
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise ResnestError(
            "a process that packs has died, as when memory runs out. Use fewer --workers; the same "
            "command goes on with what is there."
        ) from error
    finally:
        count.stop.value = 1
        pool.shutdown(wait=True, cancel_futures=True)


_count: _Count | None = None


def _begin(count: _Count, parent: int) -> None:
    """Once in each process. Signals are for the parent to answer."""
    global _count  # noqa: PLW0603 - an initializer has no other way
    _count = count
    leave_to_parent()

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH)
        os._exit(1)

    threading.Thread(target=end_with_parent, name="parent", daemon=True).start()


def _in_worker(work: Callable[[Job, Tell], Result], job: Job) -> Result:
    assert _count is not None
    return work(job, _count.tell)
