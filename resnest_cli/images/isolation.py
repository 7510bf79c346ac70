"""Decoding in worker processes that may crash, hang or eat memory, each with limits.

A worker is a fresh Python with pipes on its standard streams, started when it is first needed. It
does one thing at a time, so that the blame for a crash is exact, and is replaced when it dies. It
ends with its parent, `kill -9` included, whatever it is at: a thread sees that the pipe of requests
is closed, and Linux kills the worker even while its decoder holds the GIL.

Why no library: in the pools of pebble and multiprocessing all workers share two pipes and their
locks, which a crash can leave locked; multiprocessing also runs the program's main script again in
each worker, and leaves semaphores behind when killed. Here a worker shares nothing with the others.

Limits. Time: by the clock, everywhere. Memory: on Linux, of the private data of the worker beyond
what it had when idle (RLIMIT_DATA: neither files nor address space that is only reserved). Windows
and macOS have no such limit to set: there only the time counts.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn, ParamSpec, TypeVar

from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.text import gigabytes

P = ParamSpec("P")
R = TypeVar("R")

TIME_LIMIT = 60.0
MEMORY_LIMIT = 2 * 10**9
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
_BROKEN = (OSError, EOFError, pickle.UnpicklingError)
_CANCELLED = "decoding was cancelled"

_Process = subprocess.Popen[bytes]


class IsolatedDecoder:
    """Runs functions on photos in replaceable worker processes; nothing starts before the first.

    Args:
        workers: how many processes at most.
        time_limit: seconds for one photo, without the start of the worker.
        memory_limit: bytes that one photo may need, on Linux.

    A photo takes a millisecond longer than in a thread: the 600 kB of its array go through a pipe.
    The first one waits 0.1 to 0.2 s for its worker, and so does the next one after a crash.
    """

    def __init__(
        self, workers: int = 1, *, time_limit: float = TIME_LIMIT, memory_limit: int = MEMORY_LIMIT
    ) -> None:
        self._limits = time_limit, memory_limit
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="isolated")
        self._own = threading.local()  # each thread has one worker
        self._workers: list[_Worker] = []
        self._closed = False

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Runs a function of a module, not a lambda or a closure, in the next free worker.

        The future raises `ImageError` where the function raised it, crashed the worker or went
        over a limit; the message goes on after the input's name. Any other exception of the
        function comes as it is, `ResnestError` if no worker could be started.
        """
        return self._threads.submit(self._run, function, args, kwargs)

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops what has not begun, kills what has."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.discard()

    def _run(self, function: Callable[..., R], args: Any, kwargs: Any) -> R:
        # An error in pickling is the caller's and must not look like a crash.
        request = pickle.dumps((function, args, kwargs), pickle.HIGHEST_PROTOCOL)
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = _Worker(*self._limits)
            self._workers.append(worker)
        if self._closed:
            raise ResnestError(_CANCELLED)
        return worker.run(request)  # type: ignore[no-any-return]


class _Worker:
    """One process after another, used by one thread; only `stop` is for others."""

    def __init__(self, time_limit: float, memory_limit: int) -> None:
        self._time_limit, self._memory_limit = time_limit, memory_limit
        self._process: _Process | None = None
        self._lock = threading.Lock()
        self._number = 0  # of the request that the timer is for
        self._timed_out = False
        self._stopped = False

    def run(self, request: bytes) -> Any:
        process = self._ready()
        self._timed_out = False
        timer = threading.Timer(self._time_limit, self._time_out, (process, self._number))
        timer.daemon = True
        timer.start()
        try:
            pickle.dump(request, _pipe(process.stdin), pickle.HIGHEST_PROTOCOL)
            _pipe(process.stdin).flush()
            ok, value = pickle.load(_pipe(process.stdout))
        except _BROKEN:
            ok, value = False, self._failure(process)
        finally:
            timer.cancel()
            with self._lock:
                self._number += 1
        if self._timed_out:  # at the last moment, the answer may even be there
            self.discard()
        if ok:
            return value
        raise value

    def stop(self) -> None:
        """Kills the process, and every later one."""
        self._stopped = True
        if (process := self._process) is not None:
            process.kill()

    def discard(self) -> None:
        """Kills the process, if there is one, and forgets it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):  # a request that nobody read
                    _pipe(pipe).close()
            self._process = None

    def _ready(self) -> _Process:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.discard()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; "
            f"serve({self._time_limit!r}, {self._memory_limit!r})"
        )
        # A process group of its own: Ctrl-C is for the parent, whose end the worker notices.
        group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        try:
            self._process = process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **_ONE_THREAD},
                **group,
            )
            if self._stopped:
                process.kill()
            pickle.load(_pipe(process.stdout))
        except _BROKEN as error:
            if self._stopped:
                raise ResnestError(_CANCELLED) from None
            raise ResnestError(f"cannot start a process for decoding: {error}") from error
        return process

    def _time_out(self, process: _Process, number: int) -> None:
        with self._lock:
            if number == self._number:
                self._timed_out = True
                process.kill()

    def _failure(self, process: _Process) -> ResnestError:
        """Why there is no answer; the next photo gets another process."""
        with suppress(subprocess.TimeoutExpired):  # it still runs if its answer made no sense
            process.wait(1)
        self.discard()
        if self._stopped:
            return ResnestError(_CANCELLED)
        code = process.returncode
        if self._timed_out or code == -getattr(signal, "SIGALRM", 0):
            text = f"cannot be read: decoding took longer than {self._time_limit:g} s"
            return ImageError(text, kind="timed out")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code:#x}"
        how += "; memory may have run out" if how == "SIGKILL" else ""
        text = f"cannot be read: the decoder crashed ({how})"
        return ImageError(text, kind="crashed the decoder")


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def serve(time_limit: float, memory_limit: int) -> NoReturn:
    """The worker: answers requests on stdin until the parent closes it, or dies."""
    _die_with_parent()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a decoder prints must not get between the answers.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # Before the limit, and before the first photo's time begins.
    import resnest_cli.images.decode
    import resnest_cli.images.preprocess  # noqa: F401

    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests, waiting), daemon=True).start()
    _limit_memory(memory_limit)
    with suppress(BrokenPipeError):
        pickle.dump(None, answers)
        answers.flush()
        while True:
            request = waiting.get()
            # The parent keeps the time; this, a second more, is for a worker that is stuck without
            # a parent, on a system other than Linux.
            _alarm(time_limit + 1)
            answer = _answer(request, memory_limit)
            _alarm(0)
            answers.write(answer)
            answers.flush()
    os._exit(0)


def _receive(requests: IO[bytes], waiting: "queue.SimpleQueue[bytes]") -> None:
    """Hands on requests, and ends the process with the last one: the parent is gone."""
    try:
        while True:
            waiting.put(pickle.load(requests))
    finally:
        os._exit(0)


def _die_with_parent() -> None:
    """On Linux: with the thread that started this process, which lives as long as its decoder."""
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _answer(request: bytes, memory_limit: int) -> bytes:
    try:
        function, args, kwargs = pickle.loads(request)
        return pickle.dumps((True, function(*args, **kwargs)), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        failure = error
    if isinstance(failure, MemoryError) or isinstance(failure.__cause__, MemoryError):
        text = f"cannot be read: decoding needed more than {gigabytes(memory_limit)} of memory"
        failure = ImageError(text, kind="unreadable")
    with suppress(Exception):
        answer = pickle.dumps((False, failure), pickle.HIGHEST_PROTOCOL)
        pickle.loads(answer)  # some errors can be written but not read
        return answer
    return pickle.dumps((False, RuntimeError(f"{type(failure).__name__}: {failure}")))


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory(limit: int) -> None:
    if sys.platform == "linux":
        import resource

        with suppress(OSError, ValueError):  # no /proc, or a lower limit is set already
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])
            _, most = resource.getrlimit(resource.RLIMIT_DATA)
            bound = pages * resource.getpagesize() + limit
            resource.setrlimit(resource.RLIMIT_DATA, (bound, most))
