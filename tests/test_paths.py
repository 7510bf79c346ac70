"""Where caches lie, who may write them, and what happens where there is no place for them."""

import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resnest_cli import files, paths
from resnest_cli.inference import onnx_engine
from resnest_cli.model import hashes
from tests.conftest import Cli

VARIABLES = ("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "RESNEST_HOME")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes and passwd")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets HOME and the variables of caches; the user has no entry in the password file."""

    def nobody(_: int) -> None:
        raise KeyError

    def set_to(**variables: str) -> None:
        monkeypatch.setattr(pwd, "getpwuid", nobody)
        monkeypatch.setattr(onnx_engine, "_said", set())
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a file or folder another user's."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, 12345, -1, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 12345)

    return give


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


# --- no home folder --------------------------------------------------------------------------

HOMELESS = {
    "not set": ({}, "HOME is not set, and the user has no entry in the password file"),
    "empty": ({"HOME": ""}, "HOME is not an absolute path"),
    "relative": ({"HOME": "home"}, "HOME is not an absolute path"),
    "not there": ({"HOME": "/nonexistent"}, "there is no home folder /nonexistent"),
    "relative cache": ({"XDG_CACHE_HOME": "cache"}, "HOME is not set, and the user has no entry"),
    "nowhere": ({"RESNEST_HOME": "/dev/null", "HOME": "/"}, "its variable names no folder"),
    "nobody's": (
        {"RESNEST_HOME": "~nobody-of-ours/x", "HOME": "/"},
        "its variable names no folder",
    ),
}


@pytest.mark.parametrize(("variables", "why"), HOMELESS.values(), ids=HOMELESS)
def test_every_command_runs_without_a_home(
    environment, cli: Cli, photo: Path, tmp_path: Path, monkeypatch, variables, why
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    environment(**variables)
    assert paths.homeless(paths.resnest_home()).startswith(why)
    result = cli("predict", photo, photo, "--model", "demo", "--format", "jsonl")
    assert result.code == 0
    assert result.out.count('"ok"') == 2
    assert result.err.count(f"Compiled models cannot be kept: {why}") == 1
    assert "RESNEST_HOME" in result.err
    for command in (["models"], ["models", "verify"], ["models", "clean"]):
        assert cli(*command).code == 0
    assert {path.name for path in tmp_path.iterdir()} == before  # no folder named ~ or cache


@pytest.mark.parametrize("offline", [(), ("--offline",)])
def test_a_download_without_a_home_names_the_variable(environment, cli: Cli, offline) -> None:
    environment()
    result = cli("download", "resnest14d", *offline)
    assert result.code == 1
    assert "HOME is not set" in result.err
    assert "Set TORCH_HOME to one that can be written" in result.err
    assert "--model demo" in result.err
    assert "/dev/null" not in result.err


def test_weights_of_an_address_without_a_home(environment, cli: Cli, photo: Path) -> None:
    environment()
    source = ("--model", "resnest14d", "--weights", "http://127.0.0.1:9/a.pth")
    result = cli("predict", photo, *source)
    assert result.code == 1
    assert "Set RESNEST_HOME to one that can be written" in result.err
    result = cli("predict", photo, "--model", "resnest14d", "--weights", "~/a.pth")
    assert "~/a.pth: there is no such file" in result.err


def test_variables_give_caches_without_a_home(environment, tmp_path: Path) -> None:
    environment(XDG_CACHE_HOME=str(tmp_path))
    assert paths.resnest_home() == tmp_path / "resnest"
    assert paths.torch_checkpoints_dir() == tmp_path / "torch/hub/checkpoints"
    assert paths.huggingface_hub_dir() == tmp_path / "huggingface/hub"
    assert not any(tmp_path.iterdir())


def test_a_home_of_another_user_counts_as_empty(
    environment, cli: Cli, photo: Path, monkeypatch, tmp_path: Path
) -> None:
    """As with `docker run --user`, which leaves root's HOME: nothing in it may be looked at."""
    home = tmp_path / "other"
    home.mkdir()
    environment(HOME=str(home))
    real = os.stat

    def stat(path, *args, **kwargs):
        if str(path).startswith(f"{home}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "mkdir", lambda path, *_: stat(f"{home}/x"))
    result = cli("predict", photo, "--model", "demo", "--format", "jsonl")
    assert (result.code, result.out.count('"ok"')) == (0, 1)
    assert f"cannot be kept in {home}/.cache/resnest/compiled: Permission denied" in result.err
    assert cli("models").code == 0
    result = cli("download", "resnest14d")
    assert result.code == 1
    assert f"the cache folder {home}/.cache/torch" in result.err
    assert "set TORCH_HOME" in result.err


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="needs root and util-linux to become another user",
)
def test_a_user_id_that_nobody_knows(photo: Path) -> None:
    powers = "-all,+dac_read_search"  # to read a Python that belongs to root
    command = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    command += [f"--{kind}={powers}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    command += [sys.executable, "-m", "resnest_cli", "predict", str(photo), "-m", "demo"]
    left = {k: v for k, v in os.environ.items() if k not in {*VARIABLES, "USER", "LOGNAME"}}
    left["PYTHONPATH"] = str(Path(__file__).parents[1])
    result = subprocess.run(command, env=left, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("HOME is not set, and the user has no entry") == 1


# --- private files and folders ---------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_modes_do_not_follow_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        folder = paths.private_folder(tmp_path / "a" / "b")
        files.write_private(folder / "x", b"1")
        files.write_private(folder / "x", b"22")
    assert [mode(path) for path in (folder.parent, folder, folder / "x")] == [0o700, 0o700, 0o600]
    assert files.read_trusted(folder / "x") == b"22"
    assert not files.distrusted(folder / "x")
    assert [path.name for path in folder.iterdir()] == ["x"]


@pytest.mark.parametrize("bits", [0o620, 0o602, 0o666])
def test_what_others_can_write_is_not_trusted(tmp_path: Path, bits: int) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"1")
    file.chmod(bits)
    assert files.distrusted(file) == "can be written by other users (chmod go-w)"
    with pytest.raises(PermissionError, match=r"can be written by other users \(chmod go-w\)"):
        files.read_trusted(file)
    tmp_path.chmod(0o700 | bits)
    assert mode(paths.private_folder(tmp_path)) == 0o700


def test_what_belongs_to_another_user_is_not_trusted(tmp_path: Path, give_away) -> None:
    file = tmp_path / "folder" / "x"
    file.parent.mkdir(mode=0o755)
    file.write_bytes(b"1")
    file.chmod(0o644)
    assert files.read_trusted(file) == b"1"  # that others may read it is no matter
    give_away(file)
    give_away(file.parent)
    assert files.distrusted(file) == f"belongs to another user (id {file.stat().st_uid})"
    for call in (lambda: files.read_trusted(file), lambda: paths.private_folder(file.parent)):
        with pytest.raises(PermissionError, match="belongs to another user"):
            call()


def test_what_belongs_to_root_is_trusted(tmp_path: Path, monkeypatch) -> None:
    """An administrator's cache, which this user may only read."""
    if tmp_path.stat().st_uid != 0:
        pytest.skip("only root has files of root")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    file = tmp_path / "x"
    file.write_bytes(b"1")
    assert files.read_trusted(file) == b"1"
    assert paths.private_folder(tmp_path) == tmp_path


def test_links(tmp_path: Path, give_away) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    link, folder = tmp_path / "link", tmp_path / "folder"
    link.symlink_to(precious)
    assert files.distrusted(link) == "is a link"
    with pytest.raises(OSError, match="symbolic links"):
        files.read_trusted(link)
    files.write_private(link, b"mine")  # replaces the link
    assert (precious.read_bytes(), link.read_bytes()) == (b"precious", b"mine")
    folder.symlink_to(tmp_path)
    assert paths.private_folder(folder) == folder  # one's own: the cache lies on another disk
    give_away(folder)
    with pytest.raises(PermissionError, match="belongs to another user"):
        paths.private_folder(folder)


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo])
def test_what_is_no_folder(tmp_path: Path, make) -> None:
    make(tmp_path / "x")
    with pytest.raises(NotADirectoryError):
        paths.private_folder(tmp_path / "x")
    with pytest.raises(NotADirectoryError):
        paths.private_folder(tmp_path / "x" / "y")


# --- the memory of hashes --------------------------------------------------------------------


@pytest.fixture
def remembered(tmp_path: Path) -> Path:
    """A file whose remembered hash is not its own."""
    path = tmp_path / "net.pth"
    path.write_bytes(b"weights")
    with umask(0o000):
        hashes.remember(path, "0" * 64)
    assert hashes.known_sha256(path) == "0" * 64
    return path


def memory() -> Path:
    return paths.resnest_home() / "verified.json"


def test_the_memory_is_private(remembered: Path) -> None:
    assert [mode(memory()), mode(memory().parent)] == [0o600, 0o700]


def test_a_memory_that_others_can_write_counts_as_empty(remembered: Path) -> None:
    memory().chmod(0o620)
    assert hashes.known_sha256(remembered) == hashes.sha256_of(remembered)
    assert mode(memory()) == 0o600  # written anew


def test_a_memory_of_another_user_counts_as_empty(remembered: Path, give_away) -> None:
    give_away(memory())
    assert hashes.known_sha256(remembered) == hashes.sha256_of(remembered)


def test_a_memory_that_is_a_link_counts_as_empty(remembered: Path, tmp_path: Path) -> None:
    memory().rename(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    memory().symlink_to(tmp_path / "elsewhere")
    assert hashes.known_sha256(remembered) == hashes.sha256_of(remembered)
    assert (tmp_path / "elsewhere").read_bytes() == before


def test_a_time_that_was_set_back_deceives_nobody(remembered: Path) -> None:
    stat = remembered.stat()
    time.sleep(0.03)  # a tick of a coarse clock
    remembered.write_bytes(b"changed")
    os.utime(remembered, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert hashes.known_sha256(remembered) == hashes.sha256_of(remembered)
