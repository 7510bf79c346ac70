"""Names that are held: by one process, without litter, and never by a dead one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnest_cli import locks
from resnest_cli.errors import ResnestError
from resnest_cli.files import atomic_file, temporary_name
from resnest_cli.locks import locked, short_name

HOLD = """
import sys, time
from pathlib import Path
from resnest_cli.locks import locked
from resnest_cli.files import atomic_file
path = Path(sys.argv[2])
kind = {"file": lambda: locked(path), "folder": lambda: locked(folder=path),
        "temporary": lambda: atomic_file(path)}[sys.argv[1]]
with kind() as file:
    print("held", flush=True)
    time.sleep(60)
"""


# The child kills its parent, and lives on until it is told to end.
FORK = """
import os, sys, time
from pathlib import Path
from resnest_cli.locks import locked
with locked(Path(sys.argv[1])):
    if os.fork():
        time.sleep(60)
    os.kill(os.getppid(), 9)
    os.read(int(sys.argv[2]), 1)
    os._exit(0)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.1)


def holder(kind: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, kind, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_one_process_holds_a_name_until_it_ends(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    mine = {"file": lambda: locked(path), "folder": lambda: locked(folder=path)}[kind]
    process = holder(kind, path)
    with pytest.raises(ResnestError, match="out: another command is writing it"), mine():
        pass
    with locked(tmp_path / "other"):  # other names are free
        pass
    kill(process)
    assert [p.name for p in tmp_path.rglob("*.lock")] in ([".out.lock"], [".lock"])
    with mine():  # what a kill has left holds nothing
        pass
    assert list(tmp_path.rglob("*")) == []


def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    told, tell = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", FORK, str(tmp_path / "out"), str(told)],
        pass_fds=[told], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.wait(30) == -signal.SIGKILL
    with locked(tmp_path / "out"):
        pass
    os.write(tell, b"!")
    os.close(told)
    os.close(tell)


@pytest.mark.parametrize("name", ["/dev/null", "pipe"])
def test_devices_and_pipes_are_not_held(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    with locked(path), locked(path):
        assert [p.name for p in tmp_path.iterdir()] in ([], ["pipe"])


def test_a_link_and_its_file_are_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    with (
        locked(tmp_path / "file"),
        pytest.raises(ResnestError, match="link"),
        locked(tmp_path / "link"),
    ):
        pass


def test_names_of_any_length(tmp_path: Path) -> None:
    for name in ("x" * 255, "狗" * 85, "x" * 250 + ".html"):
        path = tmp_path / name
        with locked(path), atomic_file(path) as file:
            file.write(b"data")
        assert path.read_bytes() == b"data"
        path.unlink()
    assert list(tmp_path.iterdir()) == []
    assert short_name("x" * 254 + "a") != short_name("x" * 254 + "b")


def test_what_a_kill_left_half_written_goes_with_the_next_that_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    process = holder("temporary", path)
    (living,) = tmp_path.iterdir()
    others = temporary_name(tmp_path / "other.safetensors")
    others.write_bytes(b"half")
    mine = ".best.safetensors.mine.tmp"
    (tmp_path / mine).write_bytes(b"the user's")

    def write() -> set[str]:
        subprocess.run(
            [sys.executable, "-c",
             "import sys; from pathlib import Path; from resnest_cli.files import write_text; "
             "write_text(Path(sys.argv[1]), 'whole')", str(path)], check=True,
        )  # fmt: skip
        return {p.name for p in tmp_path.iterdir()}

    assert write() == {path.name, living.name, others.name, mine}
    kill(process)
    time.sleep(0.05)
    assert write() == {path.name, others.name, mine}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_file_in_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.touch()
    tmp_path.chmod(0o555)
    with locked(path):  # it is written in place; beside it nothing can be
        pass
    with pytest.raises(ResnestError, match="cannot be written"), locked(tmp_path / "new"):
        pass
    tmp_path.chmod(0o755)
