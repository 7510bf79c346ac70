"""Folds: stratified, whole groups, and a photo of every label in what trains."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from resnest_cli.data.dataset import DataSet, load_dataset, read_split, write_split
from resnest_cli.data.labelled_photos import Reading
from resnest_cli.data.split_file import list_run_split
from resnest_cli.data.stratification import ALWAYS, Group, folds_of
from resnest_cli.errors import UsageError
from tests.conftest import make_photo


def singles(**counts: int) -> list[Group]:
    return [Group(1, {label: 1}) for label, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_every_fold_has_its_share_of_every_class_and_of_all(count: int) -> None:
    groups = singles(a=101, b=53, c=17, d=2)
    dealt = folds_of(groups, count)
    assert set(dealt) == set(range(1, count + 1))
    for label in "abcd":
        of_label = [fold for fold, one in zip(dealt, groups, strict=True) if label in one.labels]
        sizes = Counter(of_label)
        assert max(sizes.values()) - min(sizes[k] for k in range(1, count + 1)) <= 1, label
    sizes = Counter(dealt)
    assert max(sizes.values()) - min(sizes.values()) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_the_other_folds_have_every_label_whatever_the_groups(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = []
    for _ in range(int(random.integers(4, 30))):
        photos = int(random.integers(1, 9))
        labels = random.choice(7, size=int(random.integers(0, 4)), replace=False)
        groups.append(Group(photos, {str(n): int(random.integers(1, photos + 1)) for n in labels}))
    dealt = folds_of(groups, 3)
    for label in {label for group in groups for label in group.labels}:
        folds = {fold for fold, one in zip(dealt, groups, strict=True) if label in one.labels}
        assert ALWAYS in folds or len(folds) > 1, label


def test_a_group_that_alone_has_a_label_is_in_no_fold_and_large_groups_are_spread() -> None:
    groups = [Group(1, {"rare": 1}), *(Group(n, {"a": n}) for n in (9, 1, 1, 1, 8, 7, 1, 1, 1))]
    dealt = folds_of(groups, 3)
    assert dealt[0] == ALWAYS
    photos = Counter[int]()
    for fold, group in zip(dealt[1:], groups[1:], strict=True):
        photos[fold] += group.photos
    assert sorted(photos.values()) == [10, 10, 10]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of twelve and nine photos, of which two are copies; a table with patients."""
    rows = ["path,label,patient"]
    for label, count in (("a", 12), ("b", 9)):
        (tmp_path / label).mkdir()
        for index in range(count):
            seed = 100 if (label, index) in {("a", 0), ("a", 7)} else len(rows)
            make_photo(tmp_path / label / f"{index}.png", (20, 20), seed=seed)
            rows.append(f"{label}/{index}.png,{label},{'' if index > 8 else index % 5}")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    return tmp_path


def folds(found: DataSet) -> dict[str, int]:
    return {one.name: fold for one, fold in zip(found.train, found.folds, strict=True)}


def load(data: Path, count: int, name: str = "", **settings: object) -> DataSet:
    how: dict = {"val_split": 0.2, "seed": 0} | settings
    return load_dataset(str(data / name), folds=count, **how)


def test_copies_lie_in_one_fold_and_the_seed_decides(data: Path) -> None:
    (data / "photos.csv").unlink()
    found = folds(load(data, 3))
    assert found["a/0.png"] == found["a/7.png"]
    assert sorted(Counter(found.values()).values()) == [7, 7, 7]
    assert found == folds(load(data, 3)) != folds(load(data, 3, seed=1))


def test_groups_stay_together_also_without_folds(data: Path) -> None:
    how = Reading(group_column="patient")
    found = load(data, 3, "photos.csv", reading=how)
    assert any("no patient" in note for note in found.notes)
    of_group: dict[str, set[int]] = {}
    for name, fold in folds(found).items():
        if (index := int(Path(name).stem)) <= 8:
            of_group.setdefault(str(index % 5), set()).add(fold)
    assert all(len(where) == 1 for where in of_group.values())
    split = load_dataset(str(data / "photos.csv"), val_split=0.3, seed=0, reading=how)
    sides = [{int(Path(one.name).stem) for one in side} for side in (split.train, split.val)]
    train, val = ({index % 5 for index in side if index <= 8} for side in sides)
    assert val
    assert not train & val


def test_split_csv_remembers_the_folds_and_serves_as_data(data: Path) -> None:
    found = load(data, 4, "photos.csv")
    write_split(data / "split.csv", found)
    again = read_split(data / "split.csv", str(data / "photos.csv"))
    assert folds(again) == folds(found)
    assert again.class_ids == found.class_ids
    assert len(list_run_split(data / "split.csv").photos) == len(found.train)
    part = found.held_out(2)
    assert {one.name for one in part.val} == {n for n, fold in folds(found).items() if fold == 2}
    assert not part.folds
    assert len(part.train) + len(part.val) == len(found.train)


def test_a_split_of_the_data_is_not_used_but_its_test_side_stays_out(data: Path) -> None:
    table = (data / "photos.csv").read_text().splitlines()
    sides = ["split", *(("train", "val", "test")[n % 3] for n in range(len(table) - 1))]
    rows = (f"{row},{side}" for row, side in zip(table, sides, strict=True))
    (data / "sides.csv").write_text("\n".join(rows))
    found = load(data, 2, "sides.csv")
    assert len(found.train) == 14
    assert not found.val
    assert not found.own_split
    assert any("own split is not used" in note for note in found.notes)


def test_too_many_folds_are_an_error_that_says_how_many_serve(data: Path) -> None:
    how = Reading(group_column="label2")
    rows = (data / "photos.csv").read_text().splitlines()
    table = [f"{row},{'label2' if n == 0 else 'xyz'[n % 3]}" for n, row in enumerate(rows)]
    (data / "few.csv").write_text("\n".join(table))
    with pytest.raises(UsageError, match=r"held out for 2 of \d+ folds only.*Use --folds 2"):
        load(data, 5, "few.csv", reading=how)
    (data / "one.csv").write_text("path,label\na/1.png,a\nb/1.png,b\n")
    with pytest.raises(UsageError, match="two photos or more"):
        load(data, 2, "one.csv")
