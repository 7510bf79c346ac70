"""`--time-budget`: how long a run may take, over all its parts together.

Before it starts, epochs that nobody asked for are cut to what fits by the plan's estimate, so that
the learning rate reaches its end in time; they are written to `args.toml`. The estimate may be
wrong, so the run also ends on its own between two steps once the time is used up, with its state
saved. What was computed until then is the same, bit for bit, as without a budget.
"""

import math
import time
from dataclasses import replace

from resnest_cli.text import parse_duration
from resnest_cli.training.settings import Config

_SAFETY = 0.9  # of the budget; the rest is for an estimate that is too low, and for the pictures


def budget_seconds(config: Config) -> float:
    """The budget of a run, infinite without one."""
    found = parse_duration(config.time_budget) if config.time_budget is not None else None
    return math.inf if found is None else found


def fitted(config: Config, epoch_seconds: float, used: float = 0.0) -> Config:
    """The resolved settings with as many epochs as fit into what is left of the budget; at least 1.

    Never more than there were. Warm-up and the steps of the step schedule shrink with them.
    """
    budget, most = budget_seconds(config), config.epochs or 1
    if not math.isfinite(budget) or epoch_seconds <= 0:
        return config
    epochs = max(1, min(most, int(_SAFETY * (budget - used) / epoch_seconds)))
    warmup, decay = min(config.warmup_epochs, epochs / 4), config.decay_epochs
    decay = None if decay is None else decay * epochs / most
    return replace(config, epochs=epochs, warmup_epochs=warmup, decay_epochs=decay)


class Clock:
    """The time that a run has used: `before` in earlier parts, and since `began` (monotonic)."""

    def __init__(self, budget: float, before: float, began: float | None = None) -> None:
        self._budget, self._before = budget, before
        self._began = time.monotonic() if began is None else began

    def used(self) -> float:
        """Seconds."""
        return self._before + time.monotonic() - self._began

    def late(self, reserve: float = 0.0) -> bool:
        """Whether the time is used up; `reserve` are seconds for what still has to be done."""
        return self.used() + reserve >= self._budget
