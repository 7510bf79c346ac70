"""Decoders: worker processes that may crash, hang or eat memory, one photo at a time each.

    with Decoders(2) as decoders:
        array = decoders.run(preparation, "dog.jpg")  # blocks; from any thread

A decoder is C code fed with other people's bytes. Photos are decoded in fresh Pythons that are
replaced when they die: the photo in hand is to blame. A worker shares nothing with the others. (In
the pools of pebble and multiprocessing all share two pipes and their locks, which a crash can leave
locked; multiprocessing also runs the program's main script again, and leaves semaphores behind.)

Messages are pickles of protocol 5, through pipes. An array of 600 kB comes back in 0.18 ms; memory
that both processes mapped, out of which it had to be copied, took 0.56 ms. A worker ends with its
parent, `kill -9` included: a thread sees the end of the pipe, and Linux kills the worker even while
its decoder holds the GIL. Its process group is its own: Ctrl-C is for the parent to answer.

Limits. Time: by the clock, everywhere; while our process is stopped (Ctrl-Z) or asleep it does not
count. Memory: on Linux, of the private data of the worker beyond what it had when idle
(RLIMIT_DATA: neither files nor address space that is only reserved); elsewhere nothing can be set.
"""

import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, NoReturn, ParamSpec, Self, TypeVar

from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.images import leave_note, memory_for, take_note
from resnest_cli.options import DECODING_LIMIT, MAX_PIXELS, ModelOptions, RunOptions
from resnest_cli.text import gigabytes

P = ParamSpec("P")
R = TypeVar("R")

MEMORY_LIMIT = 2 * 10**9  # bytes that every photo may need
_KEPT = 2**26  # bytes that a worker does not give back between two photos
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
# What nearly every photo needs: imported before memory is limited and time counts.
_PRELOADED = ("images.batches", "images.decode", "images.preprocess")
_BROKEN = (OSError, EOFError, pickle.UnpicklingError)
_CANNOT_START = "cannot start a process for decoding"
_CANCELLED = "decoding was cancelled"
_early: "list[_Worker]" = []  # at most one, for the first `Decoders` to come


class Decoders:
    """At most `workers` processes, each started when it is first needed. A context manager.

    Args:
        workers: how many photos are decoded at once.
        time_limit: seconds for one photo, without the start of its worker.
        max_pixels: a photo may need the memory of so many pixels, at least `MEMORY_LIMIT`.
    """

    def __init__(
        self, workers: int = 1, *, time_limit: float = DECODING_LIMIT, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._limits = time_limit, max(MEMORY_LIMIT, memory_for(max_pixels))
        self._most = max(1, workers)
        self._slots = threading.Semaphore(self._most)
        self._lock = threading.Lock()  # of the next four
        self._workers = set(_early)
        _early.clear()
        self._free = list(self._workers)
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        self._orders = SimpleQueue[Future[_Worker] | None]()

    @classmethod
    def of(cls, options: RunOptions, model: ModelOptions) -> Self:
        """Those that a command was asked for."""
        return cls(options.workers, time_limit=options.time_limit, max_pixels=model.max_pixels)

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What a function of a module (no lambda, no closure) returns in the next free worker.

        A note that it leaves there (`images.leave_note`) is left in the calling thread.

        Raises:
            ImageError: it crashed the worker or went over a limit; goes on after the input's name.
            ResnestError: no worker can be started, or the pool is closed.
            Exception: whatever the function raised.
        """
        # An error in pickling is the caller's.
        request = pickle.dumps((function, args, kwargs), pickle.HIGHEST_PROTOCOL)
        with self._slots:
            worker, answer = self._take(), None
            try:
                if not worker.ready:  # it has imported all that photos need, and knows its limits
                    worker.ready = worker.ask(pickle.dumps(self._limits))
                worker.age, worker.begun = 0.0, time.monotonic()
                answer = worker.ask(request)
            except _BROKEN as error:
                if self._closed.is_set():
                    raise ResnestError(_CANCELLED) from None
                raise worker.failure(error, self._limits[0]) from None
            finally:
                with self._lock:
                    worker.begun = None
                    fit = answer is not None and not worker.overdue and not self._closed.is_set()
                    if fit:
                        self._free.append(worker)
                    else:
                        self._workers.discard(worker)
                if not fit:
                    worker.discard()
        ok, value, note = answer
        if note is not None:
            leave_note(note)
        if ok:
            return value  # type: ignore[no-any-return]
        raise value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers; whoever waits for one gets a ResnestError."""
        with self._lock:
            self._closed.set()
            for worker in self._workers:
                worker.process.kill()
        for _ in range(self._most):  # until everybody has left `run`
            self._slots.acquire()
        while self._free:
            self._free.pop().discard()
        if self._watcher is not None:
            self._orders.put(None)
            self._watcher.join()
        self._slots.release(self._most)

    def _take(self) -> "_Worker":
        """A free worker, or a new one."""
        with self._lock:
            if self._closed.is_set():
                raise ResnestError(_CANCELLED)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, daemon=True)
                self._watcher.start()
            while self._free:
                worker = self._free.pop()
                if worker.process.poll() is None:
                    return worker
                self._workers.discard(worker)  # it died idle
                worker.discard()
        order = Future[_Worker]()
        self._orders.put(order)  # Linux ends a worker with the thread that started it
        try:
            worker = order.result()
        except Exception as error:
            raise ResnestError(f"{_CANNOT_START}: {error}") from error
        with self._lock:
            self._workers.add(worker)
            if self._closed.is_set():
                worker.process.kill()
        return worker

    def _watch(self) -> None:
        """Starts workers, and kills those that take too long."""
        limit = self._limits[0]
        tick = min(1.0, limit / 4)
        checked = time.monotonic()
        while True:
            with suppress(Empty):
                if (order := self._orders.get(timeout=tick)) is None:
                    return
                try:
                    order.set_result(_Worker())
                except Exception as error:
                    order.set_exception(error)
            now = time.monotonic()
            passed = min(now - checked, 2 * tick)  # time for which we were stopped is nobody's
            checked = now
            with self._lock:
                for worker in self._workers:
                    if worker.begun is not None:
                        worker.age += min(passed, now - worker.begun)
                        if worker.age > limit:
                            worker.overdue = True
                            worker.process.kill()


def begin() -> None:
    """Starts the first worker of the first `Decoders` to come; unused, it ends with this process.

    For the main thread: Linux ends a worker with the thread that started it.
    """
    with suppress(OSError):  # whoever needs it will say so
        _early.append(_Worker())


class _Worker:
    """One process; used by one thread at a time."""

    def __init__(self) -> None:
        self.begun: float | None = None  # when it got the photo in hand
        self.age = 0.0  # of that photo, in seconds
        self.overdue = self.ready = False
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
            process_group=0 if os.name == "posix" else None,
        )

    def ask(self, request: bytes) -> Any:
        """The answer to a request; one of `_BROKEN` where none comes."""
        outgoing, incoming = self.process.stdin, self.process.stdout
        assert outgoing is not None
        assert incoming is not None
        pickle.dump(request, outgoing, pickle.HIGHEST_PROTOCOL)
        outgoing.flush()
        data, *buffers = pickle.load(incoming)
        return pickle.loads(data, buffers=buffers)

    def failure(self, error: Exception, time_limit: float) -> ResnestError:
        """Why there is no answer."""
        if not self.ready:
            return ResnestError(f"{_CANNOT_START}: {error}")
        with suppress(subprocess.TimeoutExpired):  # it still runs if its answer made no sense
            self.process.wait(1)
        self.discard()
        code = self.process.returncode
        if self.overdue or code == -getattr(signal, "SIGALRM", 0):
            text = f"cannot be read: decoding took longer than {time_limit:g} s"
            return ImageError(text, kind="timed out")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code:#x}"
        how += "; memory may have run out" if how == "SIGKILL" else ""
        text = f"cannot be read: the decoder crashed ({how})"
        return ImageError(text, kind="crashed the decoder")

    def discard(self) -> None:
        """Kills the process and gives back all that it took."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # a request that nobody read
                if pipe is not None:
                    pipe.close()


# In the worker


def serve() -> NoReturn:
    """Answers requests on stdin until the parent closes it, or dies; the first one sets limits."""
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            # What a photo took, up to so much, is kept for the next one: new pages cost a fifth of
            # the time of decoding a large one.
            for parameter in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of mallopt(3)
                ctypes.CDLL(None).mallopt(parameter, _KEPT)
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a decoder prints must not get between the answers.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    requests = SimpleQueue[bytes]()
    threading.Thread(target=_take_in, args=(incoming, requests), daemon=True).start()
    for name in _PRELOADED:
        importlib.import_module(f"resnest_cli.{name}")
    importlib.import_module("PIL.JpegImagePlugin")
    with suppress(BrokenPipeError):
        time_limit, memory_limit = pickle.loads(requests.get())
        _limit_memory(memory_limit)
        answer: list[Any] = [pickle.dumps(True)]
        while True:
            pickle.dump(answer, outgoing, pickle.HIGHEST_PROTOCOL)
            outgoing.flush()
            request = requests.get()
            _alarm(time_limit + 1)
            answer = _answer(request, memory_limit)
            _alarm(0)
    os._exit(0)


def _take_in(incoming: IO[bytes], requests: SimpleQueue[bytes]) -> None:
    """Hands on requests, and ends the process with the last one: the parent is gone."""
    try:
        while True:
            requests.put(pickle.load(incoming))
    finally:
        os._exit(0)


def _answer(request: bytes, memory_limit: int) -> list[Any]:
    """Whether it went well, what the function returned or raised, and the note that it left.

    As a pickle, behind which the buffers of arrays stand.
    """
    take_note()
    try:
        function, args, kwargs = pickle.loads(request)
        del request  # may be large
        found, buffers = function(*args, **kwargs), list[pickle.PickleBuffer]()
        answer = True, found, take_note()
        packed = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
    except Exception as error:
        failure = error
    else:
        return [packed, *buffers]
    if isinstance(failure, MemoryError) or isinstance(failure.__cause__, MemoryError):
        text = f"cannot be read: decoding needed more than {gigabytes(memory_limit)} of memory"
        failure = ImageError(text, kind="unreadable")
    with suppress(Exception):
        packed = pickle.dumps((False, failure, None))
        pickle.loads(packed)  # some errors can be written but not read
        return [packed]
    return [pickle.dumps((False, RuntimeError(f"{type(failure).__name__}: {failure}"), None))]


def _alarm(seconds: float) -> None:
    """Ends a worker that is stuck without a parent; Linux does so at once."""
    if sys.platform not in {"linux", "win32"}:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory(limit: int) -> None:
    if sys.platform == "linux":
        import resource

        with suppress(OSError, ValueError, OverflowError):  # no /proc, a lower limit, a huge one
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])
            _, most = resource.getrlimit(resource.RLIMIT_DATA)
            bound = pages * resource.getpagesize() + limit + _KEPT
            resource.setrlimit(resource.RLIMIT_DATA, (bound, most))
