"""Kills at every step that touches a file; see `violence.py`."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory, where that has a place: the machine stays up, and a disk takes long to sync."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)


def violence(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.jobs.violence", str(folder), *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_kill_at_every_other_step_changes_no_byte(folder: Path) -> None:
    out = violence(folder, "npy", "--every", "2")
    assert int(re.search(r"(\d+) kills", out)[1]) >= 50
    for name in ("open", "write", "fsync", "replace", "unlink", "mkdir"):
        assert re.search(rf"'{name}': \d+", out), "a step that no kill was at"


@pytest.mark.parametrize(
    "kind", ["npz", "csv", "parquet", "retry", "overwrite", "merge", "join", "update", "update-csv"]
)
def test_of_the_others_some_steps(folder: Path, kind: str) -> None:
    violence(folder, kind, "--every", "13", "--double", "3", "--seed", str(len(kind)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["npy", "npz", "csv", "parquet", "retry", "overwrite", "merge", "join", "update", "update-csv"],
)
def test_two_kills_each(folder: Path, kind: str) -> None:
    violence(folder, kind, "--double", "60")
