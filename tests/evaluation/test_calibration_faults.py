"""`evaluate --calibrate` replaces a checkpoint whole or not at all, whatever goes wrong."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resnest_cli.errors import CheckpointError
from resnest_cli.model.checkpoint_header import read_info, set_temperature
from tests.evaluation.faults import Steps

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path, tiny_checkpoint: Path) -> tuple[Path, Path]:
    """A folder with a checkpoint, and one that is to be changed."""
    folder = tmp_path / "weights"
    folder.mkdir()
    old = Path(shutil.copy(tiny_checkpoint, folder / "old.safetensors"))
    return old, Path(shutil.copy(old, folder / "best.safetensors"))


def test_the_steps_are_those_of_a_file_that_appears_whole(place: tuple[Path, Path]) -> None:
    steps = Steps()
    with steps.watched():
        set_temperature(place[1], 1.5)
    names = steps.names
    assert names[0] == "create"
    assert names.count("write") >= 3  # the header, and tensors in several parts
    assert [name for name in names if name not in {"create", "write", "flush"}] == [
        "fsync", "rename", "fsync", "remove",
    ]  # fmt: skip
    assert names.index("rename") > max(n for n, name in enumerate(names) if name == "write")
    assert read_info(place[1]).temperature == 1.5


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_an_error_at_any_step_leaves_the_old_file(place: tuple[Path, Path], number: int) -> None:
    old, copy = place

    def fail(_name: str) -> None:
        raise OSError(number, os.strerror(number))

    clean = Steps()
    with clean.watched():
        set_temperature(copy, 1.5)
    new = copy.read_bytes()
    renamed = clean.names.index("rename") + 1
    for at, name in enumerate(clean.names, start=1):
        shutil.copyfile(old, copy)
        with Steps(at, fail).watched():
            if at <= renamed:
                with pytest.raises(CheckpointError, match=r"best\.safetensors: cannot be written"):
                    set_temperature(copy, 1.5)
            else:  # it has its name; what is left to do is not worth an error
                set_temperature(copy, 1.5)
        assert copy.read_bytes() == (old.read_bytes() if at <= renamed else new), (at, name)
        assert {path.name for path in copy.parent.iterdir()} == {old.name, copy.name}, (at, name)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_step_leaves_the_old_file_or_the_new_one(place: tuple[Path, Path]) -> None:
    old, copy = place
    done = subprocess.run(
        [sys.executable, "-m", "tests.evaluation.faults", str(old), str(copy)], cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = [name for name, _, _ in found]
    renamed = names.index("rename")
    assert len(names) > 8
    assert [state for _, state, _ in found] == [
        "old" if at <= renamed else "new" for at in range(len(names))
    ]
    for at, (_, _, others) in enumerate(found):
        assert len(others) == (0 < at <= renamed)  # a hidden temporary file, see `files`
        assert all(re.fullmatch(r"\.best\.safetensors\.[0-9a-f]{8}\.tmp", one) for one in others)
