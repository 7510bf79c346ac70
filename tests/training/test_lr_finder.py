"""The range test: the valley, and nothing learned after it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from resnest_cli.report.plots import lr_finder
from resnest_cli.signals import StoppedError, StopRequest
from resnest_cli.training.lr_finder import HIGH, LOW, STEPS, sweep, valley
from tests.training.test_loop import CONFIG, Kept, Watch, trainer

RATES = tuple(LOW * (HIGH / LOW) ** (step / (STEPS - 1)) for step in range(STEPS))


def test_the_valley() -> None:
    """Twenty equal losses, forty that fall, then a rise: of 41 that fall, the 19th or so.

    The stretch begins at 59 - 41 = 18, a third of it is 13, half of that 6; ten steps were skipped.
    """
    losses = [9.0] * 10 + [5.0] * 20 + [5 - 0.1 * (step + 1) for step in range(40)]
    losses += [2.0 + step for step in range(30)]
    assert valley(RATES, tuple(losses)) == RATES[10 + 18 + 13 + 6]
    assert valley(RATES, tuple(float(-step) for step in range(STEPS))) == RATES[10 - 1 + 28 + 14]


@pytest.mark.parametrize("seed", range(3))
def test_the_valley_lies_where_a_noisy_loss_falls(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = 0.02 * torch.randn(STEPS, generator=generator)
    fall = torch.sigmoid((50 - torch.arange(STEPS).float()) / 8)
    rise = torch.exp((torch.arange(STEPS).float() - 90) / 3)
    found = valley(RATES, tuple((fall + rise + noise).tolist()))
    assert found is not None
    assert RATES[30] < found < RATES[65]


def test_no_valley() -> None:
    assert valley(RATES, tuple(float(step) for step in range(STEPS))) is None
    assert valley((), ()) is None
    assert valley(RATES[:12], (1.0,) * 12) is None


@pytest.mark.parametrize("change", [{}, {"opt": "adamw", "grad_accum_steps": 2}])
def test_a_sweep_leaves_network_and_optimiser_as_they_were(change: dict) -> None:
    config = replace(CONFIG, warmup_epochs=0.0, drop_block=0.0, drop_path=0.0, **change)
    run = trainer(config, Kept(), Watch())
    before = {name: tensor.clone() for name, tensor in run.task.network.state_dict().items()}
    rates, losses = sweep(run, StopRequest())
    assert len(rates) > 50
    assert rates == pytest.approx(RATES[: len(rates)])
    assert valley(rates, losses) is not None
    after = run.task.network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not run.stepper.optimizer.state_dict()["state"]


def test_a_signal_ends_it_and_puts_the_weights_back() -> None:
    run = trainer(CONFIG, Kept(), Watch())
    before = run.task.network.fc.weight.clone()  # type: ignore[union-attr, operator]

    class Now(StopRequest):
        def check(self) -> None:
            raise StoppedError("now")

    with pytest.raises(StoppedError):
        sweep(run, Now())
    assert torch.equal(run.task.network.fc.weight, before)  # type: ignore[union-attr, arg-type]


def test_the_plot(tmp_path: Path) -> None:
    losses = [1.0 - step / 200 for step in range(STEPS)]
    sizes = set()
    for suggestion in (1e-3, None):
        path = tmp_path / f"{suggestion}.png"
        lr_finder(path, RATES, losses, suggestion)
        with Image.open(path) as image:
            sizes.add(image.size)
    assert sizes == {(1200, 760)}
    assert (tmp_path / "None.png").read_bytes() != (tmp_path / "0.001.png").read_bytes()
