"""Photos with several labels: tables and folders that have them, splits, and what is refused."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from timm.data import ImageNetInfo

from resnest_cli.data.dataset import DataSet, load_dataset, read_split, write_split
from resnest_cli.data.label_sets import stand_alone
from resnest_cli.data.labelled_photos import Reading
from resnest_cli.data.stratification import Group, validating
from resnest_cli.errors import UsageError
from tests.conftest import make_photo

PHOTOS = 12
ROWS = ["sun|sea", "sun", "sea", "", "sun|dog", "dog", "sun|sea|dog", "dog|sea"]
EXPECTED = [{"sun", "sea"}, {"sun"}, {"sea"}, set(), {"sun", "dog"}, {"dog"},
            {"sun", "sea", "dog"}, {"sea", "dog"}]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for number in range(PHOTOS):
        make_photo(tmp_path / f"{number}.png", (12, 9), seed=number)
    return tmp_path


def load(place: Path, text: str, *, val_split: float = 0.25, **reading: object) -> DataSet:
    (place / "t.csv").write_text(text)
    how = Reading(**reading)  # type: ignore[arg-type]
    return load_dataset(str(place / "t.csv"), val_split=val_split, seed=0, reading=how)


def label_sets(dataset: DataSet) -> list[set[str]]:
    """The labels of each photo, in the order of their names."""
    ids = dataset.class_ids
    samples = sorted((*dataset.train, *dataset.val), key=lambda one: one.name)
    return [{ids[label] for label in sample.labels} for sample in samples]


def column(labels: list[str], separator: str = "|") -> str:
    rows = [f'{n}.png,"{text.replace("|", separator)}"' for n, text in enumerate(labels)]
    return "\n".join(["path,labels", *rows])


@pytest.mark.parametrize("separator", ["|", ";", ",", " | "])
def test_a_column_of_labels_is_found_out(place: Path, separator: str) -> None:
    found = load(place, column(ROWS, separator))
    assert found.multi_label
    assert found.class_ids == ("dog", "sea", "sun")
    assert label_sets(found) == EXPECTED
    assert any("a photo may have several labels here" in note for note in found.notes)
    assert any("1 photo without a label" in note for note in found.notes)
    totals = [a + b for a, b in zip(found.train_counts, found.val_counts, strict=True)]
    assert totals == [4, 4, 4]
    assert (found.train_photos, found.val_photos) == (len(found.train), len(found.val))


@pytest.mark.parametrize(
    ("several", "texts"),
    [
        (True, ["bus|person", "car|person", "bus|car|person", "car", "bus"]),  # never "person"
        (True, ["a|b|c", "b|c", "c|d", "a|d", "b|c|d", "d|a"]),  # none of them alone
        (False, ["animal|dog", "animal|cat", "plant|rose"]),
        (False, ["animal", "animal|dog", "animal|dog|poodle", "plant|rose"]),
        (False, ["animal|other", "animal|mammal|other", "animal|mammal|dog", "plant|other"]),
        (False, ["apple|healthy", "apple|scab", "pear|healthy"]),
        (False, ["yes|no", "no|yes", "yes|yes", "maybe"]),
        (False, ["0,1", "1,0", "1,2", "2,1"]),
        (False, ["crane, bird", "crane, machine", "missile", "projectile, missile", "tench, carp"]),
    ],
)
def test_what_cannot_mean_anything_else(several: bool, texts: list[str]) -> None:
    """Labels of a set move from place to place; levels of a hierarchy, synonyms, tuples do not."""
    assert stand_alone(texts) is several


def test_names_of_published_classes_are_no_sets() -> None:
    for subset in ("imagenet-1k", "imagenet-22k"):
        names = ImageNetInfo(subset)
        assert not stand_alone(
            names.index_to_description(index) for index in range(names.num_classes())
        )


def test_flags_decide(place: Path) -> None:
    hierarchy = ["animal|dog", "animal|cat", "animal|dog", "animal|cat"]
    assert not load(place, column(hierarchy)).multi_label
    found = load(place, column(hierarchy), multi_label=True)
    assert found.class_ids == ("animal", "cat", "dog")
    plain = load(place, column([*ROWS[:3], *ROWS[:3]]), multi_label=False)
    assert not plain.multi_label
    assert plain.class_ids == ("sea", "sun", "sun|sea")


def flags(*rows: str) -> str:
    return "\n".join(["path,sun,sea,note", *(f"{n}.png,{row}" for n, row in enumerate(rows))])


def test_columns_of_0_and_1(place: Path) -> None:
    text = "path,sun,sea\n0.png,1,1\n1.png,0,1.0\n2.png,1,0\n3.png,0,0\n"
    found = load(place, text)
    assert found.multi_label
    assert label_sets(found) == [{"sun", "sea"}, {"sea"}, {"sun"}, set()]
    more = load(place, flags("1,1,a", "0,1,b", "1,0,c", "0,0,d"), multi_label=True)
    assert label_sets(more) == label_sets(found)
    assert any("not taken as labels" in note and "note" in note for note in more.notes)
    one_each = "path,sun,sea\n0.png,1,0\n1.png,0,1\n2.png,1,0\n3.png,0,1\n"
    with pytest.raises(UsageError, match=r"0 and 1 for each class .*--multi-label"):
        load(place, one_each)
    assert label_sets(load(place, one_each, multi_label=True)) == 2 * [{"sun"}, {"sea"}]
    with pytest.raises(UsageError, match="0 and 1 for each class"):
        load(place, text, multi_label=False)


def test_a_row_for_each_label(place: Path) -> None:
    text = "path,label\n0.png,sun\n0.png,sea\n1.png,sea\n2.png,sun\n3.png,sea\n"
    with pytest.raises(UsageError, match=r"0.png more than once.*--multi-label"):
        load(place, text)
    assert label_sets(load(place, text, multi_label=True))[0] == {"sun", "sea"}
    with pytest.raises(UsageError, match="of val here, and of train"):
        load(place, "path,label,split\n0.png,sun,train\n0.png,sea,val\n1.png,sea,train\n",
             multi_label=True)  # fmt: skip


def test_copies_in_several_class_folders(place: Path) -> None:
    data = place / "data"
    for label, numbers in {"sun": range(6), "sea": range(4, 10)}.items():
        (data / label).mkdir(parents=True)
        for number in numbers:
            shutil.copy(place / f"{number}.png", data / label / f"{number}.png")
    how = Reading(multi_label=True)
    found = load_dataset(str(data), val_split=0.25, seed=0, reading=how)
    assert Counter(map(frozenset, label_sets(found))) == {
        frozenset({"sun"}): 4, frozenset({"sea"}): 4, frozenset({"sun", "sea"}): 2,
    }  # fmt: skip
    assert any("12 files are 10 different photos; 2 lie" in note for note in found.notes)
    (data / "a|b").mkdir()
    shutil.copy(place / "11.png", data / "a|b")
    with pytest.raises(UsageError, match=r"a\|b has \| in its name"):
        load_dataset(str(data), val_split=0.25, seed=0, reading=how)


def test_split_is_kept_in_a_file(place: Path) -> None:
    found = load(place, column(ROWS))
    write_split(place / "split.csv", found)
    assert (place / "split.csv").read_text().startswith("path,labels,class_names,split,")
    again = read_split(place / "split.csv", str(place / "t.csv"))
    assert again.multi_label
    assert (again.class_ids, again.class_names) == (found.class_ids, found.class_names)
    assert [(s.name, s.labels) for s in again.train] == [(s.name, s.labels) for s in found.train]
    assert [(s.name, s.labels) for s in again.val] == [(s.name, s.labels) for s in found.val]
    shown = load_dataset(str(place / "split.csv"), val_split=0.1, seed=5,
                         reading=Reading(base_folder=str(place)))  # fmt: skip
    assert [s.labels for s in shown.val] == [s.labels for s in found.val]
    with pytest.raises(UsageError, match="its photos may have several labels"):
        load_dataset(str(place / "split.csv"), val_split=0.1, seed=5,
                     reading=Reading(base_folder=str(place), multi_label=False))  # fmt: skip


def test_the_same_bytes_are_on_one_side(place: Path) -> None:
    for number in range(0, 8, 2):
        shutil.copy(place / f"{number}.png", place / f"{number + 1}.png")
    found = load(place, column(ROWS), val_split=0.4)
    assert found.val
    assert not {s.digest for s in found.train} & {s.digest for s in found.val}


def test_stratification_keeps_frequencies() -> None:
    """Rare labels, too, where a random split is far off; each label has a photo that trains."""
    random = np.random.default_rng(0)
    often = np.array([0.5, 0.2, 0.1, 0.03, 0.01])
    rows = random.random((1000, 5)) < often
    groups = [Group(1, {str(n): 1 for n in np.flatnonzero(row)}) for row in rows]
    chosen = validating(groups, 0.2)
    assert abs(len(chosen) - 200) <= 3
    val = rows[sorted(chosen)].sum(axis=0)
    np.testing.assert_allclose(val, 0.2 * rows.sum(axis=0), atol=1)
    pairs = [Group(1, {"a": 1, str(n // 2): 1}) for n in range(10)]
    chosen = validating(pairs, 0.2)
    for label in "01234":
        assert sum(place in chosen for place in range(10) if label in pairs[place].labels) == 1
    alone = validating([Group(1, {"a": 1, "b": 1}), Group(1, {"b": 1}), Group(3, {"c": 3})], 0.5)
    assert not alone & {0, 2}
    assert validating([Group(1, {})] * 10, 0.2) == validating([Group(1, {})] * 10, 0.2)
    assert len(validating([Group(1, {})] * 10, 0.2)) == 2


def test_folders_with_their_own_split(place: Path) -> None:
    """A validation photo that trains, too, is left out; what validation says of it is not used."""
    data = place / "data"
    for folder, numbers in {"train/sun": (0, 1, 2), "train/sea": (2, 3, 4), "val/sun": (5, 6),
                            "val/sea": (0, 2, 6)}.items():  # fmt: skip
        (data / folder).mkdir(parents=True)
        for number in numbers:
            shutil.copy(place / f"{number}.png", data / folder / f"{number}.png")
    found = load_dataset(str(data), val_split=0.1, seed=0, reading=Reading(multi_label=True))
    ids = found.class_ids
    of = {one.name: {ids[n] for n in one.labels} for one in (*found.train, *found.val)}
    assert of == {
        "train/sun/0.png": {"sun"}, "train/sun/1.png": {"sun"}, "train/sea/2.png": {"sun", "sea"},
        "train/sea/3.png": {"sea"}, "train/sea/4.png": {"sea"},
        "val/sun/5.png": {"sun"}, "val/sea/6.png": {"sun", "sea"},
    }  # fmt: skip
    assert [(one.name, one.label) for one in found.left_out] == [
        ("val/sea/0.png", "sea"), ("val/sea/2.png", "sea"),
    ]  # fmt: skip
    assert "2 of these have other labels than in training, and those count: " in " ".join(
        found.notes
    )


def test_the_same_labels_in_another_order_are_no_conflict(place: Path) -> None:
    shutil.copy(place / "0.png", place / "4.png")
    found = load(place, column(["sun|sea", "sun", "sea", "dog", "sea|sun", "dog"]))
    assert not any("with different labels" in note for note in found.notes)
    found = load(place, column(["sun|sea", "sun", "sea", "dog", "sun", "dog"]))
    assert any("different labels (kept, on one side): 0.png, 4.png" in n for n in found.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (column(["sun|sea", "sun;dog", "sun", "dog"]), "'sun;dog' is several labels.*Write | ever"),
        (column(["['sun', 'sea']", "['sun']"]), r"has lists, such as .*df\['labels'\]"),
        ("path,sun,sea\n0.png,1,\n1.png,0,1\n2.png,1,1", "line 2: the column sea has ''.*fillna"),
        ("path,sun,sea\n0.png,1,0\n1.png,-1,1\n2.png,1,1", "line 3: the column sun has '-1'"),
        ("path,sun,sun\n0.png,1,0\n1.png,1,1", "several columns are called sun"),
        ("path,sun|x,sea\n0.png,1,1\n1.png,1,0", r"the label 'sun\|x' has \| in it"),
        (column(["", ""]), "one class only"),
        (column(["sun", "", "sun"]), "one class only"),
        ("path,labels,split\n0.png,sun|sea,train\n1.png,sea,train\n2.png,,val\n3.png,sun,train",
         "none of its 1 validation photo.* has a label"),
    ],
)  # fmt: skip
def test_what_is_refused(place: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(place, text, multi_label=True)


def test_what_is_noted(place: Path) -> None:
    spaces = load(place, column(["sun sea", "sun", "sea", "sun sea"]), multi_label=True)
    assert any("spaces are a part of labels" in note for note in spaces.notes)
    both = "path,label,sun,sea\n0.png,x,1,1\n1.png,y,0,1\n2.png,x,1,0\n3.png,y,0,0"
    found = load(place, both, multi_label=True)
    assert found.class_ids == ("x", "y")
    assert any("of the column label, not those of sun, sea" in note for note in found.notes)
    missing = load(place, column(["sun|sea", "nan", "sun", "sea"]))
    assert any("empty these cells" in note for note in missing.notes)
    said = load(place, "path,sun,sea\n0.png,yes,no\n1.png,yes,yes\n2.png,no,yes\n3.png,no,no")
    assert label_sets(said) == [{"sun"}, {"sun", "sea"}, {"sea"}, set()]


def test_test_rows_without_any_label_are_not_used(place: Path) -> None:
    """As competitions have them; where some have one, the others show no class."""
    text = "path,labels,split\n0.png,sun|sea,train\n1.png,sea,train\n2.png,sun,val\n3.png,,test\n"
    assert any("1 photo of the test split without a label; not used" in note
               for note in load(place, text, multi_label=True).notes)  # fmt: skip
    found = load(place, text + "4.png,sun,test\n", multi_label=True)
    assert any("2 photos of the test split held out" in note for note in found.notes)
