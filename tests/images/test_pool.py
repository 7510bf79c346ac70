"""A crash, a hang or a glutton costs its own photo, and only that one."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.images import pool, take_note
from resnest_cli.images.pool import Decoders
from tests.images import hazards
from tests.processes import running, wait_until_gone

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
LIMIT = 200_000_000


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MEMORY_LIMIT", LIMIT)


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with pytest.MonkeyPatch.context() as patch, Decoders(2, time_limit=2, max_pixels=1) as running:
        patch.setattr(pool, "MEMORY_LIMIT", LIMIT)
        running._limits = 2, LIMIT
        yield running


def submit(decoders: Decoders, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Runs it in a thread of its own."""
    return ThreadPoolExecutor(1).submit(decoders.run, function, *arguments)


def test_same_array_as_in_this_process(decoders: Decoders, photo: Path) -> None:
    expected = hazards.prepare(str(photo), size=48)
    assert np.array_equal(decoders.run(hazards.prepare, photo.read_bytes(), size=48), expected)
    array = decoders.run(hazards.prepare, str(photo), size=48)
    assert array.dtype == np.float32
    assert np.array_equal(array, expected)
    array += 1  # its own memory, to be written to
    assert np.array_equal(decoders.run(hazards.prepare, str(photo), size=48), expected)


@pytest.mark.parametrize("size", [0, 1000, 2**20, 2**25])
def test_small_and_large_requests_and_results(decoders: Decoders, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert decoders.run(hazards.same, data) == data
    array = np.frombuffer(data, np.uint8)
    assert np.array_equal(decoders.run(hazards.same, array), array)
    assert np.array_equal(decoders.run(hazards.same, [array[::2], array[1:]])[0], array[::2])


@POSIX
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"])
def test_crash(decoders: Decoders, name: str) -> None:
    with pytest.raises(ImageError, match=rf"^cannot be read: the decoder crashed \({name}\)$"):
        decoders.run(hazards.crash, name)


@POSIX
def test_real_crash_kill_and_exit(decoders: Decoders) -> None:
    with pytest.raises(ImageError, match=r"crashed \(SIGSEGV\)") as told:
        decoders.run(hazards.read_null)
    assert told.value.kind == "crashed the decoder"
    with pytest.raises(ImageError, match=r"crashed \(SIGKILL; memory may have run out\)"):
        decoders.run(hazards.crash, "SIGKILL")
    for code in (0, 3):
        with pytest.raises(ImageError, match=rf"crashed \(exit code 0x{code}\)"):
            decoders.run(hazards.leave, code)


@pytest.mark.parametrize("how", [hazards.hang, hazards.hang_with_lock])
def test_hang(how: Callable[[], None]) -> None:
    with Decoders(time_limit=0.3) as decoders:
        words = r"^cannot be read: decoding took longer than 0\.3 s$"
        with pytest.raises(ImageError, match=words) as told:
            decoders.run(how)
        assert told.value.kind == "timed out"
        assert decoders.run(hazards.fill, 7) == 7


@LINUX
def test_memory_limit(decoders: Decoders) -> None:
    assert decoders.run(hazards.fill, LIMIT * 3 // 4) == LIMIT * 3 // 4
    with pytest.raises(ImageError, match="decoding needed more than 200 MB of memory") as told:
        decoders.run(hazards.fill, 2 * LIMIT)
    assert told.value.kind == "unreadable"
    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "PNG")  # 432 MB as RGB
    with pytest.raises(ImageError, match="decoding needed more than 200 MB of memory"):
        decoders.run(hazards.prepare, bomb.getvalue())


def test_many_pixels_may_take_their_memory() -> None:
    with Decoders(max_pixels=10) as few, Decoders(max_pixels=10**9) as many:
        assert (few._limits[1], many._limits[1]) == (LIMIT, 12 * 10**9)


def test_more_pixels_than_any_machine_has_memory_for() -> None:
    with Decoders(max_pixels=10**20) as decoders:
        assert decoders.run(len, b"abc") == 3


def test_errors_come_as_they_are(decoders: Decoders) -> None:
    with pytest.raises(ImageError, match=r"^is damaged: that$"):
        decoders.run(hazards.refuse, "is damaged: that")
    with pytest.raises(KeyError, match="bug"):
        decoders.run(hazards.bug)
    with pytest.raises(RuntimeError, match="UnsendableError: cannot be read back"):
        decoders.run(hazards.unsendable)
    with pytest.raises(Exception, match="pickle"):
        decoders.run(lambda: None)
    with pytest.raises(Exception, match="pickle"):
        decoders.run(hazards.unsendable_result)


def test_a_note_comes_back_with_its_photo(decoders: Decoders) -> None:
    assert decoders.run(hazards.remark, "odd") == "odd"
    assert take_note() == "odd"
    assert decoders.run(hazards.fill, 1) == 1
    assert take_note() is None


def test_output_of_a_library_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with Decoders() as fresh:
        assert fresh.run(hazards.chatter) == "answer"
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "printed by a library\n")


@POSIX
def test_each_is_blamed_for_what_it_did(decoders: Decoders) -> None:
    bad = {5: hazards.crash, 20: hazards.hang, 33: hazards.read_null}
    with ThreadPoolExecutor(7) as threads:
        futures = [
            threads.submit(decoders.run, bad.get(i, hazards.same), *([] if i in bad else [i]))
            for i in range(50)
        ]
    kinds = [(f.exception() and f.exception().kind) or f.result() for f in futures]
    expected: list[Any] = list(range(50))
    expected[5] = expected[33] = "crashed the decoder"
    expected[20] = "timed out"
    assert kinds == expected


def test_one_thread_needs_one_process() -> None:
    with Decoders(8) as decoders:
        assert not decoders._workers
        assert len({decoders.run(hazards.pid) for _ in range(4)}) == 1
        assert len(decoders._workers) == 1


@POSIX
def test_worker_that_dies_idle_costs_nothing(decoders: Decoders) -> None:
    for _ in range(4):
        pid = decoders.run(hazards.pid)
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
    assert decoders.run(hazards.fill, 3) == 3


@POSIX
def test_a_thread_that_ends_takes_no_worker_with_it() -> None:
    with Decoders() as decoders:
        pids = []
        for _ in range(2):
            thread = threading.Thread(target=lambda: pids.append(decoders.run(hazards.pid)))
            thread.start()
            thread.join()
        assert pids[0] == pids[1]


@POSIX
def test_leaving_kills_and_cancels() -> None:
    with Decoders(1) as decoders:
        pid = decoders.run(hazards.pid)
        busy, waiting = (submit(decoders, hazards.hang) for _ in range(2))
        time.sleep(0.1)
        begin = time.monotonic()
    assert time.monotonic() - begin < 30  # not the minute that the photo may take
    wait_until_gone(pid)
    for future in (busy, waiting):
        assert "cancelled" in str(future.exception())
    with pytest.raises(ResnestError, match="cancelled"):
        decoders.run(hazards.pid)


def test_a_python_that_cannot_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with Decoders() as decoders, pytest.raises(ResnestError, match="cannot start a process"):
        decoders.run(hazards.pid)
    monkeypatch.undo()
    monkeypatch.setattr(pool, "_PRELOADED", ("no_such_module",))
    if sys.platform != "win32":
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with Decoders() as decoders, pytest.raises(ResnestError, match="cannot start a process"):
            decoders.run(hazards.pid)


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - Path.iterdir opens one itself


@LINUX
def test_nothing_is_left_open() -> None:
    def once() -> None:
        with Decoders(2) as decoders:
            futures = submit(decoders, hazards.crash), submit(decoders, hazards.fill, 1)
            assert isinstance(futures[0].exception(), ImageError)
            assert futures[1].result() == 1

    once()
    before = open_files()
    once()
    assert open_files() == before


def test_the_first_pool_takes_the_worker_that_was_started_early() -> None:
    pool.begin()
    early = pool._early[0].process
    with Decoders(time_limit=0.3) as first, Decoders() as second:
        assert first.run(hazards.pid) == early.pid != second.run(hazards.pid)
        with pytest.raises(ImageError, match=r"longer than 0\.3 s"):
            first.run(hazards.hang)
    assert early.returncode is not None


PROGRAM = """
import os, sys, threading
from resnest_cli.images import pool
from tests.images import hazards
"""
ORPHANS = (
    PROGRAM
    + """
decoders = pool.Decoders(1)  # with a minute for each photo
print(decoders.run(hazards.pid), flush=True)
if sys.argv[1] != "idle":
    hazard = {"busy": hazards.hang, "stuck": hazards.hang_with_lock}[sys.argv[1]]
    threading.Thread(target=decoders.run, args=(hazard,), daemon=True).start()
sys.stdin.read()
"""
)


@POSIX
@pytest.mark.parametrize("state", ["idle", "busy", pytest.param("stuck", marks=LINUX)])
def test_workers_end_with_their_parent(state: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        time.sleep(0.2)
        assert running(worker)
        parent.kill()
        parent.wait()
    wait_until_gone(worker)


EARLY = (
    PROGRAM
    + """
pool.begin()
print(pool._early[0].process.pid, flush=True)
if sys.argv[1] == "wait":
    sys.stdin.read()
"""
)


@POSIX
@pytest.mark.parametrize("end", ["exit", "wait"])
def test_an_early_worker_that_nobody_needs_ends_quietly(end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", EARLY, end],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stderr is not None
        worker = int(parent.stdout.readline())
        if end == "wait":
            parent.kill()
        assert parent.stderr.read() == b""
    wait_until_gone(worker)


STOPPED = (
    PROGRAM
    + """
with pool.Decoders(time_limit=1) as decoders:
    decoders.run(hazards.fill, 1)
    print("ready", flush=True)
    try:
        decoders.run(hazards.hang, float(sys.argv[1]))
        print("fine")
    except Exception as error:
        print(error.kind)
"""
)


@POSIX
@pytest.mark.parametrize(("seconds", "outcome"), [(0.7, b"fine\n"), (60, b"timed out\n")])
def test_time_in_which_we_were_stopped_does_not_count(seconds: float, outcome: bytes) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(seconds)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == outcome


def test_worker_does_not_import_torch_or_the_command() -> None:
    code = (
        "import sys; from resnest_cli.images import pool; from importlib import import_module\n"
        "for name in pool._PRELOADED: import_module(f'resnest_cli.{name}')\n"
        "print(*sys.modules)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"torch", "torchvision", "typer", "rich", "pebble", "requests"} & set(modules)
