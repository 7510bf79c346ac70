"""The learning rate of every step, against torch's schedulers."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR

from resnest_cli.training.config import Config
from resnest_cli.training.schedule import Schedule

CONFIG = Config(
    command="train", data="d", model="m", recipe="quick", epochs=10, batch_size=8, lr=0.4
)


def optimizer() -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)


def torchs(scheduler: LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def ours(config: Config, steps_per_epoch: int, steps: int) -> list[float]:
    schedule = Schedule(config, steps_per_epoch)
    return [schedule.lr(step) for step in range(steps)]


def test_warm_up_then_cosine() -> None:
    rates = ours(replace(CONFIG, warmup_epochs=1, min_lr=0.1), 10, 101)
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[55] == pytest.approx(0.04 + 0.36 * 0.5)
    assert rates[100] == pytest.approx(0.04)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_cosine_is_torchs() -> None:
    expected = torchs(CosineAnnealingLR(optimizer(), T_max=50), 50)
    assert ours(replace(CONFIG, epochs=5), 10, 50) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("epochs", "rate"), [(3.0, 0.1), (2.5, 0.5), (0.3, 0.9)])
def test_step_is_torchs(epochs: float, rate: float) -> None:
    config = replace(CONFIG, sched="step", decay_epochs=epochs, decay_rate=rate)
    expected = torchs(StepLR(optimizer(), round(epochs * 10), gamma=rate), 100)
    assert ours(config, 10, 100) == pytest.approx(expected, rel=1e-9)
    assert len(set(expected)) > 2


def test_step_counts_from_the_start_and_keeps_its_least() -> None:
    config = replace(
        CONFIG, sched="step", decay_epochs=3.0, decay_rate=0.1, warmup_epochs=1.0, min_lr=0.05
    )
    rates = ours(config, 10, 100)
    assert rates[5] == pytest.approx(0.4 * 0.6)  # warming up
    assert rates[29:31] == pytest.approx([0.4, 0.04])
    assert rates[95] == pytest.approx(0.02)  # not 0.0004


@pytest.mark.parametrize(("epochs", "steps"), [(10, 10), (3, 7), (1, 2), (1, 1), (60, 23)])
def test_one_cycle_is_torchs(epochs: int, steps: int) -> None:
    total = epochs * steps
    if total == 1:  # torch divides by zero there; one step takes the first rate or the peak
        assert 0 < ours(replace(CONFIG, sched="onecycle", epochs=1), 1, 1)[0] <= 0.4
        return
    scheduler = OneCycleLR(optimizer(), max_lr=0.4, total_steps=total, cycle_momentum=False)
    expected = [scheduler.get_last_lr()[0]]
    for _ in range(total - 1):
        scheduler.optimizer.step()
        scheduler.step()
        expected.append(scheduler.get_last_lr()[0])
    found = ours(replace(CONFIG, sched="onecycle", epochs=epochs, warmup_epochs=1), steps, total)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_constant_and_beyond_the_end() -> None:
    assert set(ours(replace(CONFIG, sched="constant"), 10, 200)) == {0.4}
    assert Schedule(CONFIG, 10).lr(1000) == pytest.approx(0.0)
    one = replace(CONFIG, sched="onecycle")
    assert Schedule(one, 10).lr(1000) == pytest.approx(0.4 / 25 / 1e4)
