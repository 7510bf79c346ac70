"""Work in processes: in order, the first error ends it, and no process is left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnest_cli.data.pack import PhotosDone, run
from resnest_cli.errors import ResnestError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
ROOT = Path(__file__).parents[2]


def square(number: int, photos_done: PhotosDone) -> int:
    photos_done(1)
    return number * number


def failing(number: int, photos_done: PhotosDone) -> int:
    """The third fails; the others would go on for longer than a test may take."""
    if number == 2:
        raise ResnestError("the third cannot be done")
    for _ in range(6000):
        time.sleep(0.1)
        photos_done(1)
    return number


def dying(number: int, _: PhotosDone) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def nothing() -> None:
    """No signal came."""


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers: int) -> None:
    told: list[int] = []
    found = run(square, range(20), workers=workers, progress=told.append, check=nothing)
    assert found == [number * number for number in range(20)]
    assert told[-1] == 20
    assert not multiprocessing.active_children()


@pytest.mark.timeout(120)
def test_the_first_error_stops_all() -> None:
    with pytest.raises(ResnestError, match="the third cannot be done"):
        run(failing, range(3), workers=3, progress=lambda _: None, check=nothing)
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_is_told() -> None:
    with pytest.raises(ResnestError, match=r"has died.* Use fewer --workers"):
        run(dying, range(3), workers=2, progress=lambda _: None, check=nothing)


@pytest.mark.timeout(120)
def test_workers_end_with_their_parent() -> None:
    code = (
        "from tests.data.test_pack_workers import failing, nothing\n"
        "from resnest_cli.data.pack import run\n"
        "run(failing, [0, 1], workers=2, progress=lambda n: print(n, flush=True), check=nothing)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 2:
            pass
        process.kill()
        process.wait()
        # The workers hold the pipe open, and whoever reads it waits for them.
        assert process.stdout.read() == b""
