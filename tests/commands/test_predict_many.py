"""`resnest predict` over folders, globs, lists and pipes; its files, and the options that act."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Cli, make_photo
from tests.server import File, Server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve photos in natural order, one of them below, one damaged, and other files."""
    photos = tmp_path / "photos"
    (photos / "below").mkdir(parents=True)
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10):
        make_photo(photos / f"img{number}.png", seed=number)
    make_photo(photos / "below" / "DEEP.JPG", seed=11)
    (photos / "img11.jpeg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    (photos / "notes.txt").write_text("not a photo")
    (photos / ".hidden.png").write_bytes(b"")
    return photos


def records(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def test_a_folder_gives_one_record_per_photo_in_natural_order(
    cli: Cli, tiny_checkpoint: Path, folder: Path
) -> None:
    result = cli("predict", folder, "-m", tiny_checkpoint, "--format", "jsonl", "-b", "4")
    assert result.code == 3
    found = records(result.out)
    names = [os.path.relpath(r["input"], folder) for r in found]
    assert sorted(names) == sorted(
        [f"img{i}.png" for i in range(1, 11)] + ["img11.jpeg", str(Path("below", "DEEP.JPG"))]
    )
    flat = [name for name in names if os.sep not in name]
    assert flat == [*[f"img{i}.png" for i in range(1, 11)], "img11.jpeg"]
    assert all(r["input"].startswith(str(folder) + os.sep) for r in found)
    assert [r["input"] for r in found if r["status"] == "error"] == [str(folder / "img11.jpeg")]
    assert "1 other file" in result.err
    assert "1 of 12 inputs could not be read" in result.err
    top = cli("predict", folder, "-m", tiny_checkpoint, "--format", "jsonl", "--no-recursive")
    assert len(records(top.out)) == 11


@pytest.mark.parametrize("options", [["-b", "1", "-j", "0"], ["-b", "3", "-j", "4"], ["-b", "64"]])
def test_batches_and_workers_change_nothing(
    cli: Cli, tiny_checkpoint: Path, folder: Path, options: list[str]
) -> None:
    expected = records(cli("predict", folder, "-m", tiny_checkpoint, "--format", "jsonl").out)
    found = records(
        cli("predict", folder, "-m", tiny_checkpoint, "--format", "jsonl", *options).out
    )
    assert [r["input"] for r in found] == [r["input"] for r in expected]
    for one, two in zip(found, expected, strict=True):
        assert one["error"] == two["error"]
        assert [p["index"] for p in one["predictions"]] == [p["index"] for p in two["predictions"]]
        for p, q in zip(one["predictions"], two["predictions"], strict=True):
            assert p["probability"] == pytest.approx(q["probability"], abs=1e-5)


def test_globs_lists_and_stdin(cli: Cli, tiny_checkpoint: Path, folder: Path) -> None:
    common = ("-m", tiny_checkpoint, "--format", "jsonl")
    found = records(cli("predict", f"{folder}/img1*.png", *common).out)
    assert [Path(r["input"]).name for r in found] == ["img1.png", "img10.png"]
    listed = folder / "list.txt"
    listed.write_text(f"{folder / 'img3.png'}\n\n{folder / 'gone.png'}\r\n")
    result = cli("predict", "--from-file", listed, *common)
    assert result.code == 3
    assert [Path(r["input"]).name for r in records(result.out)] == ["img3.png", "gone.png"]
    command = [sys.executable, "-m", "resnest_cli", "predict", *map(str, common)]
    names = f"{folder / 'img3.png'}\0{folder / 'img2.png'}\0".encode()
    done = subprocess.run(
        [*command, "--from-file", "-", "-0"], input=names, capture_output=True, check=True
    )
    assert [Path(r["input"]).name for r in records(done.stdout.decode())] == [
        "img3.png", "img2.png",
    ]  # fmt: skip
    done = subprocess.run(
        [*command, "-"], input=(folder / "img3.png").read_bytes(), capture_output=True, check=True
    )
    (piped,) = records(done.stdout.decode())
    assert piped["input"] == "-"
    alone = records(cli("predict", folder / "img3.png", *common).out)[0]
    assert piped["predictions"] == alone["predictions"]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirection")
def test_a_closed_stdin(tiny_checkpoint: Path) -> None:
    command = f'"{sys.executable}" -m resnest_cli predict -m "{tiny_checkpoint}" --format jsonl'
    for arguments, code, message in (("-", 3, "closed"), ("--from-file -", 2, "closed")):
        done = subprocess.run(
            ["bash", "-c", f"{command} {arguments} <&-"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert message in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_urls(cli: Cli, tiny_checkpoint: Path, server: Server, photo: Path) -> None:
    server.files["/dog.png"] = File(photo.read_bytes())
    common = ("-m", tiny_checkpoint, "--format", "jsonl")
    result = cli("predict", server.url("/dog.png"), server.url("/gone.png"), photo, *common)
    assert result.code == 3
    fetched, gone, local = records(result.out)
    assert fetched["input"] == server.url("/dog.png")
    assert fetched["predictions"] == local["predictions"]
    assert "404" in gone["error"]
    secret = server.url("/dog.png").replace("://", "://user:secret@")
    (hidden,) = records(cli("predict", secret, *common).out)
    assert hidden["input"] == server.url("/dog.png")
    assert hidden["status"] == "ok"
    before = len(server.requests)
    offline = cli("predict", server.url("/dog.png"), *common, "--offline")
    assert "--offline" in records(offline.out)[0]["error"]
    assert len(server.requests) == before


def test_no_photo_found(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.txt").write_text("text")
    result = cli("predict", empty, "-m", tiny_checkpoint)
    assert result.code == 1
    assert "no photo found" in result.err
    assert "1 other file" in result.err
    assert cli("predict", empty, "-m", tiny_checkpoint, "--format", "json").out == "[]\n"


def test_csv_has_one_row_per_input(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    odd = make_photo(tmp_path / 'a "quoted", name\nof two lines.png')
    gone = tmp_path / "gone.png"
    out = cli("predict", odd, gone, "-m", tiny_checkpoint, "--format", "csv", "-k", "2").out
    first, second = list(csv.DictReader(io.StringIO(out)))
    assert first["input"] == str(odd)
    assert first["status"] == "ok"
    assert float(first["probability_1"]) >= float(first["probability_2"])
    assert list(first)[:7] == [
        "input", "status", "error", "model", "index_1", "label_1", "probability_1",
    ]  # fmt: skip
    assert second["status"] == "error"
    assert second["error"] == "does not exist"
    assert second["label_1"] == ""
    many = cli("predict", odd, "-m", tiny_checkpoint, "--format", "csv", "-k", "9").out
    (row,) = list(csv.DictReader(io.StringIO(many)))
    assert (row["label_5"] != "", row["label_6"]) == (True, "")


@pytest.mark.parametrize("format_", ["table", "json", "jsonl", "csv"])
def test_output_goes_to_a_file(
    cli: Cli, tiny_checkpoint: Path, photo: Path, tmp_path: Path, format_: str
) -> None:
    file = tmp_path / "records.out"
    expected = cli("predict", photo, "-m", tiny_checkpoint, "--format", format_)
    result = cli("predict", photo, "-m", tiny_checkpoint, "--format", format_, "-o", file)
    assert result.code == 0
    assert result.out == ""
    assert file.read_text(encoding="utf-8") == expected.out
    nowhere = cli("predict", photo, "-m", tiny_checkpoint, "-o", tmp_path / "no" / "file")
    assert nowhere.code == 1
    assert "there is no folder" in nowhere.err
    named = tmp_path / f"by-extension.{'txt' if format_ == 'table' else format_}"
    cli("predict", photo, "-m", tiny_checkpoint, "-o", named)
    assert named.read_text(encoding="utf-8") == expected.out
    assert cli("predict", photo, "-m", tiny_checkpoint, "-o", "-", "--format", format_) == expected
    hard = tmp_path / "link"
    os.link(photo, hard)
    before = photo.read_bytes()
    assert cli("predict", photo, "-m", tiny_checkpoint, "-o", hard).code == 2
    assert photo.read_bytes() == before


def test_a_run_that_fails_at_once_leaves_an_older_output(
    cli: Cli, tiny_checkpoint: Path, photo: Path, tmp_path: Path
) -> None:
    file = tmp_path / "records.csv"
    file.write_text("old")
    labels = tmp_path / "labels.txt"
    labels.write_text("too\nfew\n")
    common = ("predict", photo, "-m", tiny_checkpoint, "--format", "csv")
    failed = cli(*common, "--labels", labels, "-o", file)
    assert failed.code == 1
    assert file.read_text() == "old"
    assert cli(*common, "--labels", labels).out == ""  # not even a header
    before = tiny_checkpoint.read_bytes()
    for read in (tiny_checkpoint, labels):
        refused = cli(*common, "--labels", labels, "-o", read)
        assert refused.code == 2
        assert "is read by this command" in refused.err
    assert tiny_checkpoint.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirection")
def test_closed_streams_lose_nothing(tiny_checkpoint: Path, photo: Path) -> None:
    command = (
        f'"{sys.executable}" -m resnest_cli predict "{photo}" gone.jpg -m "{tiny_checkpoint}" '
        "--format jsonl"
    )
    done = subprocess.run(["bash", "-c", f"{command} 2>&-"], capture_output=True, check=False)
    assert done.returncode == 3
    assert len(records(done.stdout.decode())) == 2
    for closed in (f"{command} >&-", f'"{sys.executable}" -m resnest_cli models >&-'):
        done = subprocess.run(["bash", "-c", closed], capture_output=True, check=False)
        assert done.returncode == 1
        assert b"standard output is closed" in done.stderr


def test_what_is_no_list_is_told(cli: Cli, tiny_checkpoint: Path, photo: Path) -> None:
    result = cli("predict", "--from-file", photo, "-m", tiny_checkpoint)
    assert result.code == 2
    assert "NUL byte in line" in result.err


def test_a_narrow_terminal_keeps_the_classes(
    cli: Cli, tiny_checkpoint: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = cli("predict", photo, "-m", tiny_checkpoint).out
    assert "teapot" in out
    assert "[bold]bracket" in out
    assert "━" not in out.replace("┏━", "").split("┡")[1].split("┩")[1]


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("target", ["file", "stdout"])
def test_a_full_disk_leaves_whole_records(
    tiny_checkpoint: Path, folder: Path, tmp_path: Path, target: str
) -> None:
    out = tmp_path / "out.jsonl"
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        f"sys.argv = ['resnest', 'predict', {str(folder)!r}, '-m', {str(tiny_checkpoint)!r},"
        " '--format', 'jsonl'"
        + (f", '-o', {str(out)!r}]" if target == "file" else "]")
        + "\nfrom resnest_cli.app import main\nmain()"
    )
    with (tmp_path / "stdout").open("wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, check=False,
            timeout=120,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert b"cannot be written" in done.stderr
    assert b"Traceback" not in done.stderr
    text = (out if target == "file" else tmp_path / "stdout").read_text()
    assert text.endswith("\n")
    assert 1 <= len(records(text)) < 12


def test_compact_table_for_many_photos(
    cli: Cli, tiny_checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli("predict", folder, "-m", tiny_checkpoint).out.splitlines()
    assert lines[0].split() == ["Photo", "Class", "Probability"]
    assert len(lines) == 2 + 12
    good = [line for line in lines[2:] if "error" not in line]
    assert all(len(line) <= 80 and line.endswith("%") for line in good)
    assert [line.split()[0][-9:] for line in good[-3:]] != []
    assert any("img10.png" in line for line in good)
    assert sum("error: is truncated" in line or "error: is damaged" in line for line in lines) == 1


def test_threshold_leaves_out_what_is_unlikely(
    cli: Cli, tiny_checkpoint: Path, photo: Path
) -> None:
    common = ("predict", photo, "-m", tiny_checkpoint, "--format", "json")
    every = json.loads(cli(*common).out)["predictions"]
    limit = (every[1]["probability"] + every[2]["probability"]) / 2
    assert json.loads(cli(*common, "--threshold", str(limit)).out)["predictions"] == every[:2]
    assert json.loads(cli(*common, "--threshold", "1").out)["predictions"] == []


@pytest.mark.parametrize(
    "options",
    [["--tta"], ["--img-size", "64"], ["--crop-pct", "0.5"], ["--interpolation", "bilinear"],
     ["--crop-mode", "border"], ["--crop-mode", "squash"], ["--no-exif"]],
)  # fmt: skip
def test_every_preprocessing_option_acts(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path, options: list[str]
) -> None:
    image = Image.open(make_photo(tmp_path / "a.png", (200, 90)))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    common = ("predict", tmp_path / "turned.jpg", "-m", tiny_checkpoint, "--format", "json")
    plain = {p["index"]: p["probability"] for p in json.loads(cli(*common).out)["predictions"]}
    result = cli(*common, *options)
    assert result.code == 0, result.err
    changed = {p["index"]: p["probability"] for p in json.loads(result.out)["predictions"]}
    assert any(abs(changed[index] - plain[index]) > 1e-4 for index in plain)


def test_a_photo_and_its_mirror_image_agree_with_tta(
    cli: Cli, tiny_checkpoint: Path, photo: Path, tmp_path: Path
) -> None:
    mirrored = tmp_path / "mirrored.png"
    Image.open(photo).resize((48, 48)).save(photo)
    Image.open(photo).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
    common = ("-m", tiny_checkpoint, "--format", "jsonl", "--crop-pct", "1")
    one, two = records(cli("predict", photo, mirrored, *common, "--tta").out)
    for p, q in zip(one["predictions"], two["predictions"], strict=True):
        assert p["label"] == q["label"]
        assert p["probability"] == pytest.approx(q["probability"], abs=1e-5)


def test_head_ends_a_long_run_quietly(tiny_checkpoint: Path, folder: Path) -> None:
    command = (
        f'"{sys.executable}" -m resnest_cli predict "{folder}" -m "{tiny_checkpoint}" -b 1 '
        "--format jsonl | head -1; exit ${PIPESTATUS[0]}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False, timeout=120)
    assert len(records(done.stdout.decode())) == 1
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", -signal.SIGTERM)])
def test_signals_end_a_run_with_whole_records(
    tiny_checkpoint: Path, photo: Path, name: str, code: int
) -> None:
    """The list on stdin stays open: the run waits for more when the signal comes."""
    command = [sys.executable, "-m", "resnest_cli", "predict", "--from-file", "-", "-b", "1"]
    process = subprocess.Popen(
        [*command, "-j", "0", "-m", str(tiny_checkpoint), "--format", "jsonl"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(f"{photo}\n".encode() * 2)
        process.stdin.flush()
        first = process.stdout.readline() + process.stdout.readline()
        process.send_signal(getattr(signal, name))
        rest, errors = process.stdout.read(), process.stderr.read()
        assert process.wait(timeout=120) == code
    assert all(r["status"] == "ok" for r in records((first + rest).decode()))
    said = b"record is written" in errors or b"records are written" in errors
    assert said if name == "SIGINT" else errors == b""
