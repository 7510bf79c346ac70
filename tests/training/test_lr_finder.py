"""The range test: its suggestion, and nothing learned after it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from resnest_cli.report.plots import lr_finder
from resnest_cli.signals import StoppedError, StopRequest
from resnest_cli.training.lr_finder import HIGH, LOW, STEPS, smoothed, steepest, sweep
from tests.training.test_loop import CONFIG, Kept, Watch, trainer

RATES = tuple(LOW * (HIGH / LOW) ** (step / (STEPS - 1)) for step in range(STEPS))


def curve(middle: float, noise: float = 0.0, seed: int = 0) -> tuple[float, ...]:
    """A loss that falls slowly from the first step on, fast around `middle`, and then explodes."""
    steps = torch.arange(STEPS).float()
    generator = torch.Generator().manual_seed(seed)
    loss = 5 - 0.002 * steps + 2 * torch.sigmoid((middle - steps) / 4)
    loss += torch.exp((steps - middle - 25) / 2).clamp(max=20)
    return tuple((loss + noise * torch.randn(STEPS, generator=generator)).tolist())


@pytest.mark.parametrize("middle", [35, 50, 65])
def test_the_loss_falls_fastest_at_the_suggestion(middle: int) -> None:
    """The whole curve falls, so that its middle, where fastai's valley lies, says little."""
    assert steepest(RATES, curve(middle)) == RATES[middle]


@pytest.mark.parametrize("seed", range(5))
def test_noise_moves_the_suggestion_little(seed: int) -> None:
    found = steepest(RATES, curve(60, 0.1, seed))
    assert found is not None
    assert RATES[55] <= found <= RATES[65]


def test_what_falls_after_an_explosion_is_no_learning() -> None:
    losses = [*curve(50)[:80], *[90.0 - 8 * step for step in range(10)]]
    assert steepest(RATES[:90], losses) == RATES[50]


def test_a_loss_that_never_falls() -> None:
    assert steepest(RATES, tuple(float(step) for step in range(STEPS))) is None
    assert steepest((), ()) is None
    assert steepest(RATES[:12], (1.0,) * 12) is None
    assert steepest(RATES[:20], (1.0,) * 20) is None


def test_smoothed_losses_do_not_lag() -> None:
    assert smoothed([3.0] * 20) == [3.0] * 20
    step = smoothed([2.0] * 30 + [0.0] * 30)
    assert step[29] > 1 > step[30]
    assert step[20] == 2
    assert step[40] == 0


@pytest.mark.parametrize("change", [{}, {"opt": "adamw", "grad_accum_steps": 2}])
def test_a_sweep_leaves_network_and_optimiser_as_they_were(change: dict) -> None:
    config = replace(CONFIG, warmup_epochs=0.0, drop_block=0.0, drop_path=0.0, **change)
    run = trainer(config, Kept(), Watch())
    before = {name: tensor.clone() for name, tensor in run.task.network.state_dict().items()}
    rates, losses = sweep(run, StopRequest())
    assert len(rates) > 50
    assert rates == pytest.approx(RATES[: len(rates)])
    assert steepest(rates, losses) is not None
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
