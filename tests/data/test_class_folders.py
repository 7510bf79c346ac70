"""Oddities of folders and manifests, and where in a manifest a mistake is."""

import os
import shutil
from pathlib import Path

import pytest

from resnest_cli.errors import UsageError
from tests.training.test_dataset import fill, load, names


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for place, label in enumerate("ab"):
        fill(tmp_path / "data" / label, 4, 100 * place)
    return tmp_path / "data"


def manifest(data: Path, lines: list[str], head: str = "path,label") -> Path:
    path = data / "photos.csv"
    path.write_bytes("\n".join([head, *lines]).encode("utf-8", "surrogateescape"))
    return path


ROWS = [f"{label}/{index}.png,{label}" for label in "ab" for index in range(4)]


@pytest.mark.parametrize("names_of_sides", [("Train", "Val"), ("TRAIN", "test"), ("Train",)])
def test_capital_sides_are_no_classes(tmp_path: Path, names_of_sides: tuple[str, ...]) -> None:
    for side in names_of_sides:
        fill(tmp_path / side / "a", 3)
    with pytest.raises(UsageError, match=f"has .*{names_of_sides[0]}.*; rename them"):
        load(tmp_path)


def test_capital_names_beside_other_classes_are_classes(data: Path) -> None:
    fill(data / "Train", 3, 300)
    assert load(data).class_ids == ("Train", "a", "b")


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_link_to_itself_beside_the_classes_spoils_nothing(data: Path) -> None:
    for name in ("loop", "loop.png"):
        (data / name).symlink_to(name)
    found = load(data)
    assert found.class_ids == ("a", "b")
    assert any("1 photo(s) beside the class folders" in note for note in found.notes)


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_links_that_lead_nowhere_are_bad_photos(data: Path) -> None:
    (data / "a" / "loop.png").symlink_to("loop.png")
    (data / "a" / "lost.png").symlink_to("none")
    found = load(data)
    assert {bad.name for bad in found.bad} == {"a/loop.png", "a/lost.png"}
    assert len(found.train) + len(found.val) == 8


def test_spaces_around_a_label_make_no_other_class(data: Path) -> None:
    found = load(manifest(data, [ROWS[0] + " ", *ROWS[1:]]))
    assert found.class_ids == ("a", "b")
    assert len(found.train) + len(found.val) == 8


def test_a_split_that_lines_lack_is_told_with_the_first(data: Path) -> None:
    rows = [row + ("," if place in (4, 6) else ",train") for place, row in enumerate(ROWS)]
    with pytest.raises(UsageError, match=r"2 of 8 lines have no split, line 6 first"):
        load(manifest(data, rows, "path,label,split"))


def test_a_photo_listed_twice_is_told_with_both_lines(data: Path) -> None:
    with pytest.raises(UsageError, match=r"a/1\.png more than once, in lines 3 and 10"):
        load(manifest(data, [*ROWS, "a/1.png,b"]))


def test_files_of_a_manifest_that_are_no_photos_are_bad(data: Path) -> None:
    found = load(manifest(data, [*ROWS, "a/none.png,a", "a,a"]))
    assert [bad.name for bad in found.bad] == ["a/none.png", "a"]
    assert all(bad.error for bad in found.bad)


def test_a_manifests_own_split_has_no_photo_on_both_sides(data: Path) -> None:
    shutil.copy(data / "a" / "0.png", data / "a" / "3.png")
    rows = [row + (",val" if "3.png" in row else ",train") for row in ROWS]
    found = load(manifest(data, rows, "path,label,split"))
    assert names(found.val) == {"b/3.png"}
    assert [photo.name for photo in found.left_out] == ["a/3.png"]


def test_labels_that_are_not_utf8(data: Path) -> None:
    found = load(manifest(data, [row.replace(",a", ",\udce9") for row in ROWS]))
    assert found.class_ids == ("b", "é")
    assert "4 line(s) are not UTF-8 and read as Windows-1252, line 2 first" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,A\nb,"B', "line 2 is not CSV"),
        ("a," + "x" * 140_000 + "\nb,B\n", "line 1 is not CSV"),
        ("a,A\n\nb\n", "line 3 lacks a name"),
    ],
)
def test_damaged_class_names_are_told_with_the_line(data: Path, text: str, message: str) -> None:
    path = data / "names.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load(data, class_names=str(path))


def test_class_names_of_spreadsheets(data: Path) -> None:
    path = data / "names.txt"
    path.write_bytes('\ufeffa,"A, first"\r\nb,B\u2028two\r\n'.encode())
    assert load(data, class_names=str(path)).class_names == ("A, first", "B\u2028two")
