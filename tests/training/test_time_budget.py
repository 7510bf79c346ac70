"""The time budget: its notation, the epochs that fit, and the clock."""

import math
from dataclasses import replace

import pytest

from resnest_cli.text import parse_duration
from resnest_cli.training import time_budget
from resnest_cli.training.settings import Config
from resnest_cli.training.time_budget import Clock, budget_seconds, fitted

CONFIG = Config(
    command="train", data="d", model="m", recipe="quick", epochs=100, warmup_epochs=5.0,
    decay_epochs=30.0, time_budget="1h",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("1d", 86400),
        ("2H", 7200), ("", None), ("2", None), ("h", None), ("2h!", None), ("-1h", None),
        ("0s", None), ("2 hours", None),
    ],
)  # fmt: skip
def test_notation(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


def test_epochs_that_fit() -> None:
    assert fitted(CONFIG, 360.0).epochs == 9  # nine tenths of an hour
    assert fitted(CONFIG, 36_000.0).epochs == 1
    assert fitted(CONFIG, 0.1).epochs == 100  # never more
    assert fitted(CONFIG, 360.0, used=1800).epochs == 4
    assert fitted(CONFIG, 360.0, used=9999).epochs == 1
    assert fitted(CONFIG, 0.0) == CONFIG  # on cached features an epoch is not counted
    assert fitted(replace(CONFIG, time_budget=None), 360.0).epochs == 100
    found = fitted(CONFIG, 360.0)
    assert found.warmup_epochs == 9 / 4
    assert found.decay_epochs == pytest.approx(2.7)
    assert fitted(replace(CONFIG, decay_epochs=None), 360.0).decay_epochs is None


def test_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: 110.0)
    assert budget_seconds(replace(CONFIG, time_budget=None)) == math.inf
    began = 100.0
    clock = Clock(30.0, before=5.0, began=began)
    assert clock.used() == 15
    assert not clock.late()
    assert not clock.late(reserve=14)
    assert clock.late(reserve=16)
    assert Clock(30.0, before=25.0, began=began).late()
    assert not Clock(math.inf, 1e9, began).late()
