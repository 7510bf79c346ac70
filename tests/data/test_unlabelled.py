"""Photos without labels: which train, which validate, and which are left out."""

import shutil
from pathlib import Path

import pytest

from resnest_cli.data.dataset import UNLABELLED, DataSet, load_dataset, read_split, write_split
from resnest_cli.data.unlabelled import only_unlabelled, with_unlabelled
from resnest_cli.errors import UsageError
from resnest_cli.training.lost_photos import DataLostError, Lost, LostPhotos, found_again
from tests.conftest import make_photo


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    """Twenty photos, two of them alike, among folders; and a text."""
    for index in range(20):
        path = tmp_path / "loose" / str(index % 3) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_photo(path, (20, 20), seed=max(1, index))
    (tmp_path / "loose" / "notes.txt").write_text("none")
    return tmp_path / "loose"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for place, label in enumerate("ab"):
        for index in range(4):
            path = tmp_path / "data" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_photo(path, (20, 20), seed=100 + 10 * place + index)
    return tmp_path / "data"


def labelled(data: Path) -> DataSet:
    return load_dataset(str(data), val_split=0.25, seed=0)


def test_they_train_beside_the_labelled_ones(data: Path, loose: Path) -> None:
    found = with_unlabelled(labelled(data), str(loose))
    assert len(found.unlabelled) == 20
    assert {one.label for one in found.unlabelled} == {UNLABELLED}
    assert found.learned == (*found.train, *found.unlabelled)
    assert (found.train_photos, found.train_counts) == (6 + 20, (3, 3))
    assert found.trained_on is not None
    assert found.trained_on.photos == 6 + 19  # two are alike


def test_what_has_a_label_or_validates_is_left_out(data: Path, loose: Path) -> None:
    for side in ("train", "val"):
        sample = getattr(labelled(data), side)[0]
        shutil.copy(sample.path, loose / f"{side}.png")
    found = with_unlabelled(labelled(data), str(loose))
    assert len(found.unlabelled) == 20
    assert any("2 photos left out" in note for note in found.notes)
    assert with_unlabelled(labelled(data), str(data.parent)).unlabelled


def test_alone_a_share_validates_and_twins_stay_together(loose: Path) -> None:
    for seed in range(5):
        found = only_unlabelled(str(loose), val_split=0.3, seed=seed)
        train, val = ({one.digest for one in side} for side in (found.unlabelled, found.val))
        assert not train & val
        assert len(val) == 6
        assert len(found.unlabelled) + found.val_photos == 20
        again = only_unlabelled(str(loose), val_split=0.3, seed=seed)
        assert again == found
    others = {only_unlabelled(str(loose), val_split=0.3, seed=seed).val for seed in range(5)}
    assert len(others) > 1


def test_split_csv_brings_them_back(data: Path, loose: Path, tmp_path: Path) -> None:
    found = with_unlabelled(labelled(data), str(loose))
    write_split(tmp_path / "split.csv", found)
    again = read_split(tmp_path / "split.csv", str(data), None, str(loose))
    assert again.learned == found.learned
    assert again.val == found.val


def test_folders_that_will_not_do(tmp_path: Path, data: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    make_photo(tmp_path / "one" / "a.png", (20, 20))
    for folder, words in (("nowhere", "no such folder"), ("empty", "no photo in it")):
        with pytest.raises(UsageError, match=words):
            with_unlabelled(labelled(data), str(tmp_path / folder))
    with pytest.raises(UsageError, match="among the labelled ones"):
        with_unlabelled(labelled(data), str(data / "a"))
    with pytest.raises(UsageError, match="one photo is too few"):
        only_unlabelled(str(tmp_path / "one"), val_split=0.2, seed=0)


def test_lost_ones_count_as_training_photos(data: Path, loose: Path) -> None:
    """Names are relative to another folder: the same name may be lost twice."""
    found = with_unlabelled(labelled(data), str(loose))
    lost = LostPhotos([], found.train_counts, found.val_photos, len(found.unlabelled))
    assert lost.add("train", [Lost(0, 0, "x.png", "gone"), Lost(9, -1, "x.png", "gone")], 1)
    assert len(lost.photos) == 2
    assert not lost.emptied(lost.photos)
    lost.check()
    lost.add("train", [Lost(n, -1, f"{n}.png", "gone") for n in range(12)], 1)
    with pytest.raises(DataLostError, match="14 of 26 training photos"):
        lost.check()
    assert found_again(lost.photos, found) == 14  # of names that the data do not have
