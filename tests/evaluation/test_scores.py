"""Figures against scikit-learn and statsmodels' formulas; ties; classes without photos."""

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F

from resnest_cli.evaluation.scores import (
    Answers,
    Meter,
    answer,
    confusions,
    scores,
    share,
    surest_mistakes,
    worst,
)
from resnest_cli.inference.ranking import rank, softmax

CLASSES, PHOTOS = 8, 500


def logits_and_truth() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    truth = random.integers(0, CLASSES - 1, PHOTOS)  # the last class has no photo
    logits = random.normal(size=(PHOTOS, CLASSES)).astype(np.float32)
    logits[np.arange(PHOTOS), truth] += 1
    logits[:, 3] -= 20  # and one is never predicted
    return logits, truth


def answers(logits: np.ndarray, truth: np.ndarray, temperature: float = 1.0) -> Answers:
    probabilities = softmax(logits, temperature)
    pairs = [answer(row, int(t), temperature) for row, t in zip(logits, truth, strict=True)]
    return Answers(
        truth=truth,
        predicted=logits.argmax(1),
        place=np.array([place for place, _ in pairs]),
        confidence=probabilities.max(1),
        loss=np.array([loss for _, loss in pairs]),
    )


def test_against_scikit_learn() -> None:
    logits, truth = logits_and_truth()
    found = scores(answers(logits, truth), CLASSES)
    predicted = logits.argmax(1)
    assert found.photos == PHOTOS
    assert found.top1.value == sklearn.metrics.accuracy_score(truth, predicted)
    top5 = sklearn.metrics.top_k_accuracy_score(truth, logits, k=5, labels=range(CLASSES))
    assert found.top5 is not None
    assert found.top5.value == pytest.approx(top5)
    loss = F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(truth))
    assert found.loss == pytest.approx(float(loss))
    matrix = sklearn.metrics.confusion_matrix(truth, predicted, labels=range(CLASSES))
    np.testing.assert_array_equal(found.confusion, matrix)
    table = sklearn.metrics.precision_recall_fscore_support(
        truth, predicted, labels=range(CLASSES), zero_division=0
    )
    for index, one in enumerate(found.classes):
        assert one.support == table[3][index]
        assert (one.precision or 0.0) == pytest.approx(table[0][index])
        assert (one.recall or 0.0) == pytest.approx(table[1][index])
        assert (one.f1 or 0.0) == pytest.approx(table[2][index])
    assert found.classes[-1].recall is None
    assert found.classes[3].precision is None
    present = slice(0, CLASSES - 1)
    assert found.mean_recall == pytest.approx(table[1][present].mean())
    assert found.mean_f1 == pytest.approx(table[2][present].mean())


def test_the_place_of_the_truth_is_that_of_predicts_ranking() -> None:
    logits, truth = logits_and_truth()
    logits[:50] = np.round(logits[:50])  # ties
    names = [str(index) for index in range(CLASSES)]
    for row, right in zip(logits, truth, strict=True):
        (ranked,) = rank(row[None], names, CLASSES)
        place, loss = answer(row, int(right), 1.0)
        assert ranked[place].index == right
        assert loss == pytest.approx(-np.log(ranked[place].probability))


def test_a_temperature_changes_loss_and_not_the_order() -> None:
    logits, truth = logits_and_truth()
    one, two = answers(logits, truth), answers(logits, truth, 2.0)
    np.testing.assert_array_equal(one.place, two.place)
    expected = F.cross_entropy(torch.from_numpy(logits).double() / 2, torch.from_numpy(truth))
    assert two.loss.mean() == pytest.approx(float(expected))


def test_huge_logits_do_not_overflow() -> None:
    assert answer(np.array([1e4, -1e4], np.float32), 1, 0.01) == (1, pytest.approx(2e6))


def test_wilsons_interval() -> None:
    found = share(8, 10)  # Wilson's interval as R's binom.confint has it
    assert (found.low, found.high) == (
        pytest.approx(0.4901625, abs=1e-6),
        pytest.approx(0.9433178, abs=1e-6),
    )
    assert share(0, 5).low == 0
    assert share(5, 5).high == 1
    assert 0 < share(0, 5).high < 0.6


def test_top5_needs_more_than_five_classes() -> None:
    for classes, known in ((5, False), (6, True)):
        zeros = np.zeros(1, np.int64)
        one = Answers(zeros, zeros, zeros, np.ones(1), np.zeros(1))
        assert (scores(one, classes).top5 is not None) is known


def test_the_commonest_and_the_surest_mistakes() -> None:
    found = Answers(
        truth=np.array([0, 0, 0, 1, 2]),
        predicted=np.array([1, 1, 2, 1, 0]),
        place=np.array([1, 1, 1, 0, 1]),
        confidence=np.array([0.5, 0.9, 0.6, 0.99, 0.7]),
        loss=np.ones(5),
    )
    assert confusions(scores(found, 3).confusion, 9) == [(0, 1, 2), (0, 2, 1), (2, 0, 1)]
    assert confusions(scores(found, 3).confusion, 1) == [(0, 1, 2)]
    assert worst(found, 2) == [1, 4]
    assert worst(found, 9) == [1, 4, 2, 0]
    lost = np.array([1, -1, 2, 1, 0])
    assert surest_mistakes(found.truth, lost, found.confidence, 9) == [4, 2, 0]


def test_batches_of_logits_come_to_the_same_as_single_answers() -> None:
    logits, truth = logits_and_truth()
    logits[:50] = np.round(logits[:50])  # ties
    meter = Meter(CLASSES)
    for at in range(0, PHOTOS, 64):
        batch = slice(at, at + 64)
        meter.update(torch.from_numpy(logits[batch]), torch.from_numpy(truth[batch]))
    found, expected = meter.result(), scores(answers(logits, truth), CLASSES)
    assert found.scores.loss == pytest.approx(expected.loss, rel=1e-12)
    for name in ("photos", "top1", "top5", "mean_recall", "mean_f1", "classes"):
        assert getattr(found.scores, name) == getattr(expected, name)
    np.testing.assert_array_equal(found.scores.confusion, expected.confusion)
    np.testing.assert_array_equal(found.predicted, answers(logits, truth).predicted)
    probabilities = torch.from_numpy(logits).double().softmax(1).amax(1)
    np.testing.assert_allclose(found.confidence, probabilities, rtol=1e-6)


def test_without_photos_nothing_is_right() -> None:
    found = Meter(3).result().scores
    assert (found.top1.value, found.loss, found.mean_recall) == (0.0, 0.0, 0.0)
    assert found.sort_key == (0.0, 0.0)
