"""A run's `split.csv` as data of any command: where its photos are, and on which side."""

from pathlib import Path

import pytest

from resnest_cli.data.class_folders import list_data
from resnest_cli.data.listing import Reading
from resnest_cli.data.run_split import is_run_split
from resnest_cli.errors import UsageError
from resnest_cli.training.split import read_split, write_split
from tests.training.test_dataset import fill, load


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for place, label in enumerate("ab"):
        fill(tmp_path / "data" / label, 4, 100 * place)
    return tmp_path / "data"


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
    with pytest.raises(UsageError, match=f"--{flag} is for other tables"):
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
