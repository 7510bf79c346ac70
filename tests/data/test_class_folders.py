"""Oddities of folders and manifests, and where in a manifest a mistake is."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from resnest_cli.data.class_folders import list_data
from resnest_cli.data.labelled_photos import LabelledData, Reading
from resnest_cli.errors import UsageError
from tests.data.test_dataset import fill, load, names


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


def photos(root: Path, *folders: str) -> Path:
    """Two photos in each of these folders, no two alike."""
    for place, folder in enumerate(folders):
        fill(root / folder, 2, 100 * place)
    return root


def sides(listing: LabelledData) -> dict[str, int]:
    """How many photos are listed for each side."""
    return dict(Counter(str(photo.side) for photo in listing.photos))


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("Train", "Val"),
        ("training", "validation"),
        ("train", "dev"),
        ("train", "eval"),
        ("training_set", "validation_set"),
        ("seg_train", "seg_val"),
        ("train2017", "val2017"),
    ],
)
def test_sides_by_their_usual_names(tmp_path: Path, train: str, val: str) -> None:
    found = load(photos(tmp_path, f"{train}/a", f"{train}/b", f"{val}/a", f"{val}/b"))
    assert found.class_ids == ("a", "b")
    assert found.own_split
    assert {name.split("/")[0] for name in names(found.val)} == {val}


@pytest.mark.parametrize("test", ["test", "Testing", "test_set"])
def test_a_test_set_is_held_out(tmp_path: Path, test: str) -> None:
    train = "Training"
    photos(tmp_path, *(f"{side}/{label}" for side in (train, test) for label in "ab"))
    found = load(tmp_path)
    assert not found.own_split
    assert (len(found.train), len(found.val)) == (2, 2)
    assert all(name.startswith(train) for name in names(found.train) | names(found.val))
    assert found.notes == (
        f"{test}: 4 photos held out, for `resnest evaluate --split test`; a part of {train} "
        f"validates (--split-names {train},{test} takes {test})",
    )
    validated = load(tmp_path, reading=Reading(split_names=f"{train},{test}"))
    assert validated.own_split
    assert len(validated.val) == 4


def test_val_and_test_beside_each_other(tmp_path: Path) -> None:
    photos(tmp_path, *(f"{side}/{label}" for side in ("train", "val", "test") for label in "ab"))
    assert sides(list_data(str(tmp_path))) == {"train": 4, "val": 4, "test": 4}
    found = load(tmp_path)
    assert (len(found.train), len(found.val)) == (4, 4)
    assert found.notes == ("test: 4 photos held out, for `resnest evaluate --split test`",)


@pytest.mark.parametrize(
    ("folders", "asked", "expected"),
    [
        (["Fold1/a", "Fold1/b", "Fold2/a", "Fold2/b"], "Fold1,Fold2", {"train": 4, "val": 4}),
        (["Fold1/a", "Fold1/b", "Fold2/a", "Fold2/b"], "Fold1,,Fold2", {"train": 4, "test": 4}),
        (["cat/2019", "cat/2020", "dog/2019", "dog/2020"], "none", {"None": 8}),
        (["train/a", "train/b", "val/a", "val/b"], "none", {"None": 8}),
        (["exam", "quiz", "test"], "None", {"None": 6}),
    ],
)
def test_sides_as_the_user_says(
    tmp_path: Path, folders: list[str], asked: str, expected: dict[str, int]
) -> None:
    found = list_data(str(photos(tmp_path, *folders)), Reading(split_names=asked))
    assert sides(found) == expected


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["Fold1/a", "Fold1/b", "Fold2/a", "Fold2/b"], r"Fold1 and Fold2 .* same names \(a, b\)"),
        (["Lernen/a", "Lernen/b", "x", "Prüfung/a", "Prüfung/b"], "hold folders of the same names"),
        (["train/a", "train/b", "Prüfung/a", "Prüfung/b"], "train, beside Prüfung, may be"),
        (["train", "test1"], "train, beside test1, may be"),
        (["my_train_v1", "my_test_v2"], "my_test_v2, my_train_v1 may be"),
        (["cat", "dog", "test/cat", "test/dog"], "test, beside cat, dog, may be"),
        (["cat", "dog", "val"], "val, beside cat, dog, may be"),
        (["train/a", "training/a", "val/a"], "train, training all mean train"),
        (["trainA/x", "testA/x", "trainB/x", "testB/x"], "trainA, trainB all mean train"),
    ],
)
def test_what_may_be_a_side_or_a_class_is_refused(
    tmp_path: Path, folders: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load(photos(tmp_path, *folders))
    assert "Rename them to train, val and test" in str(error.value)
    assert "--split-names" in str(error.value)


@pytest.mark.parametrize(
    "folders",
    [
        ("a/train", "a/test", "b/train", "b/test"),
        ("a/train", "a/test", "labels/train", "labels"),  # as of data for detection
    ],
)
def test_sides_inside_of_classes_are_refused(tmp_path: Path, folders: tuple[str, ...]) -> None:
    data = photos(tmp_path, *folders)
    with pytest.raises(UsageError, match=r"a: holds test, train\. .* classes: .*test/a\."):
        load(data)
    assert sides(list_data(str(data), Reading(split_names="none"))) == {"None": 8}


def test_the_folder_that_was_meant(tmp_path: Path) -> None:
    photos(tmp_path / "x", "deep/data/a", "deep/data/b", "upper/train/Cat", "upper/train/b",
           "upper/val/cat", "upper/val/b")  # fmt: skip
    shutil.move(tmp_path / "x/upper", tmp_path)
    with pytest.raises(UsageError, match=r"one class only \(deep\).* Did you mean .*deep/data\?"):
        load(tmp_path / "x")
    with pytest.raises(UsageError, match=r"the class 'cat', .* Did you mean Cat\?"):
        load(tmp_path / "upper")


def test_a_class_of_a_table_that_nothing_trains(data: Path) -> None:
    rows = [f"{row},{'val' if row.endswith('b') else 'train'}" for row in ROWS]
    with pytest.raises(UsageError, match=r"the class 'b', which .* Give it rows on both sides\."):
        load(manifest(data, rows, "path,label,split"))


def test_shards_without_an_index_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "train-0.tar").touch()
    with pytest.raises(UsageError, match=r"tar files, .* no index.json.*--data '.*train-\*.tar'"):
        load(tmp_path)
    (tmp_path / "index.json").touch()
    with pytest.raises(UsageError, match="only `resnest train` and `resnest finetune` read"):
        load(tmp_path)
    (tmp_path / "split.csv").touch()
    with pytest.raises(UsageError, match=r"is a run. Did you mean .*split.csv\?"):
        load(tmp_path)


def test_split_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder Fold3, but Fold1, Fold2"):
        list_data(str(photos(tmp_path, "Fold1/a", "Fold2/a")), Reading(split_names="Fold1,Fold3"))


@pytest.mark.parametrize(
    ("folder", "note"),
    [
        ("test", "test: 2 photos without class folders, so without labels; not used"),
        ("test/test", "test: 2 photos without class folders, so without labels; not used"),
        ("val/images", "val: 2 photos without class folders, so without labels; not used"),
        ("val", "val: 2 photos without class folders, so without labels; not used"),
    ],
)
def test_a_side_without_labels_is_said_and_train_is_split(
    tmp_path: Path, folder: str, note: str
) -> None:
    found = load(photos(tmp_path, "train/a", "train/b", folder))
    assert (len(found.train), len(found.val)) == (2, 2)
    assert not found.own_split
    assert found.notes == (note,)


@pytest.mark.parametrize("empty", ["val", "val/a", "test/a"])
def test_an_empty_side_is_said_and_train_is_split(tmp_path: Path, empty: str) -> None:
    (photos(tmp_path, "train/a", "train/b") / empty).mkdir(parents=True)
    found = load(tmp_path)
    assert len(found.val) == 2
    side = empty.partition("/")[0]
    assert any(note.startswith((f"{side}: is empty", f"{side}: has no")) for note in found.notes)


def test_validation_photos_of_which_none_can_be_used(tmp_path: Path) -> None:
    photos(tmp_path, "train/a", "train/b", "val/a")
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / "val/a/1.png")
    (tmp_path / "val/a/0.png").write_bytes(b"")
    with pytest.raises(
        UsageError, match=r"none of its 2 validation .*: 1 are the same .* 1 cannot"
    ):
        load(tmp_path)


def test_training_photos_beside_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train: has 2 photos in no folder of a class"):
        load(photos(tmp_path, "train", "test"))


def test_archives_that_hold_a_side_twice(tmp_path: Path) -> None:
    places = [f"seg_{side}/seg_{side}/{label}" for side in ("train", "test") for label in "ab"]
    found = list_data(str(photos(tmp_path, *places, "seg_pred/seg_pred")))
    assert sides(found) == {"train": 4, "test": 4}
    assert {photo.label for photo in found.photos} == {"a", "b"}
    assert "not used: seg_pred (beside seg_test, seg_train)" in sorted(found.notes)


def test_images_in_a_folder_of_a_class(tmp_path: Path) -> None:
    found = load(photos(tmp_path, "train/a/images", "train/b/images", "val/a/images"))
    assert found.class_ids == ("a", "b")
    assert len(found.val) == 2


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("first", [COMPOSED, DECOMPOSED])
def test_a_class_in_two_unicode_forms_is_one(tmp_path: Path, first: str) -> None:
    other = DECOMPOSED if first == COMPOSED else COMPOSED
    found = load(photos(tmp_path, f"train/{first}", "train/b", f"val/{other}", "val/b"))
    assert found.class_ids == ("b", first)
    assert len(found.val) == 4


def test_two_folders_of_one_class(tmp_path: Path) -> None:
    found = load(photos(tmp_path, COMPOSED, DECOMPOSED, "b"))
    assert len(found.class_ids) == 2
    assert any("they are one class" in note for note in found.notes)


@pytest.mark.parametrize(
    "dropping", ["@eaDir", "__MACOSX", ".ipynb_checkpoints", "#recycle", "$RECYCLE.BIN"]
)
def test_what_systems_leave_is_no_class_and_no_photo(data: Path, dropping: str) -> None:
    before = load(data)
    for place in (data, data / "a"):
        fill(place / dropping, 2, 900)
        (place / "._1.png").write_bytes(b"AppleDouble")
        (place / "Thumbs.db").write_bytes(b"thumbs")
        (place / "desktop.ini").write_bytes(b"")
    assert load(data) == before


@pytest.mark.parametrize("name", ["train", "Train"])
def test_a_train_among_vehicles_is_a_class(data: Path, name: str) -> None:
    fill(data / name, 3, 300)
    assert load(data).class_ids == tuple(sorted([name, "a", "b"]))


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_link_to_itself_beside_the_classes_spoils_nothing(data: Path) -> None:
    for name in ("loop", "loop.png"):
        (data / name).symlink_to(name)
    found = load(data)
    assert found.class_ids == ("a", "b")
    assert any("1 photo beside the class folders" in note for note in found.notes)


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
    assert "4 lines not in UTF-8, read as Windows-1252, line 2 first" in found.notes[0]


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
