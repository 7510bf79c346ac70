"""Cases in turn, their figures and the machine's rate, with a clock that the test turns."""

import pytest
import torch

from resnest_cli.benchmark import timing
from resnest_cli.benchmark.timing import Case, Matmul, in_turn, spread


class Clock:
    """Each case moves it by what it takes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def case(self, title: str, *seconds: float) -> Case:
        """Takes these seconds, one after the other, and then the last of them."""
        left = list(seconds)

        def run() -> None:
            self.order.append(title)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return Case(title, run)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: made.now)
    return made


def test_all_have_one_block_before_any_has_its_second(clock: Clock) -> None:
    cases = [clock.case("a", 9.0, 0.25, 0.25), clock.case("b", 2.0)]
    steps = list(in_turn(cases, 3, 1.0))
    assert steps == ["a", "b"] * 4
    # The warm-up of two, then as many as fill a second: four of a, one of b.
    assert clock.order == ["a", "a", "b", "b", *(["a"] * 4 + ["b"]) * 3]
    assert cases[0].samples == [0.25] * 3  # the first run's 9 seconds count nowhere
    assert cases[1].samples == [2.0] * 3


def test_a_sample_is_the_mean_of_its_block(clock: Clock) -> None:
    case = clock.case("a", 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    list(in_turn([case], 2, 0.75))
    assert case.samples == [1.5, 6.0]


def test_spread() -> None:
    assert spread([0.004, 0.001, 0.002, 0.003, 0.1]) == {
        "median": 3.0, "min": 1.0, "p25": 2.0, "p75": 4.0, "max": 100.0,
    }  # fmt: skip


def test_the_best_product_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timing._SIDE, "cpu", 10)
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
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))
    made = Matmul("cpu", threads + 1)
    made.run()
    assert made.best == 10**3 / 0.5
    assert set(seen) == {threads + 1}
    assert torch.get_num_threads() == threads
