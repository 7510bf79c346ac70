"""Photos unlike their class, and what is wrong with whole classes."""

import numpy as np
import pytest

from resnest_cli.inspection import neighbours
from resnest_cli.inspection import outliers as module
from resnest_cli.inspection.classes import class_issues, taken_for
from resnest_cli.inspection.outliers import distances, outlier_issues
from tests.inspection.making import members
from tests.inspection.test_labels import apart, clusters, photos


def test_a_photo_unlike_all_others_is_found() -> None:
    features, labels = clusters([40, 40, 40])
    features[7] = features[7, ::-1] * np.linspace(3, 0, features.shape[1])
    issues = outlier_issues(features, members(labels), photos(labels), groups=apart(labels))
    assert issues[0].path == "7.jpg"
    assert 0 < issues[0].score < 1
    assert issues[0].partner != "7.jpg"
    assert "from its class, usual" in issues[0].detail
    assert all(one.path != "7.jpg" for one in outlier_issues(
        features, members(labels), photos(labels), groups=apart(labels), apart_from={"7.jpg"}
    ))  # fmt: skip


def test_a_copy_is_no_company() -> None:
    """Twenty copies of one odd photo are as odd as one."""
    features, labels = clusters([40, 40])
    odd = features[7, ::-1] * np.linspace(3, 0, features.shape[1])
    features[:20] = odd
    groups = apart(labels)
    company = distances(features, members(labels), groups).deviations
    assert (company[:20] < 3).all()
    groups[:20] = 0
    alone = distances(features, members(labels), groups).deviations
    assert (alone[:20] > 3).all()


def test_distances_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters([30, 12, 5])
    monkeypatch.setattr(neighbours, "_ROWS", 7)
    found = distances(features, members(labels), apart(labels))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for place in (0, 13, 29, 35):
        others = np.flatnonzero((labels == labels[place]) & (np.arange(47) != place))
        near = np.sort(1 - unit[others] @ unit[place])[: module.NEAREST]
        assert found.distance[place] == pytest.approx(near.mean(), abs=1e-5)
    assert np.isnan(found.distance[42:]).all()  # too few to say
    assert (found.deviations[42:] == 0).all()


def test_of_a_large_class_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters([60])
    whole = distances(features, members(labels), apart(labels)).distance.tolist()
    monkeypatch.setattr(module, "_MOST_COMPARED", 25)
    some = [distances(features, members(labels), apart(labels)).distance.tolist() for _ in range(2)]
    assert some[0] == some[1] != whole


@pytest.mark.parametrize("count", [0, 1, 9, 12])
def test_few_photos_and_equal_ones(count: int) -> None:
    labels = np.zeros(count, np.int64)
    features = np.ones((count, 8), np.float32)
    assert outlier_issues(features, members(labels), photos(labels), groups=apart(labels)) == []


def test_classes() -> None:
    labels = np.repeat(np.arange(5), [30, 30, 4, 30, 400])
    names = [f"c{n}" for n in range(5)]
    probabilities = np.full((len(labels), 5), 0.02, np.float32)
    probabilities[np.arange(len(labels)), labels] = 0.9
    probabilities[:15, :2] = [0.4, 0.5]  # half of the first class looks like the second
    probabilities[30:42, :2] = [0.5, 0.4]  # two fifths the other way
    found = {(one.path, one.partner): one for one in class_issues(
        probabilities, members(labels), names, apart(labels)
    )}  # fmt: skip
    assert set(found) == {("c2", ""), ("c4", ""), ("c0", "c1")}
    assert found["c2", ""].detail == "4 readable photos only"
    assert found["c2", ""].score == pytest.approx(0.8)
    assert found["c4", ""].detail == "400 photos, 13 times more than usual"
    pair = found["c0", "c1"]
    assert pair.detail == "hard to tell apart: 50% of c0 look more like c1, 40% the other way"
    assert pair.score == pytest.approx(0.9)
    taken = taken_for(probabilities, members(labels), np.array([0, 1]))
    assert taken.tolist() == [[0, 0.5], [pytest.approx(0.4), 0]]


def test_classes_of_nothing() -> None:
    assert class_issues(np.zeros((0, 0), np.float32), [], [], np.zeros(0, np.int64)) == []
