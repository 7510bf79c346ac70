"""Folders and manifests -> samples: layouts, checks, splits, and what the user is told."""

import os
import shutil
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from resnest_cli.data.dataset import DataSet, load_dataset
from resnest_cli.errors import UsageError
from tests.conftest import make_photo


def fill(folder: Path, count: int, first: int = 0) -> None:
    """So many photos, each unlike all others made with another `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        make_photo(folder / f"{index}.png", (12, 9), seed=first + index)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    for place, (name, count) in enumerate({"cat": 10, "dog": 20, "emu": 2}.items()):
        fill(tmp_path / "data" / name, count, 1000 * place)
    return tmp_path / "data"


def load(data: Path, **more: object) -> DataSet:
    settings: dict = {"val_split": 0.2, "seed": 0} | more
    return load_dataset(str(data), **settings)


def names(samples: tuple) -> set[str]:
    return {sample.name for sample in samples}


def per_class(dataset: DataSet, samples: tuple) -> dict[str, int]:
    return dict(Counter(dataset.class_ids[sample.label] for sample in samples))


def test_plain_folders_are_split_by_class(plain: Path) -> None:
    found = load(plain)
    assert found.class_ids == found.class_names == ("cat", "dog", "emu")
    assert per_class(found, found.val) == {"cat": 2, "dog": 4, "emu": 1}
    assert per_class(found, found.train) == {"cat": 8, "dog": 16, "emu": 1}
    assert not names(found.train) & names(found.val)
    assert not found.own_split
    assert not found.notes
    assert all(Path(s.path).is_file() and str(plain / s.name) == s.path for s in found.train)


def test_the_share_and_the_seed_decide(plain: Path) -> None:
    assert per_class(load(plain), load(plain, val_split=0.5).val) == {"cat": 5, "dog": 10, "emu": 1}
    assert load(plain) == load(plain)
    assert names(load(plain).val) != names(load(plain, seed=1).val)


def test_a_class_is_split_whatever_the_others_hold(plain: Path) -> None:
    before = {name for name in names(load(plain).val) if name.startswith("dog")}
    fill(plain / "ant", 5, 7000)
    fill(plain / "cat", 12, 0)
    after = {name for name in names(load(plain).val) if name.startswith("dog")}
    assert before == after


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_datas_own_split(tmp_path: Path, name: str) -> None:
    for place, label in enumerate(("a", "b")):
        fill(tmp_path / "train" / label, 3, 100 * place)
        fill(tmp_path / name / label, 2, 100 * place + 50)
    found = load(tmp_path)
    assert found.own_split
    assert names(found.val) == {f"{name}/{label}/{i}.png" for label in "ab" for i in range(2)}
    assert len(found.train) == 6


def test_val_goes_before_test_and_that_is_said(tmp_path: Path) -> None:
    for place, side in enumerate(("train", "val", "test")):
        for label in "ab":
            fill(tmp_path / side / label, 2, 100 * place + 10 * ord(label))
    found = load(tmp_path)
    assert all(sample.name.startswith("val/") for sample in found.val)
    assert any("test: 4 photos held out" in note for note in found.notes)


def test_train_without_val_is_split(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "a", 5)
    fill(tmp_path / "train" / "b", 5, 50)
    found = load(tmp_path)
    assert not found.own_split
    assert len(found.val) == 2


def test_nested_hidden_and_loose(plain: Path) -> None:
    fill(plain / "cat" / "indoors" / "deep", 3, 5000)
    fill(plain / ".hidden", 3, 6000)
    fill(plain / "cat" / ".thumbs", 3, 6100)
    make_photo(plain / "loose.jpg")
    (plain / "cat" / "notes.txt").write_text("no photo")
    found = load(plain)
    assert sum(per_class(found, side).get("cat", 0) for side in (found.train, found.val)) == 13
    assert "cat/indoors/deep/1.png" in names(found.train) | names(found.val)
    assert len(found.class_ids) == 3
    assert any("1 photo beside the class folders" in note for note in found.notes)
    assert any("cat: 1 file without" in note for note in found.notes)


def test_bad_photos_are_listed_and_left_out(plain: Path) -> None:
    whole = (plain / "dog" / "3.png").read_bytes()
    (plain / "dog" / "3.png").write_bytes(whole[: len(whole) // 2])
    (plain / "cat" / "empty.jpg").write_bytes(b"")
    found = load(plain)
    assert {(bad.name, bad.label) for bad in found.bad} == {
        ("dog/3.png", "dog"),
        ("cat/empty.jpg", "cat"),
    }
    assert all(bad.error for bad in found.bad)
    assert "dog/3.png" not in names(found.train) | names(found.val)
    assert len(found.train) + len(found.val) == 31


def test_classes_without_readable_photos(plain: Path) -> None:
    (plain / "gone").mkdir()
    (plain / "bad").mkdir()
    (plain / "bad" / "x.jpg").write_bytes(b"junk")
    found = load(plain)
    assert found.class_ids == ("cat", "dog", "emu")
    assert any("gone: no photos" in note for note in found.notes)
    assert any("bad: no readable photos" in note for note in found.notes)


def test_a_class_of_one_photo_trains(plain: Path) -> None:
    fill(plain / "yak", 1, 8000)
    found = load(plain)
    assert "yak/0.png" in names(found.train)
    assert any("one photo only, which trains: yak" in note for note in found.notes)
    assert any("no validation photos" in note and "yak" in note for note in found.notes)


@pytest.mark.parametrize("seed", range(5))
def test_duplicates_never_fall_on_both_sides(plain: Path, seed: int) -> None:
    for index in range(6):
        shutil.copy(plain / "dog" / f"{index}.png", plain / "dog" / f"copy{index}.png")
    found = load(plain, seed=seed)
    assert found.duplicates == 6
    train = {Path(s.path).read_bytes() for s in found.train}
    val = {Path(s.path).read_bytes() for s in found.val}
    assert not train & val
    assert per_class(found, found.val)["dog"] in {4, 5}


def test_the_same_photo_under_two_classes_trains(plain: Path) -> None:
    for index in range(10):
        shutil.copy(plain / "cat" / f"{index}.png", plain / "dog" / f"cat{index}.png")
    found = load(plain)
    assert any("under several classes" in note and "--multi-label" in note for note in found.notes)
    assert not any(sample.name.startswith("dog/cat") for sample in found.val)
    assert "cat" not in per_class(found, found.val)


def test_a_class_of_copies_of_one_photo_has_none_to_validate(plain: Path) -> None:
    fill(plain / "yak", 1, 8000)
    for index in range(1, 5):
        shutil.copy(plain / "yak" / "0.png", plain / "yak" / f"{index}.png")
    found = load(plain)
    assert per_class(found, found.train)["yak"] == 5


def test_own_validation_photos_that_train_has_are_left_out(tmp_path: Path) -> None:
    for place, label in enumerate(("a", "b")):
        fill(tmp_path / "train" / label, 3, 100 * place)
        fill(tmp_path / "val" / label, 2, 100 * place + 50)
    shutil.copy(tmp_path / "train" / "a" / "1.png", tmp_path / "val" / "a" / "same.png")
    found = load(tmp_path)
    assert "val/a/same.png" not in names(found.val)
    assert [photo.name for photo in found.left_out] == ["val/a/same.png"]
    assert "train/a/1.png" in found.left_out[0].error
    assert any("1 validation photo left out" in note for note in found.notes)


def test_a_validation_class_that_training_lacks(tmp_path: Path) -> None:
    for label in ("beagle", "poodle"):
        fill(tmp_path / "train" / label, 2, len(label))
    fill(tmp_path / "val" / "beagel", 2, 70)
    with pytest.raises(UsageError, match=r"'beagel'.*Did you mean beagle"):
        load(tmp_path)


def test_a_class_without_validation_is_fine_and_said(tmp_path: Path) -> None:
    for place, label in enumerate(("a", "b")):
        fill(tmp_path / "train" / label, 2, 100 * place)
    fill(tmp_path / "val" / "a", 2, 50)
    found = load(tmp_path)
    assert any("no validation photos" in note and "b" in note for note in found.notes)


def test_another_number_of_classes_is_told_with_what_was_found(plain: Path) -> None:
    assert load(plain, classes=3).class_ids == ("cat", "dog", "emu")
    with pytest.raises(UsageError) as error:
        load(plain, classes=4)
    for text in ("--classes 4", "3 classes", "cat: 10", "dog: 20", "emu: 2"):
        assert text in str(error.value)


def test_refusals(tmp_path: Path, plain: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no photos found"):
        load(tmp_path / "empty")
    (tmp_path / "bare" / "train").mkdir(parents=True)
    with pytest.raises(UsageError, match="no photos found"):
        load(tmp_path / "bare")
    shutil.rmtree(plain / "cat")
    shutil.rmtree(plain / "dog")
    with pytest.raises(UsageError, match="one class only"):
        load(plain)
    for label in ("x", "y"):
        fill(tmp_path / "ones" / label, 1, ord(label))
    with pytest.raises(UsageError, match="no photo to validate"):
        load(tmp_path / "ones")


@pytest.fixture
def manifest(plain: Path) -> Path:
    path = plain.parent / "photos.csv"
    lines = [f"data/{label}/{i}.png,{label}" for label in ("cat", "dog") for i in range(6)]
    path.write_text("path,label\n" + "\n".join(lines) + "\n")
    return path


def test_manifest(manifest: Path, plain: Path) -> None:
    found = load(manifest)
    assert found.class_ids == ("cat", "dog")
    assert len(found.train) == 10
    assert len(found.val) == 2
    assert all(sample.name.startswith("data/") for sample in found.train)
    lines = [f"{plain / label / f'{i}.png'},{label},{'val' if i > 3 else 'train'}"
             for label in ("cat", "dog") for i in range(6)]  # fmt: skip
    manifest.write_text("path,label,split\n" + "\n".join(lines))
    found = load(manifest)
    assert found.own_split
    assert len(found.val) == 4


def test_test_rows_are_held_out(manifest: Path) -> None:
    """A test set is not a validation set."""
    for sides, own in ((("train", "train", "val", "test"), True), (("train", "test"), False)):
        rows = [
            f"data/{label}/{i}.png,{label},{sides[i % len(sides)]}"
            for label in ("cat", "dog")
            for i in range(8)
        ]
        manifest.write_text("path,label,split\n" + "\n".join(rows))
        found = load(manifest)
        used = names(found.train) | names(found.val)
        assert used == {row.split(",")[0] for row in rows if not row.endswith("test")}
        assert len(found.val) == (4 if own else 2)
        assert found.own_split == own
        assert any("4 photos of the test" in note or "8 photos" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind,what\na,b\n", "path,label"),
        ("path,label\n", "lists no photo"),
        ("path,label\na.png,\n", "line 2 lacks"),
        ("path,label\ndata/cat/0.png,a\n,b\n", "line 3 lacks"),
        ("path,label,split\ndata/cat/0.png,a,trian\n", "line 2: unknown split 'trian'"),
        ("path,label,split\ndata/cat/0.png,a,train\ndata/cat/1.png,b,\n", "have no split"),
        ("path,label\ndata/cat/0.png,a\ndata/cat/0.png,b\n", "more than once"),
        ('path,label\n"data/cat/0.png,a\n', "not CSV"),
        ("path,label,split\ndata/cat/0.png,a,test\n", "has test, but no photos to train on"),
        ("path,label,split\ndata/cat/0.png,a,val\n", "has val, but no photos to train on"),
    ],
)
def test_bad_manifests_name_the_line(manifest: Path, text: str, message: str) -> None:
    manifest.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        load(manifest)
    assert str(manifest) in str(error.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", ", "])
def test_delimiters(manifest: Path, delimiter: str) -> None:
    text = manifest.read_text().replace(",", delimiter)
    manifest.write_text(text)
    assert load(manifest).class_ids == ("cat", "dog")


def test_class_names(plain: Path) -> None:
    path = plain.parent / "names.txt"
    path.write_text("cat\tCat, domestic\ndog\tHund\nemu\tEmu\nother\tOther\n", encoding="utf-8")
    assert load(plain, class_names=str(path)).class_names == ("Cat, domestic", "Hund", "Emu")
    path.write_text("cat,Cat\ndog,Hund, der\nemu,Emu\n", encoding="utf-8")
    assert load(plain, class_names=str(path)).class_names == ("Cat", "Hund, der", "Emu")
    path.write_text("cat,Cat\n")
    with pytest.raises(UsageError, match="no name for dog, emu"):
        load(plain, class_names=str(path))
    path.write_text("cat\n")
    with pytest.raises(UsageError, match="line 1 lacks a name"):
        load(plain, class_names=str(path))
    with pytest.raises(UsageError, match="cannot be read"):
        load(plain, class_names="none.txt")
    path.write_bytes("cat,Kätzchen\ndog,Hund\nemu,Emu\n".encode("cp1252"))
    found = load(plain, class_names=str(path))
    assert found.class_names == ("Kätzchen", "Hund", "Emu")
    assert "read as Windows-1252, line 1 first: cat,Kätzchen" in found.notes[0]
    path.write_text("cat,Katze\ndog,Hund\nemu,Emu\n", encoding="utf-16")
    assert load(plain, class_names=str(path)).class_names == ("Katze", "Hund", "Emu")


def test_class_names_in_unicodes_other_form(plain: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "émeu") for form in ("NFC", "NFD"))
    (plain / "emu").rename(plain / decomposed)
    path = plain.parent / "names.txt"
    path.write_text(f"cat,Cat\ndog,Dog\n{composed},Emu\n", encoding="utf-8")
    assert set(load(plain, class_names=str(path)).class_names) == {"Cat", "Dog", "Emu"}


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="names are text there")
def test_a_class_whose_name_is_no_text_is_told_before_training(plain: Path) -> None:
    (plain / "emu").rename(os.fsdecode(os.fsencode(plain) + b"/caf\x82"))
    with pytest.raises(UsageError, match=r"class 'caf.x82' has a name that is not UTF-8.*Rename"):
        load(plain)


def test_photos_that_are_all_broken_are_told_as_such(plain: Path) -> None:
    for photo in plain.glob("*/*.png"):
        photo.write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"none of 32 photos can be read. cat/0.png: .*image"):
        load(plain)


def test_progress_is_told(plain: Path) -> None:
    told: list[tuple[int, int | None]] = []
    load(plain, progress=lambda done, total: told.append((done, total)))
    assert told == [(index, 32) for index in range(1, 33)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_named_pipe_blocks_nobody(plain: Path) -> None:
    os.mkfifo(plain / "cat" / "pipe.jpg")
    assert [(bad.name, bad.error) for bad in load(plain).bad] == [
        ("cat/pipe.jpg", "is a named pipe, not a regular file; - reads a photo from standard input")
    ]


def test_classes_may_have_the_names_of_splits(tmp_path: Path) -> None:
    for place, label in enumerate(("bus", "car", "train")):
        fill(tmp_path / label, 4, 100 * place)
    found = load(tmp_path)
    assert found.class_ids == ("bus", "car", "train")
    assert not found.own_split


def test_hints_at_the_folder_that_was_meant(tmp_path: Path) -> None:
    for place, label in enumerate(("a", "b")):
        fill(tmp_path / "unzipped" / label, 4, 100 * place)
        fill(tmp_path / "half" / "val" / label, 4, 100 * place)
    with pytest.raises(UsageError, match="has val, but no photos to train on"):
        load(tmp_path / "half")
    shutil.rmtree(tmp_path / "half")
    with pytest.raises(UsageError, match=r"one class only.*Did you mean .*unzipped\?"):
        load(tmp_path)


def test_the_same_photo_under_two_classes_of_a_side_is_said(tmp_path: Path) -> None:
    for place, label in enumerate(("a", "b")):
        fill(tmp_path / "train" / label, 3, 100 * place)
        fill(tmp_path / "val" / label, 2, 100 * place + 50)
    shutil.copy(tmp_path / "train/a/1.png", tmp_path / "train/b/same.png")
    shutil.copy(tmp_path / "val/a/1.png", tmp_path / "val/b/same.png")
    found = load(tmp_path)
    assert any("several classes of training" in note for note in found.notes)
    assert any("several classes of validation" in note for note in found.notes)
    assert len(found.train) == 7
    assert len(found.val) == 5
