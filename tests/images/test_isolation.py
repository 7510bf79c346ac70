"""A crash, a hang or a glutton costs its own photo, and only that one."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.images.isolation import IsolatedDecoder
from tests.images import hazards
from tests.processes import running, wait_until_gone

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
LIMIT = 200_000_000


@pytest.fixture(scope="module")
def decoder() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder(2, time_limit=2, memory_limit=LIMIT) as running:
        yield running


def test_same_array_as_in_this_process(decoder: IsolatedDecoder, photo: Path) -> None:
    expected = hazards.prepare(str(photo), size=48)
    assert np.array_equal(
        decoder.submit(hazards.prepare, photo.read_bytes(), size=48).result(), expected
    )
    array = decoder.submit(hazards.prepare, str(photo), size=48).result()
    assert array.dtype == np.float32
    assert np.array_equal(array, expected)


@POSIX
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"])
def test_crash(decoder: IsolatedDecoder, name: str) -> None:
    with pytest.raises(ImageError, match=rf"^cannot be read: the decoder crashed \({name}\)$"):
        decoder.submit(hazards.crash, name).result()


@POSIX
def test_real_crash_kill_and_exit(decoder: IsolatedDecoder) -> None:
    with pytest.raises(ImageError, match=r"crashed \(SIGSEGV\)") as told:
        decoder.submit(hazards.read_null).result()
    assert told.value.kind == "crashed the decoder"
    with pytest.raises(ImageError, match=r"crashed \(SIGKILL; memory may have run out\)"):
        decoder.submit(hazards.crash, "SIGKILL").result()
    for code in (0, 3):
        with pytest.raises(ImageError, match=rf"crashed \(exit code 0x{code}\)"):
            decoder.submit(hazards.leave, code).result()


@pytest.mark.parametrize("how", [hazards.hang, hazards.hang_with_lock])
def test_hang(how: object) -> None:
    with IsolatedDecoder(time_limit=0.3) as decoder:
        words = r"^cannot be read: decoding took longer than 0\.3 s$"
        with pytest.raises(ImageError, match=words) as told:
            decoder.submit(how).result()  # type: ignore[arg-type]
        assert told.value.kind == "timed out"
        assert decoder.submit(hazards.fill, 7).result() == 7


@LINUX
def test_memory_limit(decoder: IsolatedDecoder) -> None:
    assert decoder.submit(hazards.fill, LIMIT * 3 // 4).result() == LIMIT * 3 // 4
    with pytest.raises(ImageError, match="decoding needed more than 200 MB of memory") as told:
        decoder.submit(hazards.fill, 2 * LIMIT).result()
    assert told.value.kind == "unreadable"


@LINUX
def test_memory_limit_inside_the_decoder(decoder: IsolatedDecoder) -> None:
    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "PNG")  # 432 MB as RGB
    with pytest.raises(ImageError, match="decoding needed more than 200 MB of memory"):
        decoder.submit(hazards.prepare, bomb.getvalue()).result()


def test_errors_come_as_they_are(decoder: IsolatedDecoder) -> None:
    with pytest.raises(ImageError, match=r"^is damaged: that$"):
        decoder.submit(hazards.refuse, "is damaged: that").result()
    with pytest.raises(KeyError, match="bug"):
        decoder.submit(hazards.bug).result()
    with pytest.raises(RuntimeError, match="UnsendableError: cannot be read back"):
        decoder.submit(hazards.unsendable).result()
    with pytest.raises(Exception, match="pickle"):
        decoder.submit(lambda: None).result()


def test_output_of_a_library_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with IsolatedDecoder() as fresh:
        assert fresh.submit(hazards.chatter).result() == "answer"
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "printed by a library\n")


@POSIX
def test_two_crashers_among_fifty(decoder: IsolatedDecoder) -> None:
    futures = [
        decoder.submit(hazards.crash) if i in (20, 33) else decoder.submit(hazards.fill, i)
        for i in range(50)
    ]
    results = [i if f.exception() else f.result() for i, f in enumerate(futures)]
    assert results == list(range(50))
    assert [i for i, f in enumerate(futures) if f.exception()] == [20, 33]


@POSIX
def test_worker_that_dies_idle_costs_nothing(decoder: IsolatedDecoder) -> None:
    for _ in range(4):
        pid = decoder.submit(hazards.pid).result()
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
    assert decoder.submit(hazards.fill, 3).result() == 3


def test_nothing_starts_before_the_first_photo() -> None:
    with IsolatedDecoder(8) as decoder:
        assert decoder._workers == []


@POSIX
def test_leaving_kills_and_cancels() -> None:
    with IsolatedDecoder(1) as decoder:
        pid = decoder.submit(hazards.pid).result()
        busy = decoder.submit(hazards.hang)
        waiting = decoder.submit(hazards.pid)
        time.sleep(0.1)
        begin = time.monotonic()
    assert time.monotonic() - begin < 30  # not the minute that the photo may take
    wait_until_gone(pid)
    assert "cancelled" in str(busy.exception())
    assert waiting.cancelled()


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - Path.iterdir opens one itself


@LINUX
def test_nothing_is_left_open() -> None:
    def once() -> None:
        with IsolatedDecoder(2) as decoder:
            futures = [decoder.submit(hazards.crash), decoder.submit(hazards.fill, 1)]
            assert isinstance(futures[0].exception(), ImageError)
            assert futures[1].result() == 1

    once()
    before = open_files()
    once()
    assert open_files() == before


ORPHANS = """
import os, sys
from resnest_cli.images.isolation import IsolatedDecoder
from tests.images import hazards
decoder = IsolatedDecoder(1)  # with a minute for each photo
print(decoder.submit(hazards.pid).result(), flush=True)
if sys.argv[1] != "idle":
    decoder.submit({"busy": hazards.hang, "stuck": hazards.hang_with_lock}[sys.argv[1]])
sys.stdin.read()
"""


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


def test_worker_does_not_import_torch_or_the_command() -> None:
    code = (
        "import sys; import resnest_cli.images.isolation, resnest_cli.images.decode, "
        "resnest_cli.images.preprocess; print(*sys.modules)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"torch", "torchvision", "typer", "rich", "pebble", "requests"} & set(modules)
