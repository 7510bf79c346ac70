"""`resnest predict` when a photo crashes, hangs or gluts its decoder: that photo's record only."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.planted_photos import planted_photos, program
from tests.processes import wait_until_gone


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, str]:
    """The errors of the planted ones, by name."""
    return planted_photos(tmp_path / "photos", 9)


@pytest.fixture
def photos(planted: dict[str, str], tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "photos").iterdir())


def predict(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, list[dict], str]:
    command = program("predict", *arguments)
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=280)
    return done.returncode, [json.loads(x) for x in done.stdout.splitlines()], done.stderr.decode()


def check(
    photos: list[Path], planted: dict[str, str], code: int, records: list[dict], err: str
) -> None:
    assert code == 3, err
    assert [r["input"] for r in records] == [str(path) for path in photos]
    failed = {Path(r["input"]).name: r["error"] for r in records if r["status"] == "error"}
    assert failed == planted
    assert "3 of 12" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("options", [[], ["-j", "4", "-b", "3"], ["-j", "0"]])
def test_one_record_each_whatever_happens(
    cli: Cli, tiny_checkpoint: Path, photos: list[Path], planted: dict[str, str],
    options: list[str],
) -> None:  # fmt: skip
    common = ("-m", tiny_checkpoint, "--format", "jsonl")
    code, records, err = predict(*photos, *common, *options)
    check(photos, planted, code, records, err)
    good = [photo for photo in photos if photo.name not in planted]
    alone = [json.loads(line) for line in cli("predict", *good, *common).out.splitlines()]
    kept = [r["predictions"] for r in records if r["status"] == "ok"]
    for one, two in zip(kept, (r["predictions"] for r in alone), strict=True):
        assert [p["index"] for p in one] == [p["index"] for p in two]


def test_a_list_on_stdin_with_hazards(
    tiny_checkpoint: Path, photos: list[Path], planted: dict[str, str]
) -> None:
    listed = "".join(f"{path}\n" for path in photos).encode()
    arguments = ("--from-file", "-", "-m", tiny_checkpoint, "--format", "jsonl", "-b", "2")
    check(photos, planted, *predict(*arguments, stdin=listed))


def test_evaluate_with_hazards(tiny_checkpoint: Path, photos: list[Path], tmp_path: Path) -> None:
    """The same through `evaluate`; they are all of one class."""
    table = tmp_path / "table.csv"
    table.write_text("path,label\n" + "".join(f"{path},0\n" for path in photos))
    command = program("evaluate", table, "-m", tiny_checkpoint, "--format", "json", "-j", "2")
    done = subprocess.run(command, capture_output=True, check=False, timeout=280)
    assert done.returncode == 3, done.stderr
    assert b"3 of 12" in done.stderr


SLOW_NETWORK = """
import ctypes
from resnest_cli.inference.onnx_engine import OnnxEngine
def output(self, batch, name):
    print(*(worker.process.pid for worker in workers), flush=True)
    ctypes.CDLL(None).sleep(60)
OnnxEngine.output = output
from resnest_cli.images import pool
workers = []
class Worker(pool._Worker):
    def __init__(self):
        super().__init__()
        workers.append(self)
pool._Worker = Worker
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("number", "code"),
    [("SIGINT", 130), ("SIGTERM", -signal.SIGTERM), ("SIGHUP", -signal.SIGHUP), ("SIGKILL", -9)],
)
def test_signals_while_the_network_runs(
    tiny_checkpoint: Path, photo: Path, number: str, code: int
) -> None:
    """The process ends at once, and no decoder is left."""
    command = program("predict", photo, photo, "-m", tiny_checkpoint, more=SLOW_NETWORK)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        workers = [int(word) for word in process.stdout.readline().split()]
        begun = time.monotonic()
        process.send_signal(getattr(signal, number))
        assert process.wait(timeout=50) == code
        assert time.monotonic() - begun < 20
        assert process.stderr.read() == b""
    assert workers
    wait_until_gone(*workers)
