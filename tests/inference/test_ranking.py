"""Logits to ranked classes."""

import numpy as np
import pytest
import torch

from resnest_cli.inference.ranking import rank, softmax

NAMES = ("a", "b", "c", "d")


def test_softmax_equals_torchs_in_float64() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (5, 1000)).astype(np.float32)
    expected = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    assert np.abs(softmax(logits) - expected).max() < 1e-15
    assert softmax(np.array([[1e30, -1e30]], np.float32)).tolist() == [[1, 0]]


def test_ranks_are_by_probability_then_index() -> None:
    (best,) = rank(np.array([[1, 3, 3, 2]], np.float32), NAMES, topk=3)
    assert [(p.rank, p.index, p.label) for p in best] == [(1, 1, "b"), (2, 2, "c"), (3, 3, "d")]
    assert best[0].probability == best[1].probability > best[2].probability


@pytest.mark.parametrize(("topk", "count"), [(1, 1), (4, 4), (9, 4)])
def test_topk(topk: int, count: int) -> None:
    ranked = rank(np.zeros((2, 4), np.float32), NAMES, topk)
    assert [len(row) for row in ranked] == [count, count]
    assert sum(p.probability for p in rank(np.zeros((1, 4), np.float32), NAMES, 4)[0]) == 1
