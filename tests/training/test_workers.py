"""Worker processes: whatever becomes of them, the main process is told and does not hang."""

import contextlib
import errno
import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from resnest_cli.data.dataset import Sample
from resnest_cli.errors import ResnestError, limit_reached
from resnest_cli.training.augment import Augment
from resnest_cli.training.loader import Batches
from resnest_cli.training.order import Draw
from tests.conftest import make_photo
from tests.training.test_loader import CONFIG, PREPROCESSING, ROOT, Slow

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, signals")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """DataLoader looks every 5 seconds whether its workers live; here ten times a second."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    paths = [make_photo(tmp_path / f"{index}.jpg", (50, 40), seed=index) for index in range(8)]
    return [Sample(str(path), path.name, index % 2) for index, path in enumerate(paths)]


def slow(samples: list[Sample], seconds: float) -> Batches:
    return Batches(samples, Slow(seconds), Draw(2, 0), workers=1)  # type: ignore[arg-type]


def only_worker() -> int:
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    return worker.pid


def test_a_death_is_told_where_the_next_batch_is_awaited_and_nowhere_else(
    samples: list[Sample],
) -> None:
    loader = slow(samples, 0.2)
    before = signal.getsignal(signal.SIGCHLD)
    found = loader.epoch(0)
    next(found)
    assert signal.getsignal(signal.SIGCHLD) == before
    os.kill(only_worker(), signal.SIGKILL)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:  # torch's own handler would raise in here
        torch.ones(10).sum()
    with pytest.raises(ResnestError, match=r"It was killed.*--workers 0.*--resume"):
        list(found)
    loader.close()


_collecting: list[bool] = []  # whether a forked process is to collect garbage at once
os.register_at_fork(after_in_child=lambda: _collecting and gc.collect())


def test_a_worker_does_not_destroy_the_garbage_of_its_parent(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine's session, destroyed in a forked process, waits for threads that are not there."""
    destroyed = tmp_path / "destroyed"

    class InACircle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            with destroyed.open("a") as file:
                file.write(f"{os.getpid()}\n")

    loader = slow(samples, 0)
    gc.disable()
    try:
        InACircle()
        with monkeypatch.context() as patch:
            patch.setitem(globals(), "_collecting", [True])
            assert len(list(loader.epoch(0))) == 4
    finally:
        gc.enable()
    loader.close()
    assert destroyed.read_text() == f"{os.getpid()}\n"


def test_garbage_is_not_collected_where_nothing_is_forked(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes as long as a small epoch, and would come before every one."""
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("collected"))
    with contextlib.closing(Batches(samples, PREPROCESSING, Draw(2, 0))) as loader:
        assert len(list(loader.epoch(0))) == len(list(loader.epoch(1))) == 4


def test_a_bus_error_speaks_of_shared_memory(
    samples: list[Sample], capfd: pytest.CaptureFixture[str]
) -> None:
    loader = slow(samples, 0.2)
    found = loader.epoch(0)
    next(found)
    os.kill(only_worker(), signal.SIGBUS)
    with pytest.raises(ResnestError, match=r"Shared memory ran full.*--shm-size"):
        list(found)
    loader.close()


def test_shared_memory_that_runs_full_is_told(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # the worker is forked with it
    loader = slow(samples, 0)
    with pytest.raises(ResnestError, match=r"does not fit into shared memory.*--workers 0"):
        list(loader.epoch(0))
    loader.close()


def test_a_stuck_worker_is_killed_when_the_run_ends(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnest_cli.training.workers._PATIENCE", 0.2)
    loader = slow(samples, 250)
    waiting = loader.epoch(0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    gc.disable()  # what is raised while garbage is collected is lost
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(waiting)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    begin = time.monotonic()
    loader.close()
    assert time.monotonic() - begin < 60
    assert not multiprocessing.active_children()


UNCLOSED = """
import sys
from tests.training.test_workers import *
found = slow([Sample(path, path, 0) for path in sys.argv[1:]], 200).epoch(0)
batches = slow([Sample(path, path, 0) for path in sys.argv[1:]], 0)
next(batches.epoch(0))
signal.signal(signal.SIGALRM, lambda *_: sys.exit(7))
signal.setitimer(signal.ITIMER_REAL, 0.5)
next(found)
"""


def test_a_program_that_closes_nothing_ends_all_the_same(samples: list[Sample]) -> None:
    command = [sys.executable, "-c", UNCLOSED, *(sample.path for sample in samples)]
    ended = subprocess.run(command, cwd=ROOT, timeout=120, check=False, stderr=subprocess.DEVNULL)
    assert ended.returncode == 7


def test_sigterm_is_left_to_the_main_process(samples: list[Sample]) -> None:
    loader = slow(samples, 0.1)
    found = loader.epoch(0)
    next(found)
    os.kill(only_worker(), signal.SIGTERM)
    assert len(list(found)) == 3
    loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_torchs_generator_is_left_alone(samples: list[Sample], workers: int) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    augment = Augment(CONFIG, PREPROCESSING)
    loader = Batches(samples, augment, Draw(4, 0), workers=workers)
    list(loader.epoch(0))
    loader.close()
    assert torch.equal(torch.rand(1), expected)


def test_a_photo_that_a_balanced_epoch_repeats_is_varied_each_time(samples: list[Sample]) -> None:
    few = [replace(sample, label=int(place == 0)) for place, sample in enumerate(samples)]
    augment = Augment(CONFIG, PREPROCESSING)
    loader = Batches(few, augment, Draw(8, 0, balanced=True))
    (batch,) = loader.epoch(0)
    repeated = [p for p, i in zip(batch.photos, batch.indices, strict=True) if i == 0]
    assert len(repeated) == 4
    assert len({photo.numpy().tobytes() for photo in repeated}) == 4


def test_more_workers_than_cores_are_no_warning(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    loader = Batches(samples, Augment(CONFIG, PREPROCESSING), Draw(2, 0), workers=3)
    assert len(list(loader.epoch(0))) == 4
    loader.close()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EROFS, errno.EACCES, errno.ENOSYS])
def test_a_machine_without_shared_memory(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("_multiprocessing.SemLock", refuse)
    with pytest.raises(ResnestError, match=r"no shared memory for .* --workers 0.*--shm-size 2g"):
        slow(samples, 0)


@pytest.mark.parametrize("good", [0, 1])
def test_processes_that_cannot_be_started(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch, good: int,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    original, forks = os.fork, itertools.count()

    def fork() -> int:
        if next(forks) >= good:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return original()

    loader = Batches(samples, Augment(CONFIG, PREPROCESSING), Draw(2, 0), workers=2)
    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(ResnestError, match=r"refuses another process .* --workers 0"):
        list(loader.epoch(0))
    loader.close()
    gc.collect()
    assert not multiprocessing.active_children()
    assert capfd.readouterr().err == ""


FEW_FILES = """
import resource, sys
from tests.training.test_workers import *

def work():
    photos = [Sample(path, path, 0) for path in sys.argv[1:]]
    loader = Batches(photos, Augment(CONFIG, PREPROCESSING), Draw(2, 0), workers=2)
    for epoch in range(2):
        list(loader.epoch(epoch))
    loader.close()

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (16, hard))
work()  # which raises it
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
try:
    work()
except ResnestError as error:
    print(error)
"""


def test_a_limit_of_open_files(samples: list[Sample]) -> None:
    command = [sys.executable, "-c", FEW_FILES, *(sample.path for sample in samples)]
    done = subprocess.run(
        command, cwd=ROOT, timeout=120, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("this process may open no more files (`ulimit -n`")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n 4096"),
        (OSError(errno.ENFILE, "x"), "the whole machine"),
        (BlockingIOError(errno.EAGAIN, "x"), "--workers 0"),
        (OSError(errno.ENOMEM, "x"), "refuses more memory"),
        (RuntimeError("can't start new thread"), "another process or thread"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n 4096"),
        (RuntimeError("Too many open files. Communication with the workers"), "ulimit -n 4096"),
        (OSError(errno.ENOSPC, "No space left on device"), None),
        (RuntimeError("shape mismatch"), None),
        (ValueError("too many open files"), None),
    ],
)
def test_limits_of_the_machine(error: Exception, words: str | None) -> None:
    found, outer = limit_reached(error), ResnestError("photo")
    assert found is None if words is None else words in str(found)
    outer.__cause__ = error
    assert limit_reached(outer) == found
    later = RuntimeError("cannot join thread before it is started")
    later.__context__ = error
    assert limit_reached(later) == found
