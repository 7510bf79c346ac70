"""Figures of several labels equal scikit-learn's; thresholds are the best that there are."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from resnest_cli.evaluation import thresholds
from resnest_cli.evaluation.label_scores import LabelMeter, label_scores
from resnest_cli.inference.ranking import sigmoid

PHOTOS, CLASSES = 60, 7


@pytest.fixture(params=[2, 12])
def answers(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Labels that are often and rare, and probabilities with many ties, or few."""
    random = np.random.default_rng(request.param)
    truth = random.random((PHOTOS, CLASSES)) < np.linspace(0.02, 0.7, CLASSES)
    truth[:, 3] = False  # no photo has it
    found = 1 / (1 + np.exp(-random.normal(2.0 * truth - 1, 1.5)))
    return truth, np.round(found, request.param)


def test_figures_are_scikit_learns(answers: tuple[np.ndarray, np.ndarray]) -> None:
    truth, found = answers
    limits = np.linspace(0.2, 0.8, CLASSES)
    ours, there = label_scores(truth, found, 0.0, limits), truth.any(axis=0)
    given = found >= limits
    close = pytest.approx
    theirs = metrics.average_precision_score(truth[:, there], found[:, there], average=None)
    assert [c.average_precision for c in ours.classes if c.support] == close(theirs, abs=1e-9)
    assert ours.mean_average_precision == close(theirs.mean(), abs=1e-9)
    assert ours.micro_f1 == close(metrics.f1_score(truth, given, average="micro"), abs=1e-9)
    assert ours.micro_precision == close(
        metrics.precision_score(truth, given, average="micro"), abs=1e-9
    )
    assert ours.micro_recall == close(metrics.recall_score(truth, given, average="micro"), abs=1e-9)
    how = {"average": None, "zero_division": 0.0}
    f1 = metrics.f1_score(truth, given, **how)
    assert [c.f1 for c in ours.classes if c.support] == close(f1[there], abs=1e-9)
    assert ours.macro_f1 == close(f1[there].mean(), abs=1e-9)
    assert [c.precision or 0 for c in ours.classes] == close(
        metrics.precision_score(truth, given, **how), abs=1e-9
    )
    assert [c.recall for c in ours.classes if c.support] == close(
        metrics.recall_score(truth, given, **how)[there], abs=1e-9
    )
    none = ours.classes[3]
    assert (none.support, none.average_precision, none.recall, none.f1) == (0, None, None, None)
    default = label_scores(truth, found, 0.0)
    assert default.micro_f1 == close(metrics.f1_score(truth, found >= 0.5, average="micro"))


def test_meter_collects_batches_and_lost_photos() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, CLASSES, generator=generator)
    labels = (torch.rand(9, CLASSES, generator=generator) < 0.4).float()
    meter = LabelMeter(CLASSES)
    meter.update(logits[:4], labels[:4])
    meter.update(logits[4:8], labels[4:8], np.array([True, True, False, True, True]))
    meter.update(torch.empty(0, CLASSES), torch.empty(0), np.array([False]))
    found = meter.result()
    assert found.there.tolist() == [True] * 6 + [False] + [True] * 2 + [False]
    np.testing.assert_array_equal(found.truth[found.there], labels[:8].numpy() > 0)
    np.testing.assert_allclose(found.probabilities[found.there], sigmoid(logits[:8].numpy()), 1e-6)
    loss = metrics.log_loss(labels[:8].numpy().ravel(), sigmoid(logits[:8].numpy()).ravel())
    assert found.scores.loss == pytest.approx(loss, abs=1e-6)
    assert (found.scores.photos, LabelMeter(3).result().scores.photos) == (8, 0)


def test_sigmoid_does_not_overflow() -> None:
    logits = np.array([-1000.0, -1.0, 0.0, 40.0, 1000.0], np.float32)
    np.testing.assert_allclose(sigmoid(logits), [0, 0.2689414214, 0.5, 1, 1], atol=1e-10)


def test_thresholds_give_the_largest_f1(answers: tuple[np.ndarray, np.ndarray]) -> None:
    truth, found = answers
    limits = thresholds.fitted(truth, found)
    assert limits[3] == thresholds.UNKNOWN
    for k in range(CLASSES):
        if not truth[:, k].any():
            continue
        every = [metrics.f1_score(truth[:, k], found[:, k] >= t) for t in np.unique(found[:, k])]
        ours = metrics.f1_score(truth[:, k], found[:, k] >= limits[k])
        assert ours == pytest.approx(max(every), abs=1e-12)


def test_thresholds_of_a_wanted_precision(answers: tuple[np.ndarray, np.ndarray]) -> None:
    truth, found = answers
    found[:, 6] = 1 - truth[:, 6]  # always wrong
    limits = thresholds.fitted(truth, found, 0.75)
    assert limits[6] == thresholds.NEVER
    for k in (1, 2, 4, 5):
        given = {t: found[:, k] >= t for t in (*np.unique(found[:, k]), limits[k])}
        precision = metrics.precision_score
        good = [t for t, g in given.items() if precision(truth[:, k], g, zero_division=0.0) >= 0.75]
        assert limits[k] in good or limits[k] == thresholds.NEVER
        recalls = [metrics.recall_score(truth[:, k], given[t]) for t in good]
        ours = metrics.recall_score(truth[:, k], given[limits[k]])
        assert ours == pytest.approx(max(recalls, default=0), abs=1e-12)
    assert thresholds.fitted(np.array([[True]]), np.array([[0.3]]))[0] == pytest.approx(0.15)
    near = np.array([[0.3], [np.nextafter(0.3, 0)]])
    assert thresholds.fitted(np.array([[True], [False]]), near) == (0.3,)
