"""Calibration error by hand, and the temperature against a search that knows nothing."""

import numpy as np
import pytest
import scipy.optimize

from resnest_cli.evaluation.calibration import BINS, calibration, fit_temperature
from resnest_cli.inference.ranking import softmax


def test_by_hand() -> None:
    confidence = np.array([0.05, 0.06, 0.95, 0.97, 1.0])
    right = np.array([False, True, True, True, False])
    found = calibration(confidence, right)
    assert [one.photos for one in found.bins] == [2, 3]
    assert found.bins[0].low == 0
    assert found.bins[1].high == 1
    assert found.bins[0].confidence == pytest.approx(0.055)
    assert found.bins[1].accuracy == pytest.approx(2 / 3)
    distances = [2 * abs(0.055 - 0.5), 3 * abs((0.95 + 0.97 + 1) / 3 - 2 / 3)]
    assert found.ece == pytest.approx(sum(distances) / 5)


def test_bins_are_closed_above() -> None:
    edges = np.arange(1, BINS + 1) / BINS
    found = calibration(edges, np.ones(BINS, np.bool_))
    assert [one.photos for one in found.bins] == [1] * BINS
    assert calibration(np.zeros(1), np.zeros(1, np.bool_)).ece == 0


def sampled(temperature: float, photos: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that needs this temperature."""
    random = np.random.default_rng(0)
    true = 2 * random.normal(size=(photos, 6)).astype(np.float32)
    probabilities = softmax(true)
    truth = np.array([random.choice(6, p=row) for row in probabilities])
    return true * np.float32(temperature), truth


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_finds_what_was_hidden(temperature: float) -> None:
    logits, truth = sampled(temperature)
    found = fit_temperature(logits, truth)
    assert found == pytest.approx(temperature, rel=0.05)

    def loss(log: float) -> float:
        own = softmax(logits, float(np.exp(log)))[np.arange(len(truth)), truth]
        return float(-np.log(own).mean())

    best = scipy.optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded",
                                          options={"xatol": 1e-9})  # fmt: skip
    assert found == pytest.approx(float(np.exp(best.x)), rel=1e-4)
    before = calibration(softmax(logits).max(1), logits.argmax(1) == truth).ece
    after = calibration(softmax(logits, found).max(1), logits.argmax(1) == truth).ece
    assert after < 0.02
    assert after < before or temperature == 1.0


def test_stays_within_limits() -> None:
    right, wrong = np.array([[5.0, 0.0]], np.float32), np.array([1])
    assert 0.01 <= fit_temperature(right, np.array([0])) < 0.2
    assert fit_temperature(right, wrong) == pytest.approx(100, rel=0.01)
