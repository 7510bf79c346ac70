"""LAMB, against timm's."""

import pytest
import torch
from timm.optim import Lamb as TimmLamb
from torch import nn

from resnest_cli.model.resnest import build
from resnest_cli.training.lamb import Lamb
from resnest_cli.training.layers import parameter_groups
from resnest_cli.training.resume import optimizer_tensors, restore_optimizer
from tests.networks import TINY, enliven, photos


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_steps_are_timms(size: float) -> None:
    """Gradients below and above the norm of 1 that they are brought down to."""
    ours, theirs = (enliven(build(TINY, num_classes=3)).double() for _ in range(2))
    one = Lamb(parameter_groups(ours, 0.02), lr=0.005)
    groups = parameter_groups(theirs, 0.02)
    two = TimmLamb(groups, lr=0.005, foreach=False)
    for seed in range(4):
        for network, optimizer in ((ours, one), (theirs, two)):
            optimizer.zero_grad()
            (size * network(photos(4, 32, seed=seed))).square().mean().backward()
            optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_goes_on_as_before_from_its_tensors() -> None:
    def made() -> tuple[nn.Module, Lamb]:
        network = enliven(build(TINY, num_classes=3))
        return network, Lamb(parameter_groups(network, 0.02), lr=0.005)

    def step(network: nn.Module, optimizer: Lamb, seed: int) -> None:
        optimizer.zero_grad()
        network(photos(4, 32, torch.float32, seed)).square().mean().backward()
        optimizer.step()

    straight, optimizer = made()
    for seed in range(3):
        step(straight, optimizer, seed)
        if seed == 1:
            weights = {name: t.clone() for name, t in straight.state_dict().items()}
            saved = {k: t.clone() for k, t in optimizer_tensors(optimizer, straight).items()}
    again, optimizer = made()
    again.load_state_dict(weights)
    restore_optimizer(optimizer, again, saved)
    step(again, optimizer, 2)
    for one, two in zip(straight.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_what_has_no_gradient_stays() -> None:
    idle, live = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Lamb([{"params": [idle, live], "weight_decay": 0.1}], lr=0.1)
    optimizer.step()
    live.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(idle, torch.ones(2, 2))
    assert not torch.equal(live, torch.ones(2, 2))
