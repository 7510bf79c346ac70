"""`resnest check`: what it finds in folders, splits and tables; files, exit codes, bad input."""

import csv
import json
import os
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Cli
from tests.inspection.making import changed, picture, save
from tests.processes import wait_for


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes on two sides, with a copy of each kind, a dark photo and a bad file."""
    folder = tmp_path / "data"
    for side, seeds in (("train", range(12)), ("val", range(20, 26))):
        for seed in seeds:
            save(picture(seed), folder / side / "ab"[seed % 2] / f"{seed:02}.jpg")
    save(changed(picture(0), "mirrored"), folder / "train" / "a" / "mirrored.jpg")  # near-copy
    (folder / "val" / "b" / "same.jpg").write_bytes((folder / "train/b/03.jpg").read_bytes())
    save(changed(picture(5), "scaled"), folder / "train" / "a" / "scaled.jpg")  # of b/05.jpg
    save(picture(40).point(lambda value: value // 12), folder / "train" / "b" / "dark.jpg")
    (folder / "train" / "a" / "bad.jpg").write_bytes(b"\xff\xd8\xff no photo")
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "issues.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def found(rows: list[dict[str, str]], kind: str) -> dict[str, str]:
    return {row["path"]: row["partner"] for row in rows if row["kind"] == kind}


def test_what_it_finds(cli: Cli, data: Path, tmp_path: Path) -> None:
    result = cli("check", data, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    rows = rows_of(tmp_path / "out")
    assert list(rows[0]) == ["path", "kind", "score", "partner", "suggestion", "detail"]
    assert found(rows, "unreadable") == {"train/a/bad.jpg": ""}
    assert found(rows, "dark") == {"train/b/dark.jpg": ""}
    assert found(rows, "near-copy")["train/a/mirrored.jpg"] == "train/a/00.jpg"
    assert found(rows, "copy") == {"val/b/same.jpg": "train/b/03.jpg"}
    assert found(rows, "leak") == {"val/b/same.jpg": "train/b/03.jpg"}
    assert set(found(rows, "contradiction")) == {"train/a/scaled.jpg", "train/b/05.jpg"}
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["photos"], summary["readable"], summary["classes"]) == (23, 22, 2)
    assert summary["model"] == "resnest23t"
    kinds = [row["kind"] for row in rows]
    assert summary["issues"] == {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    assert "--exclude" in result.err
    again = cli("check", data, "--format", "json")
    assert json.loads(again.out) == summary


def test_the_table_within_80_columns(cli: Cli, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = cli("check", data)
    lines = result.out.splitlines()
    assert lines[0].endswith("23 photos of 2 classes, " + lines[0].split(", ")[-1])
    assert "with an issue" in lines[0]
    assert any(line.split() == ["leak", "1", "copies", "on", "both", "sides", "of", "the", "split"]
               for line in lines)  # fmt: skip
    assert max(map(len, lines[1:])) <= 80
    assert "bundled model" not in result.err  # which classes it knows does not matter here
    monkeypatch.setenv("COLUMNS", "44")
    narrow = cli("check", data, "--quiet")
    assert narrow.err == ""
    shown = [line for line in narrow.out.splitlines() if line.startswith("  ")]
    assert 0 < max(map(len, shown)) <= 44


def test_the_page_may_lie_beside_the_list(cli: Cli, tmp_path: Path) -> None:
    save(picture(0), tmp_path / "data" / "a" / "0.png")
    out = tmp_path / "out"
    refused = cli("check", tmp_path / "data", "-o", out, "--html", out)
    assert (refused.code, out.exists()) == (1, False)
    assert "is a folder" in refused.err
    result = cli("check", tmp_path / "data", "-o", out, "--html", out / "page.html")
    assert result.code == 0, result.err
    assert sorted(path.name for path in out.iterdir()) == [
        "issues.csv",
        "page.html",
        "summary.json",
    ]


def test_fail_on(cli: Cli, data: Path) -> None:
    assert cli("check", data, "--fail-on", "copies,tiny").code == 3
    assert cli("check", data, "--fail-on", "tiny,shape").code == 0
    wrong = cli("check", data, "--fail-on", "leek")
    assert wrong.code == 2
    assert "Did you mean leak" in wrong.err


def test_nothing_is_found_in_good_data(cli: Cli, tmp_path: Path) -> None:
    for seed in range(8):
        save(picture(seed), tmp_path / "data" / "ab"[seed % 2] / f"{seed}.jpg")
    result = cli("check", tmp_path / "data", "--fail-on", "files,copies")
    assert result.code == 0, result.out


def test_a_table_of_photos(cli: Cli, data: Path, tmp_path: Path) -> None:
    names = ["train/a/00.jpg,cat", "train/a/mirrored.jpg,dog", "train/b/01.jpg,dog"]
    table = data / "photos.csv"
    table.write_text("file,species\n" + "\n".join(names) + "\n")
    result = cli("check", table, "--label-column", "species", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    contradiction = found(rows_of(tmp_path / "out"), "contradiction")
    assert set(contradiction) == {"train/a/00.jpg", "train/a/mirrored.jpg"}


def test_another_model_and_batch_size(cli: Cli, data: Path, tiny_checkpoint: Path) -> None:
    given = ("check", data, "--format", "json", "-m", tiny_checkpoint)
    first, other = (json.loads(cli(*given, *more).out) for more in ([], ["-b", "3"]))
    assert first["model"] == str(tiny_checkpoint)
    assert first["issues"]["copy"] == other["issues"]["copy"] == 1


def test_labels_that_features_cannot_judge_are_doubted(cli: Cli, tmp_path: Path) -> None:
    for seed in range(24):  # of no class at all
        save(picture(seed, (48, 48)), tmp_path / "data" / "ab"[seed % 2] / f"{seed}.png")
    result = cli("check", tmp_path / "data", "--html", tmp_path / "page.html")
    assert "of 24 photos look wrong, too many to believe: features of resnest23t" in result.err
    assert "too many to believe" in (tmp_path / "page.html").read_text()


def test_nothing_readable(cli: Cli, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.jpg").write_bytes(b"")
    result = cli("check", tmp_path / "data", "--fail-on", "unreadable")
    assert result.code == 3
    assert "is empty" in result.out


def test_bad_input(cli: Cli, data: Path, tmp_path: Path) -> None:
    result = cli("check", tmp_path / "nowhere")
    assert result.code == 2
    assert "no such folder" in result.err
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "index.json").write_text("{}")
    (shards / "train-0.tar").write_bytes(b"")
    result = cli("check", shards)
    assert result.code == 2
    assert "tar shards" in result.err
    (tmp_path / "file").write_text("")
    result = cli("check", data, "-o", tmp_path / "file")
    assert result.code == 1
    assert "-o a folder" in result.err


def test_ctrl_c_keeps_what_was_seen(cli: Cli, data: Path, homes: Path) -> None:
    def interrupt() -> None:
        wait_for(lambda: list((homes / "resnest_home" / "check").glob("*/.lock")))
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=interrupt)
    other.start()
    result = cli("check", data, "-b", "1")
    other.join()
    assert result.code == 130
    assert "what was seen of photos is kept; the same command goes on" in result.err
    (folder,) = (homes / "resnest_home" / "check").iterdir()
    assert list(folder.glob("*.npy"))
    assert cli("check", data, "-b", "1").code == 0


def test_a_placeholder_is_nothing_else(cli: Cli, data: Path, tmp_path: Path) -> None:
    page = Image.new("RGB", (90, 60), "white")
    page.paste((0, 0, 0), (20, 28, 70, 30))
    names = ["train/a/x.png", "train/b/y.png", "train/b/z.png", "val/a/v.png"]
    for name in names:
        save(page, data / name)
    save(Image.new("RGB", (90, 60), (252, 253, 254)), data / "train/a/blank.png")
    assert cli("check", data, "-o", tmp_path / "out").code == 0
    kinds = {name: {row["kind"] for row in rows_of(tmp_path / "out") if row["path"] == name}
             for name in (*names, "train/a/blank.png")}  # fmt: skip
    assert kinds.pop("val/a/v.png") == {"placeholder", "leak"}
    assert kinds.pop("train/a/blank.png") - {"label"} == {"uniform"}  # and not bright as well
    assert all(found == {"placeholder"} for found in kinds.values())


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A table of photos with several labels: a copy with other ones, one without any."""
    sets = ["sun|sea", "sea", "sun", "", "sea|sun", "dog|sun"]
    rows = ["path,labels"]
    for seed, labels in enumerate(sets * 3):
        save(picture(seed), tmp_path / f"{seed:02}.jpg")
        rows.append(f"{seed:02}.jpg,{labels}")
    (tmp_path / "twin.jpg").write_bytes((tmp_path / "00.jpg").read_bytes())
    (tmp_path / "same.jpg").write_bytes((tmp_path / "06.jpg").read_bytes())
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    rows += ["twin.jpg,sea", "same.jpg,sea|sun", "bad.jpg,dog"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    return tmp_path / "t.csv"


def test_several_labels(cli: Cli, several: Path, tmp_path: Path) -> None:
    result = cli("check", several, "-o", tmp_path / "out", "--html", tmp_path / "page.html")
    assert result.code == 0, result.err
    rows = rows_of(tmp_path / "out")
    assert found(rows, "unreadable") == {"bad.jpg": ""}
    assert found(rows, "copy") == {"twin.jpg": "00.jpg", "same.jpg": "06.jpg"}
    assert found(rows, "contradiction") == {"twin.jpg": "00.jpg", "00.jpg": "twin.jpg"}
    details = {row["path"]: row["detail"] for row in rows if row["kind"] == "contradiction"}
    assert details["00.jpg"] == "sea|sun here, sea there"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["classes"] == 3
    assert summary["labels"] == {
        "photos": {
            "photos": 20, "unlabelled": 3, "counts": {"dog": 3, "sea": 11, "sun": 13},
            "together": [["sea", "sun", 7], ["dog", "sun", 3]],
        }
    }  # fmt: skip
    table = result.out.partition("Class ")[2].split()
    assert table[table.index("label") + 1] == "3"
    assert "Together most often" in result.out
    page = (tmp_path / "page.html").read_text()
    assert "Together most often" in page
    assert "<option>sea</option>" in page  # a filter for each class, not for each set
    planned = cli("finetune", several, "-m", "demo", "--exclude", tmp_path / "out/issues.csv",
                  "--exclude-kinds", "copies,unreadable", "--dry-run")  # fmt: skip
    assert planned.code == 0, planned.err
    assert "4 photos left out: 1 unreadable, 2 copy, 1 contradiction" in planned.out


def test_missing_and_wrong_labels(cli: Cli, tmp_path: Path) -> None:
    """Stripes of two colours; of one photo the label is missing, one has a label too many."""
    random, rows = np.random.default_rng(0), ["path,labels"]
    for number in range(80):
        labels = [label for label, on in (("red", number & 1), ("blue", number & 2)) if on]
        pixels = random.integers(90, 160, (6, 6, 3)).repeat(8, 0).repeat(8, 1)
        if "red" in labels:
            pixels[:24] = [220, 40, 40]
        if "blue" in labels:
            pixels[24:] = [40, 40, 220]
        name = f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
        labels = {"5.png": [], "10.png": ["red", "blue"]}.get(name, labels)
        rows.append(f"{name},{';'.join(labels)}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    result = cli("check", tmp_path / "t.csv", "-o", tmp_path / "out", "--html", tmp_path / "p.html",
                 "--fail-on", "missing")  # fmt: skip
    assert result.code == 3, result.err
    rows = [row for row in rows_of(tmp_path / "out") if row["kind"] in {"label", "missing"}]
    told = {(row["path"], row["kind"], row["suggestion"]) for row in rows}
    assert told == {("5.png", "missing", "red"), ("10.png", "label", "not red")}
    assert "looks like red, too" in result.out
    assert re.search(r"10.png +not red: .*% red", result.out)
    page = (tmp_path / "p.html").read_text()
    assert "Also red?" in page
    assert "Rather not red?" in page


def test_copies_in_class_folders_are_one_photo(cli: Cli, tmp_path: Path) -> None:
    """Where a photo may have several labels; and they are left out together."""
    data = tmp_path / "data"
    for seed in range(6):
        save(picture(seed), data / "sea" / f"{seed}.jpg")
    for seed in range(4, 10):
        save(picture(seed), data / "sun" / f"{seed}.jpg")
    save(picture(40).point(lambda value: value // 12), data / "sea" / "dark.jpg")
    (data / "sun" / "also.jpg").write_bytes((data / "sea" / "dark.jpg").read_bytes())
    one = json.loads(cli("check", data, "--format", "json").out)
    assert one["issues"]["contradiction"] == 6
    result = cli("check", data, "--multi-label", "--format", "json", "-o", tmp_path / "out")
    summary = json.loads(result.out)
    assert summary["photos"] == 11
    assert not {"copy", "near-copy", "contradiction"} & set(summary["issues"])
    assert summary["labels"]["photos"]["together"] == [["sea", "sun", 3]]
    assert found(rows_of(tmp_path / "out"), "dark") == {"sea/dark.jpg": "", "sun/also.jpg": ""}
    planned = cli("finetune", data, "--multi-label", "-m", "demo", "--dry-run", "--exclude",
                  tmp_path / "out/issues.csv", "--exclude-kinds", "dark")  # fmt: skip
    assert "2 photos left out: 2 dark" in planned.out
    assert "12 files are 10 different photos" in planned.out
