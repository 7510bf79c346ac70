"""`resnest predict --sort-into` and `--undo`, as a user meets them."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from resnest_cli.model.checkpoint import save
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.resnest import build
from tests.conftest import CLASSES, Cli, make_photo
from tests.networks import TINY, enliven
from tests.processes import wait_for
from tests.sorting.killed import photos_of

SHARED = Path("/dev/shm")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    Path("in").mkdir()
    for index in range(3):
        make_photo(Path("in", f"{index}.png"), seed=index)
    Path("in/0.png.xmp").write_text("tags")
    Path("in/1.mov").write_text("film")
    Path("in/bad.jpg").write_bytes(b"")
    return Path("in")


def best(cli: Cli, *given: object) -> dict[str, str]:
    lines = cli("predict", *given, "--format", "jsonl").out.splitlines()
    found = [json.loads(line) for line in lines]
    return {one["input"]: one["predictions"][0]["label"] for one in found if not one["error"]}


def test_there_and_back(cli: Cli, photos: Path, tiny_checkpoint: Path) -> None:
    given = ("predict", photos, "-m", tiny_checkpoint, "--sort-into", "out")
    labels, before = best(cli, photos, "-m", tiny_checkpoint), photos_of(Path())
    plan = cli(*given, "--move", "--dry-run")
    assert plan.code == 3
    assert photos_of(Path()) == before
    assert not Path("out").exists()
    assert plan.out.splitlines()[-1] == "in/bad.jpg -> error: is empty (0 bytes)"
    assert "Would move 3 photos and 1 other file" in plan.err
    done = cli(*given, "--move")
    assert (done.code, done.out) == (3, plan.out)
    assert "Moved 3 photos and 1 other file" in done.err
    for line in done.out.splitlines()[:3]:
        name, _, place = line.partition(" -> ")
        assert place == f"{labels[name]}/{Path(name).name}"
        assert photos_of(Path())[f"out/{place}"] == before[name]
    assert Path("in/bad.jpg").exists()
    assert Path("in/1.mov").exists()
    assert "All was sorted into out already" in cli(*given, "--move", "--resume").err
    undone = cli("predict", "--undo", "out")
    assert (undone.code, undone.err) == (0, "Took back 4 files of out.\n")
    assert photos_of(Path()) == before


@pytest.mark.parametrize("how", ["--copy", "--link"])
def test_copies_and_links_leave_the_photos(
    cli: Cli, photos: Path, tiny_checkpoint: Path, how: str
) -> None:
    before = photos_of(Path())
    given = ("predict", photos, "-m", tiny_checkpoint, "--sort-into", "out", how, "--live-photos")
    Path("in/bad.jpg").unlink()
    before.pop("in/bad.jpg")
    assert cli(*given).code == 0
    after = photos_of(Path())
    assert before.items() < after.items()
    assert {Path(name).name for name in after if name.startswith("out")} == {
        "0.png", "0.png.xmp", "1.png", "1.mov", "2.png"
    }  # fmt: skip
    assert all(path.is_symlink() == (how == "--link") for path in Path("out").glob("*/*"))
    again = cli(*given)
    assert "3 there already by an earlier run" in again.err
    assert photos_of(Path()) == after
    assert cli("predict", "--undo", "out").code == 0  # the first run: the second did nothing
    assert photos_of(Path()) == before


def test_a_folder_may_be_sorted_in_itself(cli: Cli, photos: Path, tiny_checkpoint: Path) -> None:
    before = photos_of(Path())
    given = ("predict", photos, "-m", tiny_checkpoint, "--sort-into", photos, "--move")
    assert cli(*given).code == 3
    assert not list(photos.glob("*.png"))
    sorted_ = photos_of(Path())
    again = cli(*given)
    assert "3 in a class folder already" in again.err
    assert photos_of(Path()) == sorted_
    assert cli("predict", "--undo", photos).code == 0
    assert photos_of(Path()) == before


def test_keywords_go_with_their_photo(cli: Cli, photos: Path, tiny_checkpoint: Path) -> None:
    given = ("predict", "in/1.png", "-m", tiny_checkpoint, "--sort-into", "out", "--move", "--xmp",
             "--threshold", "0")  # fmt: skip
    assert cli(*given).code == 0
    assert {path.name for path in Path("out").glob("*/*")} == {"1.png", "1.png.xmp"}
    assert not list(photos.glob("1.png*"))


def test_a_page_shows_photos_where_they_lie_now(
    cli: Cli, photos: Path, tiny_checkpoint: Path
) -> None:
    given = ("predict", photos, "-m", tiny_checkpoint, "--sort-into", "out", "--move")
    assert cli(*given).code == 3
    (journal,) = Path("out").glob(".resnest-sort-*")
    *lines, finished = journal.read_bytes().splitlines(keepends=True)
    assert b"finished" in finished
    journal.write_bytes(b"".join(lines))  # as if killed after the last photo
    assert cli(*given, "--resume", "--html", "page.html").code == 3
    assert Path("page.html").read_text().count("data:image/jpeg") == 3


def test_refused_answers_go_to_unsure(cli: Cli, photos: Path, tiny_checkpoint: Path) -> None:
    given = ("predict", photos, "-m", tiny_checkpoint, "--sort-into", "out", "--move")
    out = cli(*given, "--reject-below", "1").out
    assert [line.partition(" -> ")[2] for line in out.splitlines()[:3]] == [
        f"unsure/{index}.png" for index in range(3)
    ]
    assert len(list(Path("out/unsure").iterdir())) == 4


def test_a_sorting_goes_on_only_as_it_was_begun(
    cli: Cli, photos: Path, tiny_checkpoint: Path
) -> None:
    given = ("predict", photos, "-m", tiny_checkpoint, "--sort-into", "out", "--copy")
    assert cli(*given).code == 3
    for more, what in ((("--img-size", "40"), "img_size"), (("--xmp",), "xmp")):
        result = cli(*given, "--resume", *more)
        assert result.code == 2
        assert f"was begun with another {what}" in result.err
    assert "All was sorted into out already" in cli(*given, "--resume", "--offline").err


def test_records_have_the_places(cli: Cli, photos: Path, tiny_checkpoint: Path) -> None:
    given = ("predict", photos, "https://x.invalid/a.jpg", "-m", tiny_checkpoint, "--offline",
             "--sort-into", "out", "--copy", "--dry-run")  # fmt: skip
    labels = best(cli, photos, "-m", tiny_checkpoint)
    places = [[f"{labels[f'in/{i}.png']}/{i}.png"] for i in range(3)]
    lines = cli(*given, "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["sorted_to"] for line in lines] == [*places, [], []]
    rows = list(csv.DictReader(io.StringIO(cli(*given, "--format", "csv").out)))
    assert [row["sorted_to"] for row in rows] == [*(one[0] for one in places), "", ""]


def test_folders_are_named_for_every_system(
    cli: Cli, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    Path("labels.txt").write_text("\n".join(["con", "con", "con", "con", "con"]))
    given = ("predict", photos, "-m", tiny_checkpoint, "--labels", "labels.txt")
    cli(*given, "--sort-into", "out", "--copy")
    index = CLASSES.index(best(cli, photos, "-m", tiny_checkpoint)["in/0.png"])
    assert Path("out", f"_con-{index}", "0.png").exists()


def test_several_labels(cli: Cli, photos: Path) -> None:
    names, limits = ("a", "b", "c"), (0.0, 1.0, 0.0)  # a and c are always selected
    info = CheckpointInfo(variant=TINY, class_names=names, thresholds=limits)
    save(Path("several.safetensors"), enliven(build(TINY, num_classes=3)), info)
    given = ("predict", "in/0.png", "-m", "several.safetensors", "--sort-into", "out")
    first, second = cli(*given, "--copy").out.removeprefix("in/0.png -> ").split(", ")
    assert {first, second.strip()} == {"a/0.png", "c/0.png"}
    assert {path.parent.name for path in Path("out").rglob("0.png*")} == {"a", "c"}
    cli("predict", "--undo", "out")
    assert cli(*given, "--move").out == f"in/0.png -> {first}\n"
    assert [str(path) for path in Path("out").rglob("*.png")] == [f"out/{first}"]


def test_what_is_no_file_is_said_with_exit_3(
    cli: Cli, photos: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(Path("in/0.png").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    result = cli("predict", "-", "-m", tiny_checkpoint, "--sort-into", "out", "--copy")
    assert (result.code, result.out) == (3, "- -> stays\n")
    assert "stayed: 1 no file of its own" in result.err
    assert not Path("out").exists()


def test_moves_reach_another_disk(cli: Cli, photos: Path, tiny_checkpoint: Path) -> None:
    if not SHARED.is_dir() or SHARED.stat().st_dev == photos.stat().st_dev:
        pytest.skip("there is no second disk")
    os.utime("in/0.png", ns=(10**18, 10**18 + 1))
    Path("in/0.png").chmod(0o400)
    before = photos_of(Path())
    with tempfile.TemporaryDirectory(dir=SHARED) as other:
        out = Path(other, "out")
        assert cli("predict", photos, "-m", tiny_checkpoint, "--sort-into", out, "--move").code == 3
        assert [path.name for path in photos.iterdir()] in (
            ["1.mov", "bad.jpg"], ["bad.jpg", "1.mov"],
        )  # fmt: skip
        (moved,) = out.rglob("0.png")
        assert photos_of(out)[str(moved)] == before["in/0.png"]
        assert cli("predict", "--undo", out).code == 0
        assert not out.exists()
    assert photos_of(Path()) == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--sort-into", "out"], "takes one of --copy, --link and --move"),
        (["--sort-into", "out", "--copy", "--move"], "takes one of"),
        (["--move"], "go with --sort-into DIR"),
        (["--dry-run"], "go with --sort-into DIR"),
        (["--live-photos"], "go with --sort-into DIR"),
        (["--sort-into", "out", "--copy", "-o", "records/"], "written as text"),
        (["--sort-into", "out", "--copy", "--runner", "ray"], "--runner local"),
        (["--sort-into", "out", "--copy", "--overwrite"], "--overwrite"),
        (["--sort-into", "no/out", "--copy"], "there is no folder no"),
        (["--sort-into", "in/0.png", "--copy"], "is a file. Give --sort-into a folder"),
        (["--sort-into", "out", "--copy", "--dry-run", "--xmp"], "leave out --xmp"),
        (["--undo", "out"], "--undo DIR stands alone"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(
    cli: Cli, photos: Path, tiny_checkpoint: Path, more: list[str], words: str
) -> None:
    before = photos_of(Path())
    result = cli("predict", photos, "-m", tiny_checkpoint, *more)
    assert result.code in {1, 2}
    assert words in result.err
    assert photos_of(Path()) == before


def test_undo_of_nothing(cli: Cli, tmp_path: Path) -> None:
    result = cli("predict", "--undo", tmp_path)
    assert result.code == 2
    assert "nothing was sorted into it" in result.err


def test_ctrl_c_keeps_what_is_planned(photos: Path, tiny_checkpoint: Path) -> None:
    os.mkfifo("list")
    command = [sys.executable, "-m", "resnest_cli", "predict", "--from-file", "list", "-b", "1",
               "-m", str(tiny_checkpoint), "--sort-into", "out", "--move"]  # fmt: skip
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        Path("list").open("w") as names,
    ):
        names.write("in/0.png\nin/1.png\nin/2.png\n" * 5)
        names.flush()
        wait_for(lambda: list(Path("out").glob(".resnest-sort-*")))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert "Go on with:\n  resnest predict --resume" in err
    assert len(list(photos.glob("*.png"))) == 3
    assert not list(Path("out").glob("*/*"))
