"""Labels that look wrong: folds, the confident joint, ranking, planted errors, Ctrl-C."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from resnest_cli.data.labelled_photos import LabelledPhoto
from resnest_cli.inspection import labels as module
from resnest_cli.inspection.labels import (
    FOLDS,
    can_be_judged,
    folds,
    label_issues,
    label_scores,
    out_of_sample,
    wrong_count,
    wrong_labels,
)
from tests.inspection.making import members

Int64 = NDArray[np.int64]


def clusters(
    counts: list[int], width: int = 16, seed: int = 0
) -> tuple[NDArray[np.float32], Int64]:
    """Features around a centre for each class, well apart; all positive, as pooled ones are."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = random.random((len(counts), width)) * 4
    features = centres[labels] + random.normal(0, 0.5, (len(labels), width)) + 3
    return features.astype(np.float32), labels.astype(np.int64)


def apart(labels: Int64) -> Int64:
    return np.arange(len(labels))


def photos(labels: Int64) -> list[LabelledPhoto]:
    return [LabelledPhoto(f"/d/{n}.jpg", f"{n}.jpg", f"c{k}", None) for n, k in enumerate(labels)]


def test_folds_hold_every_class_alike_and_groups_together() -> None:
    labels = np.repeat(np.arange(4), [50, 10, 23, 5])
    groups = apart(labels)
    groups[60:70] = 60  # ten copies of the third class
    found = folds(labels, groups, 0)
    assert set(found.tolist()) == set(range(FOLDS))
    assert len(set(found[60:70].tolist())) == 1
    for label, count in ((0, 10), (1, 2), (3, 1)):
        assert np.bincount(found[labels == label], minlength=FOLDS).tolist() == [count] * FOLDS
    assert folds(labels, groups, 0).tolist() == found.tolist()
    assert folds(labels, groups, 1).tolist() != found.tolist()


def test_planted_errors_are_found() -> None:
    features, truth = clusters([40, 40, 40, 40])
    labels = truth.copy()
    wrong = [3, 50, 90, 121]
    labels[wrong] = (labels[wrong] + 1) % 4
    found = out_of_sample(features, labels, 4, groups=apart(labels))
    assert found.dtype == np.float32
    assert found.sum(1) == pytest.approx(1, abs=1e-5)
    assert sorted(wrong_labels(found, labels).tolist()) == wrong
    issues = label_issues(
        found, features, labels, [f"c{n}" for n in range(4)], photos(labels), apart(labels)
    )
    assert {one.path: one.suggestion for one in issues} == {
        f"{place}.jpg": f"c{truth[place]}" for place in wrong
    }
    assert [one.score for one in issues] == sorted((one.score for one in issues), reverse=True)
    for one in issues:  # the partner is a photo of the suggested class
        assert f"c{labels[int(one.partner.removesuffix('.jpg'))]}" == one.suggestion
        assert one.detail.endswith(f"% {one.label}")


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    features, labels = clusters([30, 30, 30])
    assert not wrong_labels(out_of_sample(features, labels, 3, groups=apart(labels)), labels).size


def test_a_copy_does_not_give_a_photo_away() -> None:
    """A wrong label with nine copies is right by them, unless they stay in one fold."""
    features, labels = clusters([40, 40])
    features[:10] = features[45]
    groups = apart(labels)
    seen = out_of_sample(features, labels, 2, groups=groups)[:10, 0].mean()
    groups[:10] = 0
    unseen = out_of_sample(features, labels, 2, groups=groups)[:10, 0].mean()
    assert unseen < seen - 0.05
    assert unseen < 0.5


def test_the_count_is_that_of_the_paper() -> None:
    """The confident joint of four photos of each class, by hand."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    of_class_0 = np.array([0.9, 0.9, 0.9, 0.1, 0.2, 0.2, 0.2, 0.2])
    probabilities = np.stack([of_class_0, 1 - of_class_0], 1).astype(np.float32)
    # Thresholds 0.7 and 0.8. Row 0: three are 0, one is 1; row 1: all four are 1.
    assert wrong_count(probabilities, labels) == 1
    assert wrong_labels(probabilities, labels).tolist() == [3]


def test_scores() -> None:
    probabilities = np.array([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.2, 0.4, 0.4]], np.float32)
    scores = label_scores(probabilities, np.zeros(3, np.int64))
    assert scores[0] < 0.2 < 0.5 < module.LEAST < scores[2] < scores[1] <= 1
    expected = np.log(5) / (np.log(5) + 0.2 * np.log(5) + 0.8 * np.log(2.5))
    assert scores[2] == pytest.approx(expected, abs=1e-5)
    hard = np.array([[0, 1.0], [1.0, 0]], np.float32)  # no logarithm of 0
    assert label_scores(hard, np.zeros(2, np.int64)).tolist() == pytest.approx([1, 0], abs=0.05)


def test_what_is_too_little_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters([30, 30, 4])
    labels[60] = 1  # of the third class, which has three left
    names = ["c0", "c1", "c2"]
    assert can_be_judged(members(labels), apart(labels)).tolist() == [True, True, False]
    groups = apart(labels)
    groups[:28] = 0
    assert can_be_judged(members(labels), groups).tolist() == [False, True, False]
    found = out_of_sample(features, labels, 3, groups=apart(labels))
    issues = label_issues(found, features, labels, names, photos(labels), apart(labels))
    assert not any(one.label == "c2" for one in issues)
    # One class, one photo, none.
    for count in (20, 1, 0):
        one = np.zeros(count, np.int64)
        given = features[:count]
        found = out_of_sample(given, one, 1, groups=apart(one))
        assert found.shape == (count, 1)
        assert label_issues(found, given, one, ["c0"], photos(one), apart(one)) == []


def test_a_class_that_a_fold_has_not_learned() -> None:
    features, labels = clusters([30, 1])
    labels = 1 - labels  # the single photo comes first by index
    found = out_of_sample(features, labels, 2, groups=apart(labels))
    assert found.sum(1) == pytest.approx(1, abs=1e-5)
    assert wrong_labels(found[:30], labels[:30]).size == 0


def test_of_many_photos_a_sample_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.repeat(np.arange(3), [5, 100, 60])
    chosen = module.sample(labels, 0, 45)
    assert np.bincount(labels[chosen]).tolist() == [5, 20, 20]
    assert module.sample(labels[:40], 0, 45).tolist() == list(range(40))
    features, labels = clusters([60, 60])
    found = out_of_sample(features, labels, 2, groups=apart(labels))
    assert (found.argmax(1) == labels).all()


def test_odd_features() -> None:
    features, labels = clusters([20, 20])
    features[:, 3] = 7.25  # a dead feature
    features[5] = 0
    found = out_of_sample(features, labels, 2, groups=apart(labels))
    assert np.isfinite(found).all()


class StopError(Exception):
    pass


def test_ctrl_c_is_heard_while_a_classifier_learns() -> None:
    features, labels = clusters([300] * 10, width=64)

    def check() -> None:
        raise StopError

    with pytest.raises(StopError):
        out_of_sample(features, labels, 10, groups=apart(labels), check=check)


def test_other_commands_do_not_import_it(tmp_path: Path) -> None:
    code = (
        "import sys; from resnest_cli.app import main; import resnest_cli.commands.finetune, "
        "resnest_cli.commands.evaluate, resnest_cli.commands.check, resnest_cli.inspection.check; "
        "assert not {'sklearn', 'scipy', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
