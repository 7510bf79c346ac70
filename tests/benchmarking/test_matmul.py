"""The machine's rate: the best of several products, and nothing left changed."""

import pytest
import torch

from resnest_cli.benchmarking import matmul
from resnest_cli.benchmarking.matmul import Matmul


def test_the_best_product_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matmul._SIDE, "cpu", 10)
    threads = torch.get_num_threads()
    seen: list[int] = []
    real = torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda a, b: (seen.append(torch.get_num_threads()), real(a, b))[1]
    )
    now, steps = 0.0, iter([3.0, 0.5, 2.0] * 8)
    times = []
    for step in (*[next(steps) for _ in range(8)], 1.0):
        times += [now, now + step]
        now += step
    ticks = iter(times)
    monkeypatch.setattr(matmul.time, "perf_counter", lambda: next(ticks))
    made = Matmul("cpu", threads + 1)
    made.run()
    assert made.best == 10**3 / 0.5
    assert set(seen) == {threads + 1}
    assert torch.get_num_threads() == threads
