"""`split.csv`: odd names come back, data may move, and damage is told."""

import csv
import hashlib
import os
from pathlib import Path

import pytest

from resnest_cli.errors import ResnestError
from resnest_cli.training.split import read_split, write_split
from tests.training.test_dataset import fill, load, names


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
