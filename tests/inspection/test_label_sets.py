"""Labels of photos with several: probabilities out of sample, which are missing, which wrong."""

import numpy as np
import pytest
from numpy.typing import NDArray

from resnest_cli.data.label_sets import joined_labels
from resnest_cli.data.labelled_photos import LabelledPhoto
from resnest_cli.inspection.classes import class_issues
from resnest_cli.inspection.label_sets import (
    label_issues,
    label_scores,
    likelihood_ratios,
    out_of_sample,
)
from resnest_cli.inspection.outliers import distances
from tests.inspection.test_labels import StopError

NAMES = ["a", "b", "c"]


def mixed(photos: int = 240, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Features that are the sum of a centre for each class that a photo has; b is rare."""
    random = np.random.default_rng(seed)
    truth = random.random((photos, 3)) < [0.5, 0.25, 0.3]
    centres = random.random((3, 16)) * 4
    return (truth @ centres + random.normal(3, 0.4, (photos, 16))).astype(np.float32), truth


def places(truth: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(column) for column in truth.T]


def named(truth: NDArray[np.bool_]) -> list[LabelledPhoto]:
    texts = [joined_labels(NAMES[n] for n in np.flatnonzero(row)) for row in truth]
    return [LabelledPhoto(f"/d/{n}.jpg", f"{n}.jpg", text, None) for n, text in enumerate(texts)]


def test_planted_errors_are_found() -> None:
    features, truth = mixed()
    given, groups = truth.copy(), np.arange(len(truth))
    taken, added = [np.flatnonzero(truth[:, 0])[:6], np.flatnonzero(~truth[:, 1])[:4]]
    given[taken, 0], given[added, 1] = False, True
    probabilities = out_of_sample(features, places(given), groups=groups)
    assert probabilities.shape == given.shape
    assert ((probabilities > 0.5) == truth).mean() > 0.98
    issues = list(label_issues(probabilities, features, places(given), NAMES, named(given), groups))
    missing = {one.path: one for one in issues if one.kind == "missing"}
    wrong = {one.path: one for one in issues if one.kind == "label"}
    assert len(missing) + len(wrong) == len(issues)
    assert set(missing) <= {f"{n}.jpg" for n in taken}
    assert set(wrong) <= {f"{n}.jpg" for n in added}
    assert len(missing) >= 5
    assert len(wrong) >= 2
    for one in missing.values():  # the partner has the label
        assert one.suggestion == "a"
        assert "a" in named(given)[int(one.partner.removesuffix(".jpg"))].label
        assert 0.5 < one.score <= 1
    for one in wrong.values():
        assert (one.suggestion, one.partner) == ("not b", "")
        assert "b" in one.label
    clean = out_of_sample(features, places(truth), groups=groups)
    assert len(list(label_issues(clean, features, places(truth), NAMES, named(truth), groups))) <= 1


def test_scores_are_bayes_rule() -> None:
    has = np.array([True, False, False, False])
    scores = label_scores(np.array([0.1, 0.9, 0.5, 0.0], np.float32), has)
    # Prior odds 1/3, a tenth wrong: odds 1/9. Ratios: (1/9) / (1/3) = 1/3, so 3 / 9; 9 / 9; 1 / 9.
    assert scores == pytest.approx([0.25, 0.5, 0.1, 0], abs=1e-6)
    ratios = likelihood_ratios(np.array([[0.25], [0.5]] * 2, np.float32), [np.array([0])])
    assert ratios[:, 0].tolist() == pytest.approx([1, 3, 1, 3])


def test_a_copy_does_not_give_a_photo_away() -> None:
    features, truth = mixed()
    truth[:12] = [True, False, False]
    features[:12] = features[:12].mean(0) + 2
    groups = np.arange(len(truth))
    seen = out_of_sample(features, places(truth), groups=groups)[:12, 0].mean()
    groups[:12] = 0
    assert out_of_sample(features, places(truth), groups=groups)[:12, 0].mean() < seen


def test_what_is_too_little_to_judge() -> None:
    features, truth = mixed(60)
    truth[:, 0], truth[:, 1], truth[:, 2] = True, False, False  # all, none, and four
    truth[:4, 2] = True
    groups = np.arange(60)
    found = out_of_sample(features, places(truth), groups=groups)
    assert found[:, :2].tolist() == [[1, 0]] * 60
    assert not list(label_issues(found, features, places(truth), NAMES, named(truth), groups))
    none = out_of_sample(features[:0], [np.zeros(0, np.int64)] * 3, groups=groups[:0])
    assert none.shape == (0, 3)


def test_ctrl_c_is_heard_while_classifiers_learn() -> None:
    features, truth = mixed()

    def check() -> None:
        raise StopError

    with pytest.raises(StopError):
        out_of_sample(features, places(truth), groups=np.arange(len(truth)), check=check)


def test_a_photo_of_two_classes_may_be_usual_in_one() -> None:
    features, truth = mixed()
    truth[:] = False
    truth[:120, 0], truth[119:, 1] = True, True  # one has both
    features[:120, :8] += 9
    features[120:, 8:] += 9
    groups = np.arange(len(truth))
    both = distances(features, places(truth), groups)
    one = distances(features, places(truth)[1:], groups)
    assert one.deviations[119] > 3 > both.deviations[119]
    assert np.isnan(one.distance[:119]).all()  # of no class


def test_photos_of_both_classes_do_not_make_them_alike() -> None:
    truth = np.zeros((90, 3), bool)
    truth[:60, 0], truth[30:90, 1], truth[30:90, 2] = True, True, True
    ratios = np.where(truth, 1, 0.1).astype(np.float32)
    ratios[30:60, 1] = 2  # of both, rather b
    found = class_issues(ratios, places(truth), NAMES, np.arange(90))
    assert [(one.path, one.partner, one.detail) for one in found] == [("b", "c", "always together")]
