"""Several labels for a photo: what is said of answers that are known, and of two models."""

import numpy as np
import pytest
from sklearn import metrics

from resnest_cli.evaluation.calibration import fit_temperature
from resnest_cli.evaluation.evaluate import Answered, Gathered
from resnest_cli.evaluation.figures import compared, evaluated, summary, training_note
from resnest_cli.evaluation.label_figures import LabelFigures
from resnest_cli.evaluation.label_scores import binary_loss
from resnest_cli.inference.ranking import Record, rank, sigmoid

NAMES = ("cat", "dog", "sun")
LIMITS = (0.5, 0.4, 0.6)
TEMPERATURE = 1.5


def gathered(
    truth: np.ndarray, logits: np.ndarray, name: str = "one", trained: int = 0
) -> Gathered:
    """What a model answered; of the first `trained` photos it is known that it learned from them,
    and one more photo could not be read.
    """
    found = rank(logits, NAMES, 2, TEMPERATURE, LIMITS)
    items = [Answered(Record("bad.jpg", name, "is no photo", several=True), (0,))]
    for place, (row, answer) in enumerate(zip(truth, found, strict=True)):
        classes = tuple(np.flatnonzero(row).tolist())
        record = Record(f"{place}.jpg", name, predictions=answer, several=True)
        loss = binary_loss(logits[place], classes, TEMPERATURE)
        items.append(Answered(record, classes, 0, loss, logits[place], place < trained))
    return Gathered(tuple(items), name, name, None, trained, NAMES, None, TEMPERATURE, (),
                    thresholds=LIMITS)  # fmt: skip


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    truth = random.random((80, 3)) < [0.2, 0.5, 0.4]
    truth[7] = False
    return truth, random.normal(2.0 * truth - 1, 1.5).astype(np.float32)


def test_figures_are_scikit_learns(answers: tuple[np.ndarray, np.ndarray]) -> None:
    truth, logits = answers
    found = summary(evaluated(gathered(truth, logits)))
    probabilities = sigmoid(logits, TEMPERATURE)
    given = probabilities >= np.array(LIMITS)
    expected = {
        "map": metrics.average_precision_score(truth, probabilities),
        "micro_f1": metrics.f1_score(truth, given, average="micro"),
        "macro_f1": metrics.f1_score(truth, given, average="macro"),
        "micro_precision": metrics.precision_score(truth, given, average="micro"),
        "micro_recall": metrics.recall_score(truth, given, average="micro"),
        "exact_match": metrics.accuracy_score(truth, given),
        "loss": np.mean([metrics.log_loss(t, p) for t, p in
                         zip(truth.T, probabilities.T, strict=True)]),
    }  # fmt: skip
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-9), key
        if key != "loss":
            low, high = found[f"{key}_interval"]
            assert 0 <= low < found[key] < high <= 1
    assert (found["photos"], found["unreadable"]) == (80, 1)
    for k, one in enumerate(found["classes"]):
        how = truth[:, k], given[:, k]
        assert one["average_precision"] == pytest.approx(
            metrics.average_precision_score(truth[:, k], probabilities[:, k]), abs=1e-9
        )
        assert one["precision"] == pytest.approx(metrics.precision_score(*how), abs=1e-9)
        assert one["recall"] == pytest.approx(metrics.recall_score(*how), abs=1e-9)
        assert one["f1"] == pytest.approx(metrics.f1_score(*how), abs=1e-9)
        assert one["threshold"] == LIMITS[k]
        assert one["average_precision_interval"].low < one["average_precision"]
    assert summary(evaluated(gathered(truth, logits))) == found  # the draws are the same


def test_pairs_and_worst_photos() -> None:
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
    high = np.array([[0, 1, 0], [1, 1, 1], [0, 0, 1], [0, 1, 0], [1, 1, 0]])
    logits = np.where(high, 4.0, -4.0).astype(np.float32)
    logits[3], logits[4] = [-4, 9, -4], [4, 3, -4]
    judged = evaluated(gathered(truth, logits))
    assert judged.confusion.tolist() == [[2, 2, 1], [0, 1, 1], [0, 0, 1]]
    found = summary(judged)
    assert found["confusions"] == [
        {"truth": "cat", "predicted": "dog", "photos": 2},
        {"truth": "cat", "predicted": "sun", "photos": 1},
        {"truth": "dog", "predicted": "sun", "photos": 1},
    ]
    assert [one["input"] for one in found["worst"]] == ["3.jpg", "0.jpg", "1.jpg", "4.jpg"]
    assert (found["worst"][0]["truth"], found["worst"][0]["predicted"]) == ([], ["dog"])
    assert found["exact_match"] == 0.2


def test_photos_trained_on_are_left_out(answers: tuple[np.ndarray, np.ndarray]) -> None:
    truth, logits = answers
    some = summary(evaluated(gathered(truth, logits, trained=30)))
    rest, every = (summary(evaluated(gathered(truth[n:], logits[n:]))) for n in (30, 0))
    for key in ("map", "micro_f1", "exact_match", "loss", "ece", "map_interval"):
        assert some[key] == rest[key]
        assert some["all"][key] == every[key]
    only = summary(evaluated(gathered(truth, logits, trained=80)))
    assert only["map"] is None
    assert only["trained"]["map"] == every["map"]
    assert "trained on all of the 80 readable photos" in training_note(only)


def test_no_photo_with_a_label_is_left(answers: tuple[np.ndarray, np.ndarray]) -> None:
    """Nothing decides an average precision then; nothing fails."""
    truth, logits = answers
    found = summary(evaluated(gathered(np.zeros_like(truth), logits)))
    assert (found["map"], found["map_interval"], found["macro_f1"]) == (None, None, None)
    assert found["exact_match"] < 1


def test_two_models(answers: tuple[np.ndarray, np.ndarray]) -> None:
    truth, logits = answers
    better = logits + truth.astype(np.float32)
    found = compared(gathered(truth, logits), gathered(truth, better, "two"))
    scores = [metrics.average_precision_score(truth, sigmoid(z)) for z in (logits, better)]
    assert [found["this_map"], found["map"]] == pytest.approx(scores, abs=1e-9)
    low, high = found["map_difference_interval"]
    assert 0 < low < found["map"] - found["this_map"] < high
    right = [(sigmoid(z, TEMPERATURE) >= np.array(LIMITS)).tolist() for z in (logits, better)]
    exact = [np.mean([a == b for a, b in zip(r, truth.tolist(), strict=True)]) for r in right]
    assert [found["this_exact_match"], found["exact_match"]] == pytest.approx(exact)
    assert found["mended_count"] - found["broken_count"] == round(80 * (exact[1] - exact[0]))
    one = found["mended"][0]
    assert set(one["other"]) == set(one["truth"]) != set(one["this"])
    same = compared(gathered(truth, logits), gathered(truth, logits, "same"))
    assert (same["p_value"], *same["map_difference_interval"]) == (1, 0, 0)


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_finds_a_hidden_temperature(temperature: float) -> None:
    random = np.random.default_rng(0)
    true = random.normal(-1, 2, (8000, 4)).astype(np.float32)
    truth = random.random(true.shape) < sigmoid(true)
    logits = true * np.float32(temperature)
    found = fit_temperature(logits, truth)
    assert found == pytest.approx(temperature, rel=0.05)
    model = LabelFigures.of(gathered(truth[:200, :3], logits[:200, :3]), gathered(
        truth[:200, :3], logits[:200, :3]).items)  # fmt: skip
    best = fit_temperature(model.logits, model.truth)
    losses = [model.at(best * by)[1] for by in (1, 0.98, 1.02)]
    assert losses[0] == min(losses)
    assert model.at(TEMPERATURE) == pytest.approx((model.calibration.ece, model.scores.loss))
