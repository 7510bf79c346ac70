"""`resnest features` when it is killed, interrupted, out of disk, or its decoder crashes."""

import csv
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Cli, make_photo
from tests.planted_photos import KINDS, planted_photos
from tests.planted_photos import program as program_of
from tests.processes import wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and fork")


def program(*arguments: str | Path, slow: float = 0.0, more: str = "") -> list[str]:
    more = f"import os; os.environ['SLOW'] = '{slow}'\n{more}"
    return program_of("features", *arguments, more=more)


def run(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        program(*arguments, **options), capture_output=True, text=True, check=False, timeout=120
    )


def interrupted(*arguments: str | Path) -> None:
    """A run that is asked to end after two parts; the output comes last."""
    process = subprocess.Popen(program(*arguments, slow=0.05), stderr=subprocess.DEVNULL)
    folder = Path(f"{arguments[-1]}.parts")
    wait_for(lambda: len(list(folder.glob("part-*.rows"))) >= 2)
    process.terminate()
    process.wait()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(26):
        make_photo(folder / f"{number}.png", (20, 20), seed=number)
    (folder / "7.png").write_bytes(b"")
    return folder


def content(target: Path) -> dict[str, bytes]:
    files = [target.with_suffix(suffix) for suffix in (".npy", ".csv", ".json", ".stat")]
    return {path.suffix: path.read_bytes() for path in files}


@pytest.fixture
def common(photos: Path, tiny_checkpoint: Path) -> list[str | Path]:
    return [photos, "-m", tiny_checkpoint, "-b", "4"]


def test_random_kills_of_all_processes_or_the_caller(
    cli: Cli, common: list[str | Path], tmp_path: Path
) -> None:
    """Three here, many in tests/campaign/kill_features.py."""
    whole, out = tmp_path / "whole.npy", tmp_path / "feats.npy"
    assert cli("features", *common, "-o", whole).code == 3
    rng = random.Random(5)
    folder = tmp_path / "feats.npy.parts"

    def parts() -> int:
        return len(list(folder.glob("part-*.rows")))

    progressed = 0
    for _ in range(3):
        wanted = parts() + rng.choice((1, 2))
        process = subprocess.Popen(
            program(*common, "-o", out, "--resume", slow=0.04), start_new_session=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(lambda: process.poll() is not None or parts() >= wanted)  # noqa: B023 - now
        time.sleep(rng.uniform(0, 0.1))
        if process.poll() is not None:  # no batch was left
            pass
        elif rng.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        progressed += parts() > 0
        if out.exists():
            assert content(out) == content(whole)
            for path in tmp_path.glob("feats.*"):
                path.unlink()
    assert progressed
    assert cli("features", *common, "-o", out, "--resume").code == 3
    assert content(out) == content(whole)
    assert not (tmp_path / "feats.npy.parts").exists()


@pytest.mark.parametrize(
    ("number", "group", "code"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGTERM, True, 143),
        (signal.SIGHUP, True, 129),
    ],
)
def test_a_signal_finishes_the_batch_and_says_how_to_go_on(
    cli: Cli, common: list[str | Path], tmp_path: Path, number: signal.Signals, group: bool,
    code: int,
) -> None:  # fmt: skip
    whole, out = tmp_path / "whole.npy", tmp_path / "my feats.npy"
    assert cli("features", *common, "-o", whole).code == 3
    process = subprocess.Popen(
        program(*common, "-o", out, "-j", "1", slow=0.1), start_new_session=True,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = tmp_path / "my feats.npy.parts"
    wait_for(lambda: any(folder.glob("part-*.rows")))
    (os.killpg if group else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    parts = len(list(folder.glob("part-*.rows")))
    assert not list(folder.glob(".*.tmp"))
    command = re.search(r"Go on with:\n  (resnest features --resume .*)", err)
    assert command is not None, err
    words = shlex.split(command[1])
    assert words[3] == str(common[0])
    refused = cli("features", *common, "-o", out)
    assert refused.code == 2
    assert "--resume goes on" in refused.err
    done = cli(*words[1:])
    assert done.code == 3
    assert f"Going on after {4 * parts} inputs" in done.err
    assert content(out) == content(whole)


def test_a_second_signal_leaves_at_once(cli: Cli, common: list[str | Path], tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.npy", tmp_path / "feats.npy"
    assert cli("features", *common, "-o", whole).code == 3
    process = subprocess.Popen(
        program(*common, "-o", out, slow=20.0), start_new_session=True, stderr=subprocess.PIPE
    )
    wait_for((tmp_path / "feats.npy.parts" / "_manifest.json").exists)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None  # it finishes the batch in hand
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - begun < 30
    assert cli("features", *common, "-o", out, "--resume").code == 3
    assert content(out) == content(whole)


def test_patience_with_the_batch_in_hand_ends(common: list[str | Path], tmp_path: Path) -> None:
    more = "from resnest_cli import signals\nsignals.PATIENCE = 0.5"
    out = tmp_path / "feats.npy"
    process = subprocess.Popen(
        program(*common, "-o", out, slow=20.0, more=more), stderr=subprocess.PIPE, text=True
    )
    wait_for((tmp_path / "feats.npy.parts" / "_manifest.json").exists)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)  # less than the batch would take
    assert process.returncode == 143, err
    assert "Go on with" in err


def test_planted_photos_cost_one_row_each_and_no_bit(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    planted = planted_photos(tmp_path / "photos")
    common = [tmp_path / "photos", "-m", tiny_checkpoint, "-b", "4"]
    out, calm = tmp_path / "feats.npy", tmp_path / "calm.npy"
    result = run(*common, "-o", out)
    assert result.returncode == 3
    assert "3 of 15 inputs could not be read (" in result.stderr
    for kind in KINDS.values():
        assert f"1 {kind}" in result.stderr
    for name in planted:  # unreadable without a crash: the same batches
        (tmp_path / "photos" / name).write_bytes(b"")
    assert cli("features", *common, "-o", calm).code == 3
    assert np.array_equal(np.load(out), np.load(calm))
    with out.with_suffix(".csv").open(newline="") as file:
        lines = [*csv.DictReader(file)]
    assert {Path(x["input"]).name: x["error"] for x in lines if x["error"]} == planted
    assert len(lines) == 15


FULL = """
import resource, signal
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
"""


@pytest.mark.parametrize("limit", [1_500, 5_000, 9_000])
def test_a_full_disk_keeps_the_finished_parts(
    cli: Cli, common: list[str | Path], tmp_path: Path, limit: int
) -> None:
    """1,500 bytes: no listing fits; 5,000: parts do, the output does not; 9,000: nearly."""
    whole, out = tmp_path / "whole.npy", tmp_path / "feats.npy"
    assert cli("features", *common, "-o", whole).code == 3
    result = run(*common, "-o", out, more=FULL.format(limit=limit))
    assert result.returncode == 1, result.stderr
    assert "cannot be written: File too large" in result.stderr
    assert "Traceback" not in result.stderr
    folder = tmp_path / "feats.npy.parts"
    said = re.search(r"(\d+) inputs are done and kept", result.stderr)
    assert (said is not None) == (limit > 2_000)
    if said:
        assert f"{said[1]} inputs are done and kept" in result.stderr
        assert "resnest features --resume" in result.stderr
    else:
        assert not folder.exists()
    again = cli("features", *common, "-o", out, "--resume")
    assert again.code == 3, again.err
    assert content(out) == content(whole)


def test_two_runs_cannot_write_the_same_output(
    cli: Cli, common: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "feats.npy"
    first = subprocess.Popen(program(*common, "-o", out, slow=0.2), stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "feats.npy.parts" / "_manifest.json").exists)
    monkeypatch.setattr("resnest_cli.files.PATIENCE", 0.2)
    second = cli("features", *common, "-o", out, "--resume")
    assert second.code == 1
    assert "another command is writing it" in second.err
    assert first.wait(60) == 3


def test_a_list_that_has_changed_is_refused_by_name(
    cli: Cli, common: list[str | Path], photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "feats.npy"
    interrupted(*common, "-o", out)

    def refused(what: str) -> None:
        result = cli("features", *common, "-o", out, "--resume")
        assert (result.code, what in result.err) == (2, True), result.err

    make_photo(photos / "99.png")
    refused("input 27 is new")
    (photos / "99.png").rename(photos / "0a.png")
    refused("input 2 was")
    (photos / "0a.png").unlink()
    (photos / "5.png").rename(photos / "5b.png")
    refused("input 6 was")
    (photos / "5b.png").unlink()
    refused("input 6 was")
    assert cli("features", *common, "-o", out, "--overwrite").code == 3


def test_a_list_on_stdin_resumes(tiny_checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    listed = "".join(f"{photos / f'{i}.png'}\n" for i in range(26))
    arguments = ["--from-file", "-", "-m", tiny_checkpoint, "-b", "4", "-o", tmp_path / "f.npy"]
    process = subprocess.Popen(
        program(*arguments, slow=0.05), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(listed)
    process.stdin.close()
    folder = tmp_path / "f.npy.parts"
    wait_for(lambda: len(list(folder.glob("part-*.rows"))) >= 2)
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    done = subprocess.run(
        program(*arguments, "--resume"), input=listed, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert len(np.load(tmp_path / "f.npy")) == 25


def test_what_was_left_open_is_kept_on_resume(
    cli: Cli, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The batch size and the engine of the interrupted run, without naming them again."""
    whole, out = tmp_path / "whole.npy", tmp_path / "feats.npy"
    first = [photos, "-m", tiny_checkpoint, "-b", "4", "--engine", "torch"]
    assert cli("features", *first, "-o", whole).code == 3
    interrupted(*first, "-o", out)
    again = ("features", photos, "-m", tiny_checkpoint, "-o", out, "--resume")
    refused = cli(*again, "-b", "8")
    assert refused.code == 2
    assert "--batch-size 4 there, 8 here" in refused.err
    done = cli(*again)
    assert done.code == 3, done.err
    assert content(out) == content(whole)


def test_resume_and_retry_in_one(
    cli: Cli, common: list[str | Path], photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "feats.npy"
    interrupted(*common, "-o", out)
    make_photo(photos / "7.png", (20, 20), seed=7)
    done = cli("features", *common, "-o", out, "--retry-failed")
    assert done.code == 0, done.err
    assert len(np.load(out)) == 26
    assert not (tmp_path / "feats.npy.parts").exists()


def test_progress_on_a_terminal(common: list[str | Path], tmp_path: Path) -> None:
    """Done, a total, photos/s and failures, also where stdout is the terminal; then the summary."""
    import pty

    ours, theirs = pty.openpty()
    more = "from resnest_cli.output import Bar\nBar.DELAY = 0.05"
    process = subprocess.Popen(
        program(*common, "-o", tmp_path / "feats.npy", slow=0.15, more=more),
        stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(120) == 3
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"\d+/26  1 failed  .*s left  .*photos/s", text), text
    assert "feats.npy: float32 (25, 128)" in " ".join(text.split())
    quiet = run(*common, "-o", tmp_path / "quiet.npy", "-q")
    assert quiet.stderr == ""
