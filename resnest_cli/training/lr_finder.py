"""`--find-lr`: the learning-rate range test, and its plot.

The rate grows from step to step by the same factor, from 1e-7 to 10 in a hundred steps, until the
loss is four times its best ("Cyclical learning rates", arXiv 1506.01186, and fastai's lr_find).
Suggested is fastai's "valley". Weights, statistics and the optimiser are put back; nothing else is
learned.
"""

import copy
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from resnest_cli.errors import ResnestError
from resnest_cli.files import write_text
from resnest_cli.output.training import TrainingDisplay
from resnest_cli.report import plots
from resnest_cli.signals import StoppedError, StopRequest
from resnest_cli.text import csv_rows
from resnest_cli.training.loop import Trainer
from resnest_cli.training.runs import new_run
from resnest_cli.training.setup import Ready
from resnest_cli.training.step import DivergedError

LOW, HIGH, STEPS, SKIPPED = 1e-7, 10.0, 100, 10
_SMOOTH = 0.98  # of the moving average of the losses, as fastai has it
_DIVERGED = 4.0  # times the best


def valley(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """A rate halfway down the longest stretch over which the loss falls; None where nothing falls.

    Follows fastai.callback.schedule.valley, and leaves out the first tenth, in which the average
    still jumps, and the last five steps, as fastai's LRFinder does.
    """
    rates, losses = rates[SKIPPED:-5], losses[SKIPPED:-5]
    lengths = [1] * len(losses)
    for here, loss in enumerate(losses):
        for before in range(here):
            if losses[before] > loss:
                lengths[here] = max(lengths[here], lengths[before] + 1)
    if not lengths or max(lengths) < 2:
        return None
    end = lengths.index(max(lengths))
    start = end - lengths[end]
    third = (end - start) / 3.0
    return rates[max(0, start + int(third) + int(third / 2))]


def sweep(trainer: Trainer, stop: StopRequest) -> tuple[list[float], list[float]]:
    """Rates and smoothed losses in nats; puts network and optimiser back as they were."""
    network, optimizer = trainer.task.network, trainer.stepper.optimizer
    weights = copy.deepcopy(network.state_dict())
    before = copy.deepcopy(optimizer.state_dict())
    rates, losses, average = list[float](), list[float](), 0.0
    batches = chain.from_iterable(map(trainer.task.train.epoch, count()))
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
    return rates, losses


def find_learning_rate(base: Path, name: str | None, ready: Ready, display: TrainingDisplay) -> int:
    """Sweeps, writes `lr_finder.png` and `.csv` in a folder of their own, prints; the exit code."""
    run = new_run(base, name, stem="lr-finder")
    with StopRequest() as stop, display:
        try:
            ready.ask_teacher(run, stop.check, display)
            task = ready.task(run, stop, display)
            rates, losses = sweep(Trainer(task, None, display, stop, None), stop)
        except StoppedError:
            return stop.exit_code
        finally:
            ready.close()
    points = zip(rates, losses, strict=True)
    write_text(run.path / "lr_finder.csv", csv_rows([("lr", "loss"), *points]))
    suggestion, picture = valley(rates, losses), run.path / "lr_finder.png"
    if len(rates) > SKIPPED + 1:
        plots.lr_finder(picture, rates[SKIPPED:], losses[SKIPPED:], suggestion)
    if suggestion is None:
        raise ResnestError(
            f"the loss never fell, so there is nothing to suggest; look at {run.path}. A larger "
            "batch (-b) makes the loss less noisy."
        )
    display.learning_rate(float(f"{suggestion:.1e}"), picture)
    return 0
