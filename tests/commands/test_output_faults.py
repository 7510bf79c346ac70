"""stdout, stderr and outputs that fail: what is left, and what the next command makes of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import locked
from resnest_cli.jobs import local
from resnest_cli.jobs.assemble import FileParts, outputs
from resnest_cli.jobs.file_output import FileOutput, held
from resnest_cli.jobs.listing import ListShard
from resnest_cli.jobs.merge import merge
from tests.conftest import Cli, make_photo
from tests.jobs import fake

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{i}{'bad' if i == 3 else ''}.jpg\n" for i in range(10)))
    return path


def content(target: Path) -> list[bytes]:
    return [path.read_bytes() for path in outputs(target)]


def resnest(command: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Through a shell, for its redirections; `$@` are the arguments."""
    program = f'exec "{sys.executable}" -m resnest_cli {command}'
    return subprocess.run(
        ["sh", "-c", program, "sh", *map(str, arguments)],
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip


@needs_full
@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_a_stderr_that_fails_loses_messages_only(
    tiny_checkpoint: Path, tmp_path: Path, stderr: str
) -> None:
    photo = make_photo(tmp_path / "p.png")
    command = f'predict "$@" --format jsonl {stderr}'
    done = resnest(command, photo, tmp_path / "gone.png", "-m", tiny_checkpoint)
    assert done.returncode == 3
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["status"] for one in records] == ["ok", "error"]


@needs_full
@pytest.mark.parametrize("command", ["--help", "--version", "models", "predict --help"])
@pytest.mark.parametrize(
    ("stdout", "words"), [(">/dev/full", "cannot be written: No space"), (">&-", "is closed")]
)
def test_a_stdout_that_fails_is_an_error(command: str, stdout: str, words: str) -> None:
    done = resnest(f"{command} {stdout}")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("error: standard output")
    assert words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "another's", "gone"])
def test_what_is_missing_of_parts_is_computed_again(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(local, "MOST_INPUTS", 4)
    fake.run(fake.job_for(tmp_path / "whole.npy", listed))
    target = tmp_path / "out.npy"
    original = FileOutput.commit

    def commit(self: FileOutput, number: int, items: list) -> object:
        done = original(self, number, items)
        if number == 1:
            with self.writing(str(target)):
                raise OSError(28, "No space left on device")
        return done

    monkeypatch.setattr(FileOutput, "commit", commit)
    with pytest.raises(ResnestError, match=r"Make room.* 8 inputs are done and kept"):
        fake.run(fake.job_for(target, listed))
    monkeypatch.setattr(FileOutput, "commit", original)
    folder = FileParts(target).beside
    part = folder / "part-00001.rows"
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-1])
    elif damage == "empty":
        part.write_bytes(b"")
    elif damage == "another's":
        part.write_bytes((folder / "part-00000.rows").read_bytes())
    else:
        part.unlink()
    fake.COMPUTED.clear()
    report = fake.run(fake.job_for(target, listed), resume=True)
    assert len(fake.COMPUTED) == 6, "no part but this and the one that was missing"
    assert report.damaged == (0 if damage == "gone" else 4)
    assert content(target) == content(tmp_path / "whole.npy")
    assert not folder.exists()


@pytest.mark.parametrize("name", ["out.csv", "out.json", "out.npy"])
def test_names_that_could_not_be_given_are_given_by_the_next(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of a run, whose failures are not forgotten, and of a merge."""
    target = tmp_path / "out.npy"
    shards = [tmp_path / f"shard{i}.npy" for i in (1, 2)]
    for number, shard in enumerate(shards, start=1):
        fake.run(fake.job_for(shard, listed, shard=ListShard(number, 2)))
    original = Path.replace

    def replace(self: Path, to: Path) -> Path:
        if Path(to).name == name:
            raise OSError(5, "Input/output error")
        return original(self, to)

    def failing(action: object) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            with pytest.raises(ResnestError, match="cannot be written: Input/output error"):
                action()  # type: ignore[operator]

    def merged() -> None:
        with held(target):
            merge(shards, target, overwrite=False)

    failing(merged)
    merged()
    expected = content(target)
    merged()  # a kill in the last clean-up: it is there already
    for path in outputs(target):
        path.unlink()
    failing(lambda: fake.run(fake.job_for(target, listed)))
    report = fake.run(fake.job_for(target, listed), resume=True)
    assert not report.finished_before  # so the exit code is 3
    assert report.info["counts"]["failed"] == 1
    assert content(target) == expected
    assert fake.run(fake.job_for(target, listed), resume=True).finished_before


def test_two_formats_of_one_name(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnest_cli.files.PATIENCE", 0.1)
    one, two = fake.job_for(tmp_path / "f.npy", listed), fake.job_for(tmp_path / "f.npz", listed)
    with held(tmp_path / "f.npy"), pytest.raises(ResnestError, match=r"f\.csv: another command"):
        fake.run(two)

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("resnest_cli.jobs.file_output.from_parts", fails)
        with pytest.raises(ResnestError, match="Make room"):
            fake.run(one)
    with pytest.raises(UsageError, match=r"f\.npy\.parts holds an unfinished run"):
        fake.run(two)
    fake.run(one, resume=True)
    assert sorted(path.name for path in tmp_path.glob("f.*")) == [
        "f.csv", "f.json", "f.npy", "f.stat",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [("predict", "-o", "x.csv"), ("predict", "--html", "x.html"),
                  ("export", "-o", "x.onnx"), ("export", "--hub", "hub"),
                  ("explain", "-o", "x.png")],
)  # fmt: skip
def test_what_another_command_writes_is_refused(
    cli: Cli, tiny_checkpoint: Path, photo: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str, str],
) -> None:  # fmt: skip
    monkeypatch.setattr("resnest_cli.files.PATIENCE", 0.1)
    command, option, name = arguments
    place = tmp_path / name
    photos = () if command == "export" else (photo,)
    before = sorted(tmp_path.iterdir())
    with locked(*(() if name == "hub" else (place,)), folder=place if name == "hub" else None):
        result = cli(command, *photos, option, place, "-m", tiny_checkpoint)
    assert result.code == 1, result.err
    assert f"{place}: another command is writing it" in result.err
    assert {p for p in tmp_path.iterdir() if p.suffix != ".cache"} - set(before) <= {
        tmp_path / "resnest_home"
    }


def test_other_failures_of_the_machine_are_no_internal_errors(
    cli: Cli, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(24, os.strerror(24), "feats.csv")

    monkeypatch.setattr("resnest_cli.inference.classifier.find_model", full)
    result = cli("predict", photo)
    assert result.code == 1
    assert "feats.csv: cannot be read or written: Too many open files" in result.err
    assert "ulimit -n" in result.err


def test_assembling_needs_the_rows_that_have_gone_to_it(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are missing, and the file that they went to is missing, too."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    fake.run(fake.job_for(tmp_path / "whole.npy", listed))
    target = tmp_path / "out.npy"
    with monkeypatch.context() as patch:
        patch.setattr(FileParts, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            fake.run(fake.job_for(target, listed))
    (FileParts(target).beside / "assembled.npy").unlink()
    assert fake.run(fake.job_for(target, listed), resume=True).damaged == 10
    assert content(target) == content(tmp_path / "whole.npy")


def test_another_format_keeps_its_lines(tmp_path: Path, listed: Path) -> None:
    fake.run(fake.job_for(tmp_path / "f.npy", listed))
    with pytest.raises(UsageError, match=r"f\.npy is there: its f\.csv and f\.json would be"):
        fake.run(fake.job_for(tmp_path / "f.npz", listed), overwrite=True)
    fake.run(fake.job_for(tmp_path / "f.npy", listed), overwrite=True)
    (tmp_path / "f.npy").unlink()
    fake.run(fake.job_for(tmp_path / "f.csv", listed), overwrite=True)


def test_a_kill_while_tidying_is_no_run_that_was_told(tmp_path: Path, listed: Path) -> None:
    target = tmp_path / "f.npy"
    fake.run(fake.job_for(target, listed))
    assert fake.run(fake.job_for(target, listed), resume=True).finished_before
    FileParts(target).beside.mkdir()
    (FileParts(target).beside / "part-00000.rows").touch()  # the state goes first
    assert not fake.run(fake.job_for(target, listed), resume=True).finished_before
    assert not FileParts(target).beside.exists()
