"""`--runner ray` on the command line: what is refused, before Ray is started."""

import sys
from pathlib import Path

import pytest

from tests.conftest import Cli


@pytest.mark.parametrize("command", ["features", "predict"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray-address", "auto"], "--ray-address goes with --runner ray"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker goes with --runner ray"),
        (["--concurrency", "2"], "--concurrency goes with --runner ray"),
        (["--path-column", "path"], "--path-column goes with --runner ray"),
        (["s3://bucket/a.png"], "s3://bucket/a.png: file systems such as this one need --runner"),
        (["-o", "s3://bucket/out.npy"], "s3://bucket/out.npy: file systems such as this one need"),
        (["--runner", "ray"], "name the folder to write with -o"),
        (["--runner", "ray", "-o", "out", "--resume", "--overwrite"], "it excludes --resume"),
    ],
)
def test_options_that_do_not_go_together(
    cli: Cli, photo: Path, command: str, words: list[str], message: str
) -> None:
    done = cli(command, photo, *words)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["predict", "--runner", "ray", "-o", "o", "--format", "csv"],
            "Ray's are parquet and jsonl",
        ),
        (
            ["predict", "--runner", "ray", "-o", "o", "--html", "a.html"],
            "on this machine (--runner local)",
        ),
        (["features", "--runner", "ray", "-o", "o", "--shard", "1/2"], "Ray divides the inputs"),
    ],
)
def test_what_one_of_them_cannot_do(cli: Cli, photo: Path, words: list[str], message: str) -> None:
    done = cli(words[0], photo, *words[1:])
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize("command", ["features", "predict"])
def test_without_ray_the_message_says_how_to_install_it(
    cli: Cli, photo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = cli(command, photo, "--runner", "ray", "-o", tmp_path / "out")
    assert done.code == 1
    assert "Run: pip install ray pyarrow fsspec" in done.err
    assert not (tmp_path / "out").exists()


def test_the_commands_import_neither_ray_nor_pyarrow(tmp_path: Path) -> None:
    import subprocess

    program = (
        "import sys; from resnest_cli.app import COMMANDS; "
        "from resnest_cli.commands.flags import load; [*map(load, COMMANDS)]; "
        "import resnest_cli.jobs.ray; "
        "print(sorted({'ray', 'pyarrow', 'fsspec', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_address_is_not_taken_for_a_path(
    cli: Cli, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    done = cli("features", photo, "--runner", "ray", "-o", "nosuch://bucket/out")
    assert done.code == 2
    assert "nosuch" in done.err
    assert [path.name for path in tmp_path.iterdir() if "nosuch" in path.name] == []


@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        ("127.0.0.1:1", 1, "no Ray cluster at 127.0.0.1:1"),
        ("ray://127.0.0.1:1", 2, "write HOST:PORT, or auto"),
        ("nonsense", 2, "write HOST:PORT, or auto"),
    ],
)
def test_a_cluster_that_is_not_there(
    cli: Cli, photo: Path, tmp_path: Path, address: str, code: int, message: str
) -> None:
    pytest.importorskip("ray")
    done = cli("features", photo, "--runner", "ray", "-o", tmp_path / "o", "--ray-address", address)
    assert done.code == code
    assert message in done.err
