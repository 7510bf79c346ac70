"""Programs that `tests/test_supervise.py` runs: python -m tests.supervised_jobs NAME [JSON].

Programs of their own, because `supervised` must be called in a process with one thread, and because
this file imports nothing heavy. Each prints one line of JSON.
"""

import ctypes
import io
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from resnest_cli.errors import LabelsError, ResnestError
from resnest_cli.supervise import Journal, Replay, Start, supervised

Item = tuple[int, str]


def hazard(kind: str) -> None:
    if kind == "null":
        ctypes.string_at(0)
    elif kind == "hang":
        time.sleep(100)
    elif kind == "hang_with_lock":
        ctypes.PyDLL(None).sleep(100)
    elif kind == "exit":
        os._exit(0)
    else:
        signal.pthread_kill(threading.get_ident(), signal.Signals[kind])  # as a fault would


def decode(index: int, hazards: dict[str, str], journal: Journal | None) -> Item:
    if journal:
        journal.begin(index)
    try:
        time.sleep(0.002)
        if str(index) in hazards:
            hazard(hazards[str(index)])
    finally:
        if journal:
            journal.end(index)
    return index, "ok"


def photos(
    total: int, hazards: dict[str, str], engine: int | None = None
) -> Callable[[Start], Generator[Item, None, str]]:
    """What `predict` does: three threads decode ahead; suspects are taken care of elsewhere."""

    def work(start: Start) -> Generator[Item, None, str]:
        waiting: deque[Item | Future[Item]] = deque()
        todo = iter(range(start.skip, total))
        with ThreadPoolExecutor(3) as threads:
            while True:
                while len(waiting) < 8 and (index := next(todo, None)) is not None:
                    if index in start.suspects:
                        waiting.append((index, "error" if str(index) in hazards else "isolated"))
                    else:
                        waiting.append(threads.submit(decode, index, hazards, start.journal))
                if not waiting:
                    return f"skipped {start.skip}"
                first = waiting.popleft()
                item = first.result() if isinstance(first, Future) else first
                if item[0] == engine:
                    hazard("SIGKILL")
                yield item

    return work


def decoding() -> None:
    """As `predict` does it, with suspects in worker processes: a crash, a glutton, a hang."""

    def work(start: Start) -> Generator[Any, None, None]:
        from resnest_cli.images.isolation import IsolatedDecoder
        from tests.images import hazards

        todo: list[tuple[Callable[..., Any], Any]] = [(hazards.fill, n) for n in range(12)]
        todo[3], todo[7] = (hazards.crash, "SIGSEGV"), (hazards.hang, 100)
        assert start.journal
        with IsolatedDecoder(time_limit=1) as isolated:
            for index, (function, argument) in enumerate(todo):
                if index in start.suspects:
                    error = isolated.submit(function, argument).exception()
                    yield str(error) if error else index
                elif index >= start.skip:
                    start.journal.begin(index)
                    result = function(argument)
                    start.journal.end(index)
                    yield result

    show(list(supervised(work, time_limit=1)))


def show(value: Any) -> None:
    print(json.dumps(value), flush=True)


def run(total: int, hazards: dict[str, str], limit: float = 30, engine: int | None = None) -> None:
    items: list[Item] = []
    error = None
    try:
        stream = supervised(photos(total, hazards, engine), time_limit=limit)
        while True:
            items.append(next(stream))
    except StopIteration as stop:
        returned = stop.value
    except ResnestError as raised:
        error, returned = str(raised), None
    show({"items": items, "error": error, "returned": returned, "children": children()})


def children() -> int:
    """How many processes this one still has to wait for."""
    try:
        return 1 + os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        return 0


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - Path.iterdir opens one itself


def fds() -> None:
    """Open files and processes before and after runs of all kinds."""

    def once(hazards: dict[str, str], stop: int) -> None:
        stream = supervised(photos(20, hazards), time_limit=30)
        for _ in zip(range(stop), stream):  # noqa: B905
            pass
        stream.close()

    before = open_files()
    for stop in (0, 3, 100):
        once({}, stop)
        once({"2": "SIGSEGV"}, stop)
    del once
    supervised(photos(3, {}), time_limit=30)  # dropped, never asked for anything
    show([before == open_files(), children()])


class OddError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


class OddLabelsError(LabelsError):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd labels")


def raises() -> None:
    """What comes of exceptions in the work."""
    kinds: dict[str, Callable[[], BaseException]] = {
        "labels": lambda: LabelsError("no such list"),
        "key": lambda: KeyError("bug"),
        "exit": lambda: SystemExit(141),
        "interrupt": KeyboardInterrupt,
        "odd": lambda: OddError(1, 2),
        "odd_labels": lambda: OddLabelsError(1, 2),
        "foreign": foreign,
    }

    def work(start: Start) -> Generator[int, None, None]:
        yield 0
        raise kinds[kind]()

    seen = {}
    for kind in kinds:
        items = []
        try:
            for item in supervised(work, time_limit=30):
                items.append(item)  # noqa: PERF402
        except BaseException as error:
            note = "".join(error.__notes__)
            seen[kind] = [type(error).__name__, str(error), items, "in work" in note]
    show(seen)


def foreign() -> BaseException:
    """Of a module that the caller has not loaded and should not load."""
    from http.cookiejar import LoadError

    return LoadError("far away")


def unsendable() -> None:
    def items(start: Start) -> Generator[object, None, None]:
        yield lambda: None

    def end(start: Start) -> Generator[int, None, object]:
        yield 1
        return lambda: None

    seen = []
    for work in (items, end):
        try:
            list(supervised(work, time_limit=30))  # type: ignore[arg-type]
        except Exception as error:
            seen.append(type(error).__name__)
    show(seen)


def pids() -> None:
    """Prints the child's id, then waits; for tests that kill this process."""

    def work(start: Start) -> Generator[int, None, None]:
        yield os.getpid()
        if len(sys.argv) > 3:
            threading.Thread(target=hazard, args=("hang_with_lock",), daemon=True).start()
        time.sleep(100)
        yield 0

    for pid in supervised(work, time_limit=100):
        show(pid)


def memory() -> None:
    def work(start: Start) -> Generator[int, None, None]:
        if start.skip == 0:
            yield 1
            raise MemoryError
        yield 2

    show(list(supervised(work, time_limit=30)))


def big() -> None:
    """Results larger than a pipe, and a slow reader."""

    def work(start: Start) -> Generator[bytes, None, None]:
        for index in range(start.skip, 6):
            if index == 4 and start.skip == 0:
                hazard("SIGSEGV")
            yield bytes([index]) * 300_000

    seen = []
    for item in supervised(work, time_limit=30):
        time.sleep(0.02)
        seen.append([item[0], len(item), len(set(item))])
    show(seen)


def cut() -> None:
    """A crash while a large result is half written."""

    def work(start: Start) -> Generator[bytes, None, None]:
        if start.skip == 0:
            yield b"first"
            threading.Timer(0.2, hazard, ("SIGKILL",)).start()
        yield b"x" * 3_000_000

    stream = supervised(work, time_limit=30)
    seen = [len(next(stream))]
    time.sleep(0.5)
    show([*seen, *map(len, stream)])


def stdin() -> None:
    """Lines of stdin, with a crash on the way."""
    replay = io.BufferedReader(Replay())

    def work(start: Start) -> Generator[str, None, None]:
        for index, line in enumerate(replay):
            if index >= start.skip:
                if index in (5, 4000) and start.skip < index:
                    hazard("SIGSEGV")
                yield line.decode().strip()

    lines = list(supervised(work, time_limit=30))
    show([len(lines), lines == [f"line {index}" for index in range(len(lines))]])


def first_line() -> None:
    """The first line of stdin, while the writer still holds it open."""
    show(next(iter(io.BufferedReader(Replay()))).decode())


def threaded() -> None:
    """Not forked where threads run already."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    show(list(supervised(own_pid, time_limit=30)) == [os.getpid()])
    done.set()


def own_pid(start: Start) -> Iterator[int]:  # type: ignore[misc]
    yield os.getpid()


def caller_threads() -> None:
    """Threads that the caller starts later do not hinder a restart."""
    stream = supervised(photos(10, {"5": "SIGSEGV"}), time_limit=30)
    items = [next(stream)]
    done = threading.Event()
    threading.Thread(target=done.wait).start()
    items += stream
    done.set()
    show(items)


def stopped() -> None:
    """All processes are stopped for longer than the limit while one is at work."""

    def work(start: Start) -> Generator[int, None, None]:
        assert start.journal
        yield start.skip
        start.journal.begin(1)
        time.sleep(0.8)
        start.journal.end(1)
        yield len(start.suspects)

    show(list(supervised(work, time_limit=2)))


def overhead() -> None:
    def work(start: Start) -> Generator[bytes, None, None]:
        record = b"x" * 1000
        for _ in range(start.skip, 20_000):
            yield record

    def phase() -> list[float]:
        def work(start: Start) -> Generator[float, None, None]:
            yield time.perf_counter()

        begin = time.perf_counter()
        stream = supervised(work, time_limit=30)
        began = next(stream)
        came = time.perf_counter()
        deque(stream, maxlen=0)
        return [round((at - begin) * 1e3, 2) for at in (began, came, time.perf_counter())]

    def timed(action: Callable[[], object]) -> float:
        begin = time.perf_counter()
        action()
        return time.perf_counter() - begin

    direct = timed(lambda: deque(work(Start()), maxlen=0))
    forked = timed(lambda: deque(supervised(work, time_limit=30), maxlen=0))
    starts = sorted(timed(lambda: supervised(work, time_limit=30)) for _ in range(20))
    phases = sorted(phase() for _ in range(20))
    journal = Journal()

    def entries() -> None:
        for index in range(20_000):
            journal.begin(index)
            journal.end(index)

    show(
        {
            "start and end, unused, ms": starts[10] * 1e3,
            "until the work begins, until its item comes, until all has ended, ms": phases[10],
            "item us": (forked - direct) / 20_000 * 1e6,
            "journal us": timed(entries) / 20_000 * 1e6,
        }
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    arguments = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    globals()[sys.argv[1]](**arguments)
