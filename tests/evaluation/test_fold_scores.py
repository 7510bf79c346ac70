"""Means over folds and their intervals."""

import math

import numpy as np
import pytest

from resnest_cli.evaluation import fold_scores
from resnest_cli.evaluation.fold_scores import FoldScores
from resnest_cli.evaluation.scores import share


def test_the_interval_is_that_of_nadeau_and_bengio() -> None:
    from scipy import stats

    values = [0.91, 0.88, 0.95, 0.90, 0.86]
    scores = FoldScores((200,) * 5, tuple({"top1": v, "loss": 1 - v} for v in values), 800)
    spread = scores.spread("top1")
    half = stats.t.ppf(0.975, 4) * np.std(values, ddof=1) * math.sqrt(1 / 5 + 200 / 800)
    assert spread == pytest.approx((0.9, 0.9 - half, min(1.0, 0.9 + half)), abs=1e-4)
    few = FoldScores((200,) * 5, ({"top1": 0.5, "mean_f1": 0.5},) * 5, 800)
    assert few.spread("mean_f1") == (0.5, 0.5, 0.5)
    assert few.spread("top1") == share(500, 1000)  # equal by chance, and Wilson's all the same
    for freedom, quantile in enumerate(fold_scores._STUDENT, start=1):
        assert quantile == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-4)


def test_shares_end_at_0_and_1_and_losses_do_not() -> None:
    folds = ({"top1": 1.0, "loss": 0.1}, {"top1": 0.5, "loss": 2.0, "top5": 1.0})
    scores = FoldScores((2, 2), folds, 2)
    assert scores.names == ["top1", "loss"]  # what both have
    assert scores.spread("top1")[1:] == (0.0, 1.0)
    assert scores.spread("loss").low == 0.0
    assert scores.spread("loss").high > 2
    rows = scores.rows()
    assert rows[0] == ["fold", "photos", "top1", "loss"]
    assert [row[0] for row in rows[1:]] == [1, 2, "mean", "low", "high"]
    assert scores.shown()[1][:2] == ("top-1", "75.00%")
