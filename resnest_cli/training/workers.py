"""Processes that prepare batches ahead, with an end to every way in which they can fail.

torch's DataLoader does the work. What is added, each for something that was seen to go wrong:

- A batch is put into shared memory where it is made. DataLoader leaves that to a thread of the
  worker, which drops a batch that does not fit, and the main process would wait for it for ever.
- DataLoader's handler of SIGCHLD raises in whatever the main process is doing when a worker dies,
  such as saving a state. It is not kept: the death is an error where the next batch is waited for.
- Workers leave signals to the main process, which has a state to save and may need
  their next batch for it. So `close` kills those that do not end in time.
- The base seed of the workers comes from a generator of its own; torch's is left as it was.
"""

import contextlib
import errno
import gc
import multiprocessing
import os
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torch.utils.data.dataloader import _BaseDataLoaderIter

from resnest_cli.errors import LIMIT_REMEDIES, ResnestError, limit_reached
from resnest_cli.files import free_bytes
from resnest_cli.signals import leave_to_parent
from resnest_cli.text import megabytes

AHEAD = 2  # batches that each worker prepares before they are asked for
_SHM = Path("/dev/shm")
_SMALL_SHM = (
    "Use --workers 0 or a smaller --batch-size; in Docker give --shm-size 2g, or --ipc=host."
)
_PATIENCE = 2.0  # seconds that workers get to end by themselves

K = TypeVar("K")
B = TypeVar("B")


class Failure(NamedTuple):
    """What went wrong in a worker: plain text crosses processes."""

    text: str


class _Keys(Sampler[list[K]]):
    """The keys of the batches that are wanted next."""

    def __init__(self) -> None:
        self.wanted: Iterable[list[K]] = []

    def __iter__(self) -> Iterator[list[K]]:
        return iter(self.wanted)


class Workers(Generic[K, B]):
    """Turns lists of keys into batches; the processes stay from one pass to the next.

    `items` gives the item of a key, or a `Failure`, in the `count` workers, or here if there are
    none; `collate` makes a batch of items, of `batch_bytes`, or a `Failure`. `pin_memory` is for
    copies to an accelerator.
    """

    def __init__(
        self,
        items: Dataset[Any],
        collate: Callable[[list[Any]], B | Failure],
        *,
        count: int,
        pin_memory: bool,
        batch_bytes: int,
    ) -> None:
        if count:
            # One more is in use while the workers go on.
            check_shared_memory((count * AHEAD + 1) * batch_bytes)
            check_open_files(4 * count + 3 * (count * AHEAD + 1))  # pipes; photos, labels, answers
        # How many workers there are is the user's choice; that we fork beside threads is meant:
        # they are those of displays and of torch, and a worker uses neither.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        warnings.filterwarnings("ignore", r".*multi-threaded, use of fork\(\)", DeprecationWarning)
        self._count, self._keys = count, _Keys[K]()
        self._iterator: Any = None
        self._processes: list[BaseProcess] = []
        # Python waits for its children when it exits, and these do not heed its SIGTERM.
        weakref.finalize(self, _kill, self._processes)
        methods = multiprocessing.get_all_start_methods()
        self._loader: DataLoader[Any] | None = DataLoader(
            items,
            batch_sampler=self._keys,
            num_workers=count,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=_begin,
            # Forked, they share the list of photos, and start without importing torch again.
            multiprocessing_context="fork" if count and "fork" in methods else None,
            persistent_workers=count > 0,
            prefetch_factor=AHEAD if count else None,
            generator=torch.Generator(),
        )

    def batches(self, keys: Iterable[list[K]]) -> Iterator[B]:
        """The batches of these keys, in order. Keys are taken as the workers need them."""
        self._keys.wanted = keys
        try:
            for found in self._start():
                if isinstance(found, Failure):
                    raise ResnestError(found.text)
                yield found
        except (OSError, RuntimeError) as error:
            if "exited unexpectedly" in str(error):
                raise self._death() from error
            if (limit := limit_reached(error)) is not None:
                raise ResnestError(limit) from error
            raise

    def _start(self) -> Iterator[Any]:
        assert self._loader is not None, "closed"
        known = multiprocessing.active_children()
        before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        try:
            # The same iterator serves every pass, so that they start only once.
            forks = self._count > 0 and not self._processes
            with _frozen() if forks else contextlib.nullcontext():
                self._iterator = iter(self._loader)
        except (OSError, RuntimeError) as error:
            _kill([p for p in multiprocessing.active_children() if p not in known])
            # The half of an iterator must not try to end what it never began.
            if (half := _begun(error)) is not None:
                half._shutdown = True  # type: ignore[attr-defined]
            raise
        except BaseException as error:  # of the keys, which are taken in advance
            self._iterator = _begun(error)
            self._processes += [p for p in multiprocessing.active_children() if p not in known]
            raise
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        self._processes += [p for p in multiprocessing.active_children() if p not in known]
        return self._iterator  # type: ignore[no-any-return]

    def _death(self) -> ResnestError:
        code = next((process.exitcode for process in self._processes if process.exitcode), 0)
        reasons = {
            -getattr(signal, "SIGKILL", 9): "It was killed, as Linux does when memory runs out",
            -getattr(signal, "SIGBUS", 7): "Shared memory ran full",
        }
        reason = reasons.get(code or 0, f"Its exit code was {code}")
        return ResnestError(
            f"a process that loads photos has died. {reason}. Use --workers {self._count // 2}, a "
            "smaller --batch-size, or in Docker a larger --shm-size. With --resume the run goes on "
            "where its state was saved."
        )

    def close(self) -> None:
        """Ends the workers, by force those that are stuck."""
        iterator, self._iterator, self._loader = self._iterator, None, None
        alarm = threading.Timer(_PATIENCE, _kill, [self._processes])
        alarm.daemon = True
        alarm.start()
        try:
            # There is no public way: a suspended `batches` may hold the iterator as well.
            if (shut_down := getattr(iterator, "_shutdown_workers", None)) is not None:
                shut_down()
        finally:
            alarm.cancel()
            _kill(self._processes)
            for process in self._processes:
                process.join(_PATIENCE)
            self._processes.clear()


def _begin(_: int) -> None:
    """Once in each worker."""
    leave_to_parent()


def _begun(error: BaseException) -> _BaseDataLoaderIter | None:
    """The iterator in whose beginning the error arose."""
    trace = error.__traceback__
    while trace is not None:
        half = trace.tb_frame.f_locals.get("self")
        if isinstance(half, _BaseDataLoaderIter):
            return half
        trace = trace.tb_next
    return None


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """In processes that are forked here, nothing that there is now is ever collected.

    What has threads here, such as an engine's session that is garbage, would wait for them there
    for ever; and memory that is not touched stays shared.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()


def share(*batch: Tensor) -> Failure | None:
    """Moves a batch to shared memory if this is a worker; the main process has it already."""
    try:
        for tensor in batch if get_worker_info() is not None else ():
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        if (limit := limit_reached(error)) is not None:
            return Failure(limit)
        why = (str(error).splitlines() or [type(error).__name__])[-1]
        return Failure(
            f"a batch of {megabytes(batch[0].nbytes)} does not fit into shared memory ({why}). "
            f"{_SMALL_SHM}"
        )
    return None


def check_shared_memory(needed: int, folder: Path = _SHM) -> None:
    """Raises ResnestError for shared memory that is missing, or too small for the batches in it."""
    try:
        multiprocessing.Lock()  # lies there, too
    except OSError as error:
        raise ResnestError(
            limit_reached(error)
            or f"{folder}: there is no shared memory for processes that load photos "
            f"({error.strerror or error}). Use --workers 0; in a container mount {folder}, such "
            "as with --shm-size 2g."
        ) from error
    free = free_bytes(folder)  # None on another system, with another way
    if free is not None and free < needed:
        raise ResnestError(
            f"{folder} has {megabytes(free)} free, and the workers need {megabytes(needed)} for "
            f"their batches. {_SMALL_SHM}"
        )


def check_open_files(needed: int) -> None:
    """Raises the limit as far as this process may; raises ResnestError where that is too little."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed += len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the cheapest
    except (ImportError, OSError):  # another system, or no place to look: as it comes
        return
    if soft == resource.RLIM_INFINITY or needed < soft:
        return
    if hard != resource.RLIM_INFINITY and needed >= hard:
        raise ResnestError(LIMIT_REMEDIES[errno.EMFILE])
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * needed if hard < 0 else hard, hard))
