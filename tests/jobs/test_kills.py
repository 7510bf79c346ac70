"""Kills at every step that touches a file; see `violence.py`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
ROOT = Path(__file__).parents[2]


def violence(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.jobs.violence", str(folder), *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_kill_at_every_step_changes_no_byte(tmp_path: Path) -> None:
    out = violence(tmp_path, "npy")
    assert int(re.search(r"(\d+) kills", out)[1]) >= 100
    for name in ("open", "write", "fsync", "replace", "unlink", "mkdir"):
        assert re.search(rf"'{name}': \d+", out), "a step that no kill was at"


@pytest.mark.parametrize("kind", ["npz", "csv", "parquet", "retry", "overwrite", "merge"])
def test_of_the_others_some_steps(tmp_path: Path, kind: str) -> None:
    violence(tmp_path, kind, "--every", "7", "--double", "5", "--seed", str(len(kind)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "parquet", "retry", "overwrite", "merge"])
def test_two_kills_each(tmp_path: Path, kind: str) -> None:
    violence(tmp_path, kind, "--double", "60")
