"""Every result once and in order, whatever happens to the process that makes them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from resnest_cli.supervise import Journal, Start
from tests.processes import running, wait_until_gone

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

ROOT = Path(__file__).parent.parent


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.supervised_jobs", name, *arguments]


def job(name: str, stdin: bytes = b"", **arguments: Any) -> Any:
    """The answer of a job that ends well and prints nothing but that."""
    done = subprocess.run(
        command(name, json.dumps(arguments)),
        input=stdin, capture_output=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return json.loads(done.stdout)


def whole(answer: dict[str, Any], hazards: dict[str, str], total: int) -> None:
    """Each input once, in order; those that crash, and only those, as errors."""
    items = dict(answer["items"])
    assert [index for index, _ in answer["items"]] == list(range(total))
    assert [str(index) for index in items if items[index] == "error"] == list(hazards)
    assert answer["error"] is None
    assert answer["children"] == 0


def test_without_a_crash_nothing_is_isolated() -> None:
    answer = job("run", total=40, hazards={})
    assert answer["items"] == [[index, "ok"] for index in range(40)]
    assert answer["returned"] == "skipped 0"
    assert answer["children"] == 0


@pytest.mark.parametrize(
    "hazards",
    [
        {"20": "null", "33": "SIGABRT"},
        {"0": "SIGSEGV"},
        {"49": "SIGBUS"},
        {"0": "SIGILL", "1": "SIGFPE", "49": "SIGKILL"},
        {"7": "exit"},
        {str(index): "SIGSEGV" for index in range(10, 40)},
    ],
    ids=["two", "first", "last", "ends", "exit", "thirty"],
)
def test_crashes(hazards: dict[str, str]) -> None:
    whole(job("run", total=50, hazards=hazards), hazards, 50)


@pytest.mark.parametrize("seed", range(3))
def test_any_crashes(seed: int) -> None:
    random = Random(seed)
    kinds = ["null", "SIGABRT", "SIGKILL", "SIGTERM", "exit", "hang"]
    inputs = sorted(random.sample(range(60), 8))
    hazards = {str(index): random.choice(kinds) for index in inputs}
    whole(job("run", total=60, hazards=hazards, limit=0.3), hazards, 60)


def test_suspects_in_worker_processes() -> None:
    items = job("decoding")
    assert items[3] == "cannot be read: the decoder crashed (SIGSEGV)"
    assert items[7] == "cannot be read: decoding took longer than 1 s"
    assert [item for item in items if isinstance(item, int)] == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]


def test_hangs() -> None:
    hazards = {"5": "hang", "6": "SIGSEGV", "20": "hang_with_lock"}
    begin = time.monotonic()
    whole(job("run", total=30, hazards=hazards, limit=0.5), hazards, 30)
    assert time.monotonic() - begin < 60  # not the 100 s of a hang


def test_after_one_crash_only_the_suspects_are_isolated() -> None:
    items = dict(job("run", total=50, hazards={"20": "SIGSEGV"})["items"])
    care = [index for index, what in items.items() if what != "ok"]
    assert 20 in care
    assert len(care) <= 3  # one for each thread


def test_crash_that_no_input_explains_is_an_error() -> None:
    answer = job("run", total=30, hazards={}, engine=9)
    assert [index for index, _ in answer["items"]] == list(range(9))
    assert "killed by SIGKILL, probably because memory ran out" in answer["error"]
    assert answer["children"] == 0


def test_exceptions_come_over_with_their_traceback() -> None:
    assert job("raises") == {
        "labels": ["LabelsError", "no such list", [0], True],
        "key": ["KeyError", "'bug'", [0], True],
        "exit": ["SystemExit", "141", [0], True],
        "interrupt": ["KeyboardInterrupt", "", [0], True],
        "odd": ["Exception", "OddError: odd", [0], True],
        "odd_labels": ["LabelsError", "odd labels", [0], True],
        "foreign": ["OSError", "LoadError: far away", [0], True],
    }


def test_results_that_cannot_be_sent() -> None:
    assert job("unsendable") == ["AttributeError", "AttributeError"]


def test_memory_error_counts_as_a_crash() -> None:
    assert job("memory") == [1, 2]


def test_large_results_and_a_slow_reader() -> None:
    assert job("big") == [[index, 300_000, 1] for index in range(6)]


def test_half_a_result_is_dropped() -> None:
    assert job("cut") == [5, 3_000_000]


def test_nothing_is_left_open() -> None:
    assert job("fds") == [True, 0]


def test_in_this_process_where_threads_run() -> None:
    assert job("threaded")


def test_threads_of_the_caller_do_not_matter() -> None:
    items = job("caller_threads")
    assert [index for index, _ in items] == list(range(10))


def test_stdin_is_read_again(tmp_path: Path) -> None:
    lines = b"".join(b"line %d\n" % index for index in range(10_000))
    assert job("stdin", stdin=lines) == [10_000, True]
    path = tmp_path / "list"
    path.write_bytes(b"already read\n" + lines)
    with path.open("rb", buffering=0) as file:
        file.read(13)
        done = subprocess.run(command("stdin"), stdin=file, capture_output=True, check=True)
    assert json.loads(done.stdout) == [10_000, True]


def test_stdin_is_read_as_it_comes() -> None:
    with subprocess.Popen(
        command("first_line"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == "one\n"


@contextmanager
def waiting(*arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", list[int]]]:
    """A run that waits for ever, in a process group of its own; and its other processes."""
    with subprocess.Popen(
        command("pids", "{}", *arguments),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, process_group=0,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        child = int(process.stdout.readline())
        stat = Path(f"/proc/{child}/stat")
        keeper = [int(stat.read_text().rpartition(")")[2].split()[1])] if stat.exists() else []
        try:
            yield process, [child, *keeper]
        finally:
            process.kill()


@pytest.mark.parametrize("lock", [(), ("lock",)], ids=["", "child holds the GIL"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_all_end_when_the_caller_is_killed(number: signal.Signals, lock: tuple[str, ...]) -> None:
    with waiting(*lock) as (process, others):
        assert all(running(pid) for pid in others)
        process.send_signal(number)
        assert process.wait(60) == -number
        wait_until_gone(*others)
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("whom", ["the caller", "all, as the terminal does"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts(whom: str, number: signal.Signals) -> None:
    with waiting() as (process, others):
        if whom == "the caller":
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)
        assert process.wait(60) == -number  # as Python ends on Ctrl-C that nobody catches
        wait_until_gone(*others)
        assert process.stderr is not None
        errors = process.stderr.read().decode()
        # One traceback, the caller's own.
        assert errors.count("Traceback") == (number == signal.SIGINT)


def test_keeper_that_is_killed_is_an_error() -> None:
    with waiting() as (process, others):
        if len(others) < 2:
            pytest.skip("cannot tell the keeper")
        os.kill(others[1], signal.SIGKILL)
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert b"the process that watches over the working process" in process.stderr.read()
        wait_until_gone(*others)


def test_time_in_which_all_were_stopped_does_not_count() -> None:
    with subprocess.Popen(
        command("stopped"), stdout=subprocess.PIPE, cwd=ROOT, process_group=0
    ) as process:
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.killpg(process.pid, signal.SIGCONT)
        assert process.stdout is not None
        assert json.loads(process.stdout.read()) == [0, 0]


def test_journal() -> None:
    journal = Journal()
    for index in (5, 7, 6):
        journal.begin(index)
    journal.end(5)
    assert set(journal.in_flight()) == {6, 7}
    assert journal.begun() == 8
    for index in range(100, 100 + 2 * Journal.SLOTS):
        journal.begin(index)
        journal.end(index)
    assert set(journal.in_flight()) == {6, 7}
    assert 0 <= time.monotonic_ns() - journal.in_flight()[7] < 60e9


def test_start_is_plain() -> None:
    assert Start() == Start(0, frozenset(), None)


def test_imports_nothing_heavy() -> None:
    code = "import sys; import resnest_cli.supervise; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {"torch", "numpy", "PIL", "rich", "typer", "multiprocessing", "tempfile", "socket"}
    assert not heavy & set(modules)


def test_overhead() -> None:
    print("supervised:", job("overhead"))


REFUSED = """
import errno, os
from resnest_cli.supervise import supervised
caller, fork = os.getpid(), os.fork
def refused():
    if os.getpid() != caller:
        raise BlockingIOError(errno.EAGAIN, "refused")
    return fork()
os.fork = refused
try:
    list(supervised(lambda start: iter(()), time_limit=9))
except BlockingIOError as error:
    print(error)
"""


def test_a_child_that_the_system_refuses_is_an_error_of_the_system() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSED],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[Errno 11] refused\n", "")
