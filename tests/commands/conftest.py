"""Commands that are interrupted at a step of a training."""

import signal
from collections.abc import Callable

import pytest

from resnest_cli.output.training import TrainingDisplay

AtStep = Callable[..., None]


def hang_up() -> None:
    """What a closed terminal does."""
    signal.raise_signal(signal.SIGHUP)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> AtStep:
    """Acts once, after a step of the next run; unless another act is given, that ends the run."""
    original = TrainingDisplay.step

    def arrange(wanted: int, act: Callable[[], object] = hang_up) -> None:
        done = 0

        def step(self: TrainingDisplay, **values: object) -> None:
            nonlocal done
            original(self, **values)  # type: ignore[arg-type]
            done += 1
            if done == wanted:
                act()

        monkeypatch.setattr(TrainingDisplay, "step", step)

    return arrange
