"""Class names: bundled, fetched, and the user's."""

import hashlib
from pathlib import Path

import pytest

from resnest_cli.errors import LabelsError
from resnest_cli.model import labels

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def forgetful() -> None:
    labels.imagenet_labels.cache_clear()


def test_the_bundled_list_has_the_published_bytes() -> None:
    data = (ROOT / "imagenet_classes.txt").read_bytes()
    assert len(data) == 10_472
    assert hashlib.sha256(data).hexdigest() == labels.LABELS_SHA256
    assert labels.bundled_labels().read_bytes() == data


def test_the_names_stand_at_their_indices() -> None:
    names = labels.imagenet_labels()
    assert len(names) == 1000
    assert names[0] == "tench"
    assert names[281] == "tabby"
    assert names[999] == "toilet tissue"
    assert (names[134], names[517]) == ("crane", "crane")  # why a name identifies nothing


def test_a_fetched_list_is_used_only_when_it_is_right(homes: Path) -> None:
    fetched = homes / "resnest_home" / "imagenet_classes.txt"
    fetched.parent.mkdir()
    fetched.write_text("wrong\n" * 1000)
    assert labels.imagenet_labels()[0] == "tench"


def test_without_any_list_the_error_names_it(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "bundled_labels", lambda: homes / "gone.txt")
    with pytest.raises(LabelsError, match=r"gone.txt is missing or damaged"):
        labels.imagenet_labels()
    fetched = homes / "resnest_home" / "imagenet_classes.txt"
    fetched.parent.mkdir()
    fetched.write_bytes((ROOT / "imagenet_classes.txt").read_bytes())
    assert labels.imagenet_labels()[0] == "tench"  # the fetched copy serves


@pytest.mark.parametrize("text", ["a\nb\nc", "a\nb\nc\n", "\ufeffa\r\nb \r\nc\r\n", "a\nb\nc\n\n"])
def test_label_files(tmp_path: Path, text: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(text.encode())
    assert labels.read_labels(file, 3) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has 0 lines; the network has 3 classes"),
        (b"a\nb", "has 2 lines"),
        (b"a\nb\nc\nd", "has 4 lines"),
        (b"a\n\nc", "line 2 is empty"),
        (b"a\nb\n\xff", "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_bad_label_files(tmp_path: Path, data: bytes | None, message: str) -> None:
    file = tmp_path / "labels.txt"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(LabelsError, match=message) as caught:
        labels.read_labels(file, 3)
    assert str(file) in str(caught.value)


def test_labels_of_networks_that_carry_none() -> None:
    assert labels.labels_for(1000) == labels.imagenet_labels()
    assert labels.labels_for(2) == ("class 0", "class 1")
