"""`--find-lr`: the learning-rate range test, and its plot.

The rate grows from step to step by the same factor, from 1e-7 to 10 in a hundred steps, until the
loss is four times its best ("Cyclical learning rates", arXiv 1506.01186, and fastai's lr_find).
Suggested is the rate at which the loss falls fastest. Weights, statistics and the optimiser are put
back; nothing else is learned.
"""

import copy
import math
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from statistics import fmean

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

LOW, HIGH, STEPS = 1e-7, 10.0, 100
WINDOW = 13  # steps over which losses are averaged: the rate grows tenfold
_SMOOTH = 0.98  # of the moving average that ends the sweep, as fastai has it
_DIVERGED = 4.0  # times the best


def smoothed(losses: Sequence[float]) -> list[float]:
    """The mean of each loss and those up to six steps before and after it; nothing lags behind."""
    half = WINDOW // 2
    return [fmean(losses[max(0, at - half) : at + half + 1]) for at in range(len(losses))]


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the loss falls fastest before it is lowest; None where it never falls.

    The slope is that of the straight line through `WINDOW` losses as they are, over the logarithm
    of the rate; fastai.callback.schedule.steep takes it between two neighbours of an average that
    lags behind.
    """
    half = WINDOW // 2
    means = smoothed(losses)
    lowest = means.index(min(means)) if means else 0
    slopes = {
        at: sum(step * losses[at + step] for step in range(-half, half + 1))
        for at in range(half, min(lowest + 1, len(losses) - half))
    }
    at = min(slopes, key=lambda place: slopes[place], default=0)
    return rates[at] if slopes and slopes[at] < 0 else None


def sweep(trainer: Trainer, stop: StopRequest) -> tuple[list[float], list[float]]:
    """Rates and losses in nats; puts network and optimiser back as they were."""
    network, optimizer = trainer.task.network, trainer.stepper.optimizer
    weights = copy.deepcopy(network.state_dict())
    before = copy.deepcopy(optimizer.state_dict())
    rates, losses = list[float](), list[float]()
    average, least = 0.0, math.inf
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
            losses.append(loss)
            stop.check()
            now = average / (1 - _SMOOTH ** (step + 1))
            least = min(least, now)
            if now > _DIVERGED * least:
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
    means = smoothed(losses)
    points = zip(rates, losses, means, strict=True)
    write_text(run.path / "lr_finder.csv", csv_rows([("lr", "loss", "smoothed"), *points]))
    suggestion, picture = steepest(rates, losses), run.path / "lr_finder.png"
    if len(rates) > 1:
        plots.lr_finder(picture, rates, means, suggestion)
    if suggestion is None:
        raise ResnestError(
            f"the loss never fell, so there is nothing to suggest; look at {run.path}. A larger "
            "batch (-b) makes the loss less noisy."
        )
    display.learning_rate(float(f"{suggestion:.1e}"), picture)
    return 0
