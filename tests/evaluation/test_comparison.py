"""The paired test against SciPy's binomial one, and which photos changed."""

import numpy as np
import pytest
import scipy.stats

from resnest_cli.evaluation.comparison import compare, mcnemar


@pytest.mark.parametrize(
    ("one", "other"), [(0, 0), (1, 0), (3, 9), (9, 3), (50, 50), (700, 600), (5000, 5200)]
)
def test_mcnemar(one: int, other: int) -> None:
    expected = scipy.stats.binomtest(one, one + other).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(expected, rel=1e-6)


def test_what_changed() -> None:
    first = np.array([True, True, False, False, True])
    second = np.array([True, False, True, True, True])
    found = compare(first, second)
    assert (found.mended, found.broken) == ((2, 3), (1,))
    assert found.p_value == 1.0
