"""`split.csv`: odd names come back, data may move, and any command takes it as data."""

import csv
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from resnest_cli.data.class_folders import list_data
from resnest_cli.data.dataset import read_split, write_split
from resnest_cli.data.labelled_photos import Reading
from resnest_cli.data.split_file import is_run_split
from resnest_cli.errors import ResnestError, UsageError
from tests.conftest import make_photo
from tests.data.test_dataset import (
    fill,
    load,
    names,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for place, label in enumerate("ab"):
        fill(tmp_path / "data" / label, 4, 100 * place)
    return tmp_path / "data"


ODD = [b"\xff.png", b"\r.png", b"\r\n.png", b"\n.png", b'",".png', b" .png", "\u2028é.png".encode()]


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be")
@pytest.mark.parametrize("odd", ODD)
def test_odd_names_come_back(data: Path, tmp_path: Path, odd: bytes) -> None:
    (data / "a" / "0.png").rename(data / "a" / os.fsdecode(odd))
    if odd != b"\xff.png":  # a class must be text
        (data / "b").rename(data / os.fsdecode(odd))
    before = load(data)
    write_split(tmp_path / "split.csv", before)
    after = read_split(tmp_path / "split.csv", str(data))
    for field in ("class_ids", "class_names", "train", "val", "bad"):
        assert getattr(after, field) == getattr(before, field), field
    assert all(Path(sample.path).is_file() for sample in after.train + after.val)


def test_of_a_manifest_with_relative_and_absolute_paths(data: Path, tmp_path: Path) -> None:
    rows = [f"{label}/{i}.png,{label}" for label in "ab" for i in range(2)]
    rows += [f"{data / label / f'{i}.png'},{label}" for label in "ab" for i in (2, 3)]
    manifest = data / "photos.csv"
    manifest.write_text("path,label\n" + "\n".join(rows))
    before = load(manifest)
    write_split(tmp_path / "split.csv", before)
    after = read_split(tmp_path / "split.csv", str(manifest))
    assert (after.train, after.val) == (before.train, before.val)


def test_data_that_moved_are_found_by_their_names(data: Path, tmp_path: Path) -> None:
    before = load(data)
    write_split(tmp_path / "split.csv", before)
    data.rename(tmp_path / "moved")
    after = read_split(tmp_path / "split.csv", str(tmp_path / "moved"))
    assert names(after.val) == names(before.val)
    assert all(Path(s.path).is_relative_to(tmp_path / "moved") for s in after.train + after.val)
    assert all(Path(s.path).is_file() for s in after.train + after.val)


def test_a_resumed_run_knows_its_training_photos(data: Path, tmp_path: Path) -> None:
    before, path = load(data), tmp_path / "split.csv"
    write_split(path, before)
    known = read_split(path, str(data)).trained_on
    assert known is not None
    assert known == before.trained_on
    contains = known.membership("x")
    for side, trained in ((before.train, True), (before.val, False)):
        found = [contains(hashlib.sha256(Path(s.path).read_bytes()).digest()) for s in side]
        assert found == [trained] * len(side)
    with path.open() as file:  # as earlier versions wrote it
        rows = [row[:-1] for row in csv.reader(file)]
    with path.open("w") as file:
        csv.writer(file).writerows(rows)
    old = read_split(path, str(data))
    assert old.trained_on is None
    assert names(old.train) == names(before.train)


def test_it_is_reused_whatever_the_data_hold_now(data: Path, tmp_path: Path) -> None:
    before = load(data)
    write_split(tmp_path / "split.csv", before)
    fill(data / "c", 5, 900)
    assert read_split(tmp_path / "split.csv", str(data)).class_ids == ("a", "b")


def test_a_folder_that_is_not_there_is_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ResnestError, match=r"split\.csv: cannot be written"):
        write_split(tmp_path / "none" / "split.csv", load(data))
    with pytest.raises(ResnestError, match=r"split\.csv: cannot be read.*without --resume"):
        read_split(tmp_path / "none" / "split.csv", str(data))


def test_photos_are_where_the_user_says(data: Path, tmp_path: Path) -> None:
    before, path = load(data), tmp_path / "split.csv"
    write_split(path, before)
    moved = data.rename(tmp_path / "moved")
    listing = list_data(str(path), Reading(base_folder=str(moved)))
    assert listing.own_split
    for side, samples in (("train", before.train), ("val", before.val)):
        found = [(p.path, p.name, p.label) for p in listing.photos if p.side == side]
        places = [str(moved / sample.name) for sample in samples]
        names = [sample.name for sample in samples]
        assert [(p, name) for p, name, _ in found] == list(zip(places, names, strict=True))
        assert [label for _, _, label in found] == [before.class_ids[s.label] for s in samples]


def test_photos_in_unicode_s_other_form(tmp_path: Path) -> None:
    for place, label in enumerate(("caf\u00e9", "the\u0301")):
        fill(tmp_path / "data" / label, 4, 100 * place)
    path = tmp_path / "split.csv"
    write_split(path, load(tmp_path / "data"))
    (tmp_path / "data/caf\u00e9").rename(tmp_path / "data/cafe\u0301")
    (tmp_path / "data/the\u0301").rename(tmp_path / "data/th\u00e9")
    again = read_split(path, str(tmp_path / "data"))
    assert all(Path(sample.path).exists() for sample in (*again.train, *again.val))
    listing = list_data(str(path), Reading(base_folder=str(tmp_path / "data")))
    assert all(Path(photo.path).exists() for photo in listing.photos)


def test_a_run_on_a_run_s_split_has_the_same_sides(data: Path, tmp_path: Path) -> None:
    before, path = load(data), tmp_path / "split.csv"
    write_split(path, before)
    (tmp_path / "args.toml").write_text(f"data = {str(data)!r}\n")
    again = load(path)
    assert [s.path for s in again.train] == [s.path for s in before.train]
    assert [s.path for s in again.val] == [s.path for s in before.val]
    assert again.trained_on == before.trained_on


@pytest.mark.parametrize("reading", [{"split_names": "none"}, {"label_column": "class_name"}])
def test_it_says_itself_how_it_is_read(data: Path, reading: dict[str, str]) -> None:
    write_split(data / "split.csv", load(data))
    flag = next(iter(reading)).replace("_", "-")
    with pytest.raises(
        UsageError, match=f"--{flag} is for a table .*split of a run, which says it itself"
    ):
        list_data(str(data / "split.csv"), Reading(**reading))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b'"path","label","class_name","split","error","sha256"\n', True),
        (b"path,label,class_name,split,error\r\n", True),
        (b"path,label\n", False),
        (b"path,label,class_name,split,error,mine\n", False),
        (b"\xff\xfe\x00\r,\x1f\x8b", False),
        (b"", False),
    ],
)
def test_it_is_known_by_its_columns(tmp_path: Path, head: bytes, expected: bool) -> None:
    (tmp_path / "x.csv").write_bytes(head)
    assert is_run_split(tmp_path / "x.csv") is expected
    assert not is_run_split(tmp_path)


def test_a_split_comes_back_as_it_was(tmp_path: Path) -> None:
    plain = tmp_path / "data"
    for place, (name, count) in enumerate({"cat": 10, "dog": 20, "emu": 2}.items()):
        fill(plain / name, count, 1000 * place)
    odd = os.fsencode(plain / "cat") + b'/\xff, "odd"\n.png'
    shutil.copy(plain / "cat" / "0.png", odd)
    make_photo(plain / "cat" / "0.png", seed=777)
    (plain / "dog" / "junk.png").write_bytes(b"junk")
    path = tmp_path / "names.txt"
    path.write_text("cat,Katze\ndog,Hund\nemu,Emu\n")
    before = load(plain, class_names=str(path))
    write_split(tmp_path / "split.csv", before)
    after = read_split(tmp_path / "split.csv", str(plain))
    for field in ("class_ids", "class_names", "train", "val", "bad"):
        assert getattr(after, field) == getattr(before, field), field
    assert b"\xff" in (tmp_path / "split.csv").read_bytes()


def test_photos_left_out_come_back_too(tmp_path: Path) -> None:
    for place, label in enumerate(("a", "b")):
        fill(tmp_path / "data" / "train" / label, 3, 100 * place)
        fill(tmp_path / "data" / "val" / label, 2, 100 * place + 50)
    shutil.copy(tmp_path / "data/train/a/1.png", tmp_path / "data/val/a/same.png")
    before = load(tmp_path / "data")
    write_split(tmp_path / "split.csv", before)
    after = read_split(tmp_path / "split.csv", str(tmp_path / "data"))
    assert [(photo.name, photo.label, photo.error) for photo in after.left_out] == [
        (photo.name, photo.label, photo.error) for photo in before.left_out
    ]
    assert after.val == before.val


HEADER = "path,label,class_name,split,error\n"


@pytest.mark.parametrize("text", ["", "a,b\n", HEADER + "x,y\n", HEADER + "x,y,y,neither,\n"])
def test_a_damaged_split_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(ResnestError, match=r"split\.csv: cannot be read"):
        read_split(tmp_path / "split.csv", "data")
