"""`resnest predict -o FOLDER/` and `-o FILE.parquet`: records in parts, kept for --resume."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli, make_photo
from tests.planted_photos import KINDS, planted_photos
from tests.planted_photos import program as program_of
from tests.processes import wait_for

pq = pytest.importorskip("pyarrow.parquet")

COUNT = 30


def program(*arguments: str | Path, slow: float = 0.0) -> list[str]:
    more = f"import os; os.environ['SLOW'] = '{slow}'"
    return program_of("predict", *arguments, "-b", "4", more=more)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of photos, one of them damaged."""
    monkeypatch.setattr("resnest_cli.jobs.local.MOST_INPUTS", 8)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(COUNT):
        make_photo(folder / f"{number}.png", (20, 20), seed=number)
    (folder / "7.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no photo")
    return folder


def rows(path: Path) -> list[dict]:
    """The records of a file, or of all parts of a folder."""
    files = sorted(path.glob("part-*")) if path.is_dir() else [path]
    if files[0].suffix == ".jsonl":
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("name", ["out/", "out.parquet", "lines/"])
def test_records_are_those_that_are_printed(
    cli: Cli, photos: Path, tiny_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    words = ["predict", photos, "-m", tiny_checkpoint, "-k", "2"]
    expected = [json.loads(line) for line in cli(*words, "--format", "jsonl").out.splitlines()]
    format_ = ["--format", "jsonl"] if name == "lines/" else []
    out = f"{tmp_path}/{name}"
    done = cli(*words, "-o", out, *format_)
    assert done.code == 3
    assert done.out == ""
    assert f"1 of {COUNT} inputs could not be read" in done.err
    assert "1 other file without a known image extension was skipped" in done.err
    for found, record in zip(rows(Path(out)), expected, strict=True):
        assert found.pop("predictions") == [
            p | {"probability": pytest.approx(p["probability"], abs=1e-5)}
            for p in record.pop("predictions")
        ]
        assert found == record
    if name == "out.parquet":
        assert not (tmp_path / "out.parquet.parts").exists()
    else:
        assert len(list(Path(out).glob("part-*"))) == 4
    assert "exists: --overwrite replaces it" in cli(*words, "-o", out, *format_).err
    again = cli(*words, "-o", out, *format_, "--resume")
    assert (again.code, "All was finished already" in again.err) == (0, True)
    other = cli(*words, "-o", out, *format_, "--resume", "--threshold", "0.1")
    assert "--threshold 0.0 there, 0.1 here" in other.err
    make_photo(photos / "new.png")
    assert f"input {COUNT + 1} is new" in cli(*words, "-o", out, *format_, "--resume").err
    assert cli(*words, "-o", out, *format_, "--overwrite").code == 3
    assert len(rows(Path(out))) == COUNT + 1


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_kills_lose_no_part(
    cli: Cli, photos: Path, tiny_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    words = [photos, "-m", tiny_checkpoint]
    whole, out = tmp_path / f"whole{Path(name).suffix}", tmp_path / name
    slash = "" if whole.suffix else "/"
    assert cli("predict", *words, "-o", f"{whole}{slash}", "-b", "4").code == 3
    parts = out if slash else tmp_path / f"{name}.parts"
    for number in (1, 3, 4):
        how = ["--resume"] if number > 1 else []
        process = subprocess.Popen(program(*words, "-o", f"{out}{slash}", *how, slow=0.05))
        wait_for(lambda number=number: len(list(parts.glob("part-*.parquet"))) >= number)
        process.kill()
        process.wait()
    there = {path: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}
    done = cli("predict", *words, "-o", f"{out}{slash}", "-b", "4", "--resume")
    assert done.code == 3, done.err
    assert re.search(r"Going on after \d+ inputs, [01] of them failed", done.err)
    assert rows(out) == rows(whole)
    if slash:
        assert {path: path.stat().st_mtime_ns for path in there} == there
    else:
        assert not parts.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_keeps_the_parts_and_names_the_command_to_go_on(
    cli: Cli, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    command = program(photos, "-m", tiny_checkpoint, "-o", out, slow=0.05)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.glob("out.parquet.parts/part-*.parquet")))
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "what is done is kept. Go on with:\n  resnest predict --resume " in said
    assert not out.exists()
    words = shlex.split(said.splitlines()[-1])
    assert cli(*words[1:]).code == 3
    assert len(rows(out)) == COUNT


@pytest.mark.parametrize("name", ["out/", "out.parquet", "lines/"])
def test_planted_photos_become_rows(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    planted = planted_photos(tmp_path / "photos")
    words = [tmp_path / "photos", "-m", tiny_checkpoint, "-o", f"{tmp_path}/{name}"]
    words += ["--format", "jsonl"] if name == "lines/" else []
    done = subprocess.run(program(*words), capture_output=True, check=False, text=True)
    assert done.returncode == 3, done.stderr
    found = rows(tmp_path / name)
    assert {Path(row["input"]).name: row["error"] for row in found if row["error"]} == planted
    assert len(found) == 15
    if name == "lines/":  # which say nothing of kinds: a run that goes on knows them anyway
        (tmp_path / name / "_summary.json").unlink()
        part = sorted((tmp_path / name).glob("part-*"))[0]
        part.unlink()
        done = subprocess.run(
            program(*words, "--resume"), capture_output=True, check=False, text=True
        )
        assert all(f"1 {kind}" in done.stderr for kind in KINDS.values()), done.stderr


def test_odd_names_resume(cli: Cli, photos: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    try:
        (photos / "0.png").rename(os.fsdecode(bytes(photos) + b"/\xff\\n.png"))
    except OSError:
        pytest.skip("names here are text")
    (photos / "1.png").rename(photos / "\\xe9.png")  # as columns of text have the byte e9
    words = ["predict", photos, "-m", tiny_checkpoint, "-o", tmp_path / "out.parquet"]
    assert cli(*words).code == 3
    assert "All was finished already" in cli(*words, "--resume").err
    (photos / "\\xe9.png").rename(os.fsdecode(bytes(photos) + b"/\xe9.png"))
    assert "or in odd bytes" in cli(*words, "--resume").err


def test_a_folder_with_other_files_of_odd_names(
    cli: Cli, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/out/o\xffdd.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("names here are text")
    done = cli("predict", photos, "-m", tiny_checkpoint, "-o", tmp_path / "out")
    assert done.code == 2
    assert "holds other files (o" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "--resume and --overwrite go with -o FOLDER/ or FILE.parquet"),
        (["-o", "a.csv", "--resume"], "other records are written as they come"),
        (["-o", "a.jsonl", "--overwrite"], "go with -o FOLDER/ or FILE.parquet"),
        (["-o", "out/", "--resume", "--overwrite"], "it excludes --resume"),
        (["--format", "parquet"], "--format parquet needs a file or a folder"),
        (["-o", "out/", "--format", "csv"], "a folder holds parquet or jsonl"),
        (["-o", "out/", "--html", "a.html"], "--html, --xmp and --sort-into go with records"),
    ],
)
def test_what_does_not_go_together(cli: Cli, photo: Path, words: list[str], message: str) -> None:
    done = cli("predict", photo, *words)
    assert done.code == 2
    assert message in done.err


def test_places_that_are_no_use(
    cli: Cli, photo: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", photo, "-m", tiny_checkpoint]
    foreign = tmp_path / "thesis.parquet"
    foreign.write_text("years of work")
    assert "exists: --overwrite replaces it" in cli(*words, "-o", foreign).err
    assert "was not made by this command" in cli(*words, "-o", foreign, "--resume").err
    assert "holds other files (" in cli(*words, "-o", tmp_path).err
    assert "there is no folder" in cli(*words, "-o", tmp_path / "none" / "a.parquet").err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "Run: pip install pyarrow" in cli(*words, "-o", tmp_path / "a.parquet").err
