"""What fails leaves files as they were, and says so in words; names are held by one process."""

import contextlib
import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnest_cli import files
from resnest_cli.errors import CheckpointError, ResnestError
from resnest_cli.files import (
    BusyError,
    _short_name,
    append,
    atomic_file,
    atomic_path,
    lock_file,
    locked,
    reading,
    temporary_name,
    writing,
)

pytestmark = pytest.mark.usefixtures("impatient")


HOLD = """
import sys, time
from pathlib import Path
from resnest_cli.files import atomic_file, locked
path = Path(sys.argv[2])
kind = {"file": lambda: locked(path), "folder": lambda: locked(folder=path),
        "temporary": lambda: atomic_file(path)}[sys.argv[1]]
with kind() as file:
    print("held", flush=True)
    time.sleep(600)
"""


# The child kills its parent, and lives on until it is told to end.
FORK = """
import os, sys, time
from pathlib import Path
from resnest_cli.files import locked
with locked(Path(sys.argv[1])):
    if os.fork():
        time.sleep(600)
    os.kill(os.getppid(), 9)
    os.read(int(sys.argv[2]), 1)
    os._exit(0)
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)


@pytest.mark.parametrize(
    ("call", "number"), [("write", errno.ENOSPC), ("fsync", errno.EIO), ("write", errno.EIO)]
)
def test_a_line_is_added_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / "index"
    append(path, b"one\n")
    original_write = os.write

    def fail(descriptor: int, data: bytes = b"") -> int:
        if call == "write" and len(data) > 2:
            return original_write(descriptor, data[:2])  # half of it comes through
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        append(path, b"two\n")
    monkeypatch.undo()
    assert path.read_bytes() == b"one\n"
    append(path, b"three\n")
    assert path.read_bytes() == b"one\nthree\n"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "Make room"), (errno.EMFILE, "ulimit -n"), (errno.EROFS, "may be written"),
     (errno.EIO, "disk fails"), (errno.ENAMETOOLONG, "name too long")],
)  # fmt: skip
def test_what_cannot_be_written_is_told_with_its_remedy(number: int, words: str) -> None:
    with pytest.raises(CheckpointError) as told, writing(Path("f.npy"), CheckpointError):
        raise OSError(number, os.strerror(number), ".f.npy.12345678.tmp")
    assert str(told.value).startswith("f.npy: cannot be written: ")
    assert words.lower() in str(told.value).lower()
    with pytest.raises(ResnestError), writing(Path("f.npy")):
        raise ResnestError("as it is")


def test_what_cannot_be_read_is_told_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    with pytest.raises(CheckpointError) as told, reading(path, CheckpointError, then="Copy it."):
        path.read_text()
    assert str(told.value) == f"{path}: cannot be read: No such file or directory. Copy it."
    with (
        pytest.raises(ResnestError, match=r"cannot be read: bad \. here\.$"),
        reading(path, damage=(ValueError,)),
    ):
        raise ValueError("bad \n. here.")
    with pytest.raises(KeyError), reading(path, damage=(ValueError,)):
        raise KeyError
    with pytest.raises(ResnestError, match="ulimit -n"), reading(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_written_by_name_is_whole_or_not_there(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "model.onnx"
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    with contextlib.suppress(KeyError), atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_says_who_has_it_and_may_wait(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with lock_file(lock, mode=0o600):
        assert lock.stat().st_mode & 0o777 == 0o600
        with pytest.raises(BusyError, match=r"^in use$"), lock_file(lock, wait=0, busy="in use"):
            pass
    assert not lock.exists()
    with lock_file(lock, wait=math.inf):
        pass
    with pytest.raises(FileNotFoundError), lock_file(tmp_path / "none" / "lock"):
        pass


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
    assert process.wait(120) == -signal.SIGKILL
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


def test_a_pipe_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.write_text(pipe, "a page")
        assert os.read(reader, 100) == b"a page"
    finally:
        os.close(reader)
    with pytest.raises(OSError, match="is a device or a pipe"), files.atomic_path(pipe) as path:
        path.write_bytes(b"")
    with pytest.raises(OSError, match="is a device or a pipe"):
        files.write_private(pipe, b"")
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


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
    assert _short_name("x" * 254 + "a") != _short_name("x" * 254 + "b")


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
