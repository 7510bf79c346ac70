"""`--find-lr`: the learning-rate range test, and its plot.

The rate grows from step to step by the same factor, from 1e-7 to 10 in a hundred steps, until the
loss is four times its best ("Cyclical learning rates", arXiv 1506.01186, and fastai's lr_find).
Suggested is fastai's "valley". Weights, statistics and the optimiser are put back; nothing else is
learned.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.csv_rows import csv_rows
from resnest_cli.errors import ResnestError
from resnest_cli.files import write_text
from resnest_cli.report.plots import lr_finder
from resnest_cli.training import runs
from resnest_cli.training.loader import Batch
from resnest_cli.training.loop import DivergedError, Trainer
from resnest_cli.training.runs import NoKeeper, RunFolder
from resnest_cli.training.setup import Ready
from resnest_cli.training.stopping import StoppedError, StopRequest

if TYPE_CHECKING:
    from resnest_cli.output.training import TrainingDisplay

LOW, HIGH, STEPS, SKIPPED = 1e-7, 10.0, 100, 10
_SMOOTH = 0.98  # of the moving average of the losses, as fastai has it
_DIVERGED = 4.0  # times the best


@dataclass(frozen=True, slots=True)
class Sweep:
    """Learning rates and smoothed losses in nats; `suggestion` is None where no loss fell."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def suggestion(self) -> float | None:
        """fastai's "valley"."""
        return valley(self.rates, self.losses)


@dataclass(frozen=True, slots=True)
class Found:
    """How the search ended; `exit_code` is 0, 130, 143 or 129."""

    exit_code: int
    run: RunFolder | None = None


def valley(rates: tuple[float, ...], losses: tuple[float, ...]) -> float | None:
    """A rate halfway down the longest stretch over which the loss falls; None where nothing falls.

    Follows fastai.callback.schedule.valley, and leaves out the first tenth, in which the average
    still jumps, and the last five steps, as fastai's LRFinder does.
    """
    rates, losses = rates[SKIPPED:-5], losses[SKIPPED:-5]
    count = len(losses)
    lengths = [1] * count
    for here in range(count):
        for before in range(here):
            if losses[before] > losses[here]:
                lengths[here] = max(lengths[here], lengths[before] + 1)
    if not lengths or max(lengths) < 2:
        return None
    end = lengths.index(max(lengths))
    start = end - lengths[end]
    third = (end - start) / 3.0
    return rates[max(0, start + int(third) + int(third / 2))]


def sweep(trainer: Trainer, stop: StopRequest) -> Sweep:
    """Runs the test and puts network and optimiser back as they were.

    Raises:
        StoppedError: a signal came.
    """
    network, optimizer = trainer.task.network, trainer.stepper.optimizer
    weights = copy.deepcopy(network.state_dict())
    before = copy.deepcopy(optimizer.state_dict())
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    batches = _endless(trainer)
    try:
        for step in range(STEPS):
            rate = LOW * (HIGH / LOW) ** (step / (STEPS - 1))
            try:
                loss = trainer.trial(batches, rate)
            except DivergedError:
                break
            average = _SMOOTH * average + (1 - _SMOOTH) * loss
            rates.append(rate)
            losses.append(average / (1 - _SMOOTH ** (step + 1)))
            stop.check()
            if losses[-1] > _DIVERGED * min(losses):
                break
    finally:
        network.load_state_dict(weights)
        optimizer.load_state_dict(before)
    return Sweep(tuple(rates), tuple(losses))


def _endless(trainer: Trainer) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from trainer.task.train.epoch(epoch)
        epoch += 1


def find_learning_rate(
    base: Path, name: str | None, ready: Ready, display: "TrainingDisplay"
) -> Found:
    """Sweeps, writes `lr_finder.png` and `lr_finder.csv` in a folder of their own, and prints.

    Raises:
        ResnestError: the loss never fell; the plot is there to be looked at.
    """
    run = runs.new_run(base, name, stem="lr-finder")
    with StopRequest() as stop, display:
        try:
            task = ready.task(run.states, stop, display)
            found = sweep(Trainer(task, NoKeeper(), display, stop, None), stop)
        except StoppedError:
            return Found(stop.exit_code, run)
        finally:
            ready.close()
    points = zip(found.rates, found.losses, strict=True)
    write_text(run.path / "lr_finder.csv", csv_rows([("lr", "loss"), *points]))
    rates, losses = found.rates[SKIPPED:], found.losses[SKIPPED:]
    if len(rates) > 1:
        lr_finder(run.path / "lr_finder.png", rates, losses, found.suggestion)
    if found.suggestion is None:
        raise ResnestError(
            f"the loss never fell, so there is nothing to suggest; look at {run.path}. A larger "
            "batch (-b) makes the loss less noisy."
        )
    display.learning_rate(_rounded(found.suggestion), run.path / "lr_finder.png")
    return Found(0, run)


def _rounded(rate: float) -> float:
    """Two digits."""
    return float(f"{rate:.1e}") if math.isfinite(rate) else rate
