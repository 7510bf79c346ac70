"""Comparisons: the paired test against SciPy's binomial one, and which photos changed."""

import pytest
import scipy.stats

from resnest_cli.evaluation.evaluate import Answered, Gathered
from resnest_cli.evaluation.figures import compared, mcnemar
from resnest_cli.inference.ranking import Prediction, Record


@pytest.mark.parametrize(
    ("one", "other"), [(0, 0), (1, 0), (3, 9), (9, 3), (50, 50), (700, 600), (5000, 5200)]
)
def test_mcnemar(one: int, other: int) -> None:
    expected = scipy.stats.binomtest(one, one + other).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(expected, rel=1e-6)


def gathered(name: str, right: str) -> Gathered:
    """Photos of class 1, those with a + named as such."""
    items = []
    for index, mark in enumerate(right):
        answer = Prediction(1, int(mark == "+"), "x", 0.9)
        record = Record(f"{index}.jpg", name, predictions=(answer,))
        items.append(Answered(record, truth=(1,)))
    return Gathered(tuple(items), name, name, None, None, ("cat", "dog"), None, 1.0, ())


def test_what_changed() -> None:
    found = compared(gathered("a", "++--+"), gathered("b", "+-+++"))
    assert [one["input"] for one in found["mended"]] == ["2.jpg", "3.jpg"]
    assert found["broken"] == [{"input": "1.jpg", "truth": "dog", "this": "dog", "other": "cat"}]
    assert (found["mended_count"], found["broken_count"], found["p_value"]) == (2, 1, 1.0)
    assert (found["this_top1"], found["top1"], found["photos"]) == (0.6, 0.8, 5)
