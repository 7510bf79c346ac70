"""Sets of photos by their content: nothing is lost, little is added, damage is told."""

import hashlib
from typing import Any

import pytest

from resnest_cli.errors import CheckpointError
from resnest_cli.model import training_photos
from resnest_cli.model.training_photos import TrainingPhotos, joined


def digests(count: int, first: int = 0) -> list[bytes]:
    return [hashlib.sha256(b"%d" % number).digest() for number in range(first, first + count)]


def of(count: int, first: int = 0) -> TrainingPhotos:
    found = TrainingPhotos.of(digests(count, first))
    assert found is not None
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 31, 32, 33, 500, 4096])
def test_members_are_known_and_others_are_not(count: int) -> None:
    found = of(count)
    assert found.photos == count
    known = TrainingPhotos.from_record(found.record).membership("x")
    assert all(map(known, digests(count)))
    assert all(known(digest[:8]) for digest in digests(count))  # beginnings serve
    assert not any(map(known, digests(2000, first=count)))


def test_equal_sets_give_equal_text_whatever_the_order_and_copies() -> None:
    many = digests(100)
    assert TrainingPhotos.of(reversed(many + many[:7])) == of(100)
    assert len(of(1000).hashes) < 5 * 1000


def test_extreme_hashes() -> None:
    ends = [b"\0" * 32, b"\xff" * 32, b"\0" * 4 + b"\x10" + b"\0" * 27]
    found = TrainingPhotos.of(ends)
    assert found is not None
    known = found.membership("x")
    assert [known(end) for end in ends] == [True] * 3
    assert not known(b"\x7f" * 32)


def test_unions() -> None:
    assert joined("x", of(30), of(50, first=20)) == of(70)
    assert joined("x", of(3), None) is None
    assert joined("x", None, of(3)) is None
    assert joined("x", of(3), of(3)) == of(3)
    assert joined("x", of(3), of(4)) == of(4)


def test_of_none_and_of_too_many_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainingPhotos.of([]) is None
    monkeypatch.setattr(training_photos, "MOST_PHOTOS", 5)
    assert TrainingPhotos.of(digests(6)) is None
    assert joined("x", of(3), of(3, first=3)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"photos": 11}, {"photos": 0}, {"photos": -1}, {"photos": 10**12}, {"photos": True},
        {"photos": 10.0}, {"photos": "10"}, {"hashes": None}, {"hashes": ""}, {"hashes": ["a"]},
    ],
)  # fmt: skip
def test_a_record_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="photos"):
        TrainingPhotos.from_record(of(10).record | changes)


@pytest.mark.parametrize("spoilt", ["A" * 60, "/" * 60, "!" * 60, "é" * 60])
def test_damaged_hashes_are_told_when_they_are_used(spoilt: str) -> None:
    found = of(10)
    assert len(found.hashes) == 60
    damaged = TrainingPhotos.from_record({"photos": 10, "hashes": spoilt})
    for use in (damaged.membership, lambda where: joined(where, found, damaged)):
        with pytest.raises(CheckpointError, match=r"^m\.safetensors: its list of training photos"):
            use("m.safetensors")
