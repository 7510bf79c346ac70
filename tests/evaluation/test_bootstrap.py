"""Draws have the figures that their photos would have; intervals are moved by the bias."""

import numpy as np
import pytest

from resnest_cli.evaluation import bootstrap
from resnest_cli.evaluation.bootstrap import draws, interval
from resnest_cli.evaluation.label_scores import label_scores

PHOTOS, CLASSES = 60, 5
LIMITS = [0.4, 0.5, 0.3, 0.4, 0.6]


def answers(digits: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels that are often and rare, and probabilities with many ties, or none."""
    random = np.random.default_rng(digits)
    truth = random.random((PHOTOS, CLASSES)) < np.linspace(0.03, 0.6, CLASSES)
    truth[:, 3] = False
    return truth, np.round(1 / (1 + np.exp(-random.normal(2 * truth - 1.0, 1.5))), digits)


@pytest.mark.parametrize("digits", [1, 12])
def test_a_draw_has_the_figures_of_its_photos(digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MOST", 25)
    monkeypatch.setattr(bootstrap, "FEWEST", 1)
    monkeypatch.setattr(bootstrap, "_CELLS", 7 * PHOTOS)  # several tables of weights
    truth, found = answers(digits)
    drawn, random = draws(truth, found, LIMITS), np.random.default_rng(0)
    for place in range(25):
        photos = random.integers(PHOTOS, size=PHOTOS)
        own = label_scores(truth[photos], found[photos], 0.0, LIMITS)
        each = [np.nan if one.average_precision is None else one.average_precision
                for one in own.classes]  # fmt: skip
        np.testing.assert_allclose(drawn.average_precision[place], each, atol=1e-12)
        for ours, theirs in (
            (drawn.mean_average_precision, own.mean_average_precision),
            (drawn.micro_f1, own.micro_f1), (drawn.macro_f1, own.macro_f1),
            (drawn.micro_precision, own.micro_precision), (drawn.micro_recall, own.micro_recall),
        ):  # fmt: skip
            assert ours[place] == pytest.approx(theirs, abs=1e-12)


def test_large_sets_have_fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_WORK", 50 * PHOTOS * CLASSES)
    monkeypatch.setattr(bootstrap, "FEWEST", 10)
    assert len(draws(*answers(3), LIMITS).micro_f1) == 50


def test_interval() -> None:
    values = np.linspace(0.5, 0.7, 1001)
    assert interval(0.6, values) == pytest.approx((0.505, 0.695))
    # Draws lie 0.1 above the figure, so that lies as much above the truth.
    assert interval(0.5, values) == pytest.approx((0.305, 0.495))
    assert interval(0.9, values + 0.3) == pytest.approx((0.805, 0.995))
    assert interval(0.99, np.full(9, 0.9)) == (1.0, 1.0)  # no further than 1
    assert interval(-0.1, values - 0.7, least=-1.0) == pytest.approx((-0.195, -0.005))
    assert interval(0.5, np.array([np.nan, 0.5])) == (0.5, 0.5)
    assert interval(0.5, np.full(3, np.nan)) is None
    assert interval(None, values) is None
