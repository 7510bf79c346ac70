"""Optimisers, clipping, moving average."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from resnest_cli.model.resnest import build
from resnest_cli.training.config import Config
from resnest_cli.training.ema import Ema
from resnest_cli.training.layers import parameter_groups
from resnest_cli.training.network import freeze
from resnest_cli.training.optim import clip, create_optimizer
from resnest_cli.training.resume import optimizer_tensors, restore_optimizer
from tests.networks import TINY, enliven, photos

CONFIG = Config(
    command="train", data="d", model="m", recipe="quick", epochs=10, batch_size=8, lr=0.4,
    weight_decay=0.1,
)  # fmt: skip


def test_no_decay_on_norms_and_biases() -> None:
    network = build(TINY, num_classes=3)
    decayed, others = parameter_groups(network, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in network.named_parameters()}
    found = {names[id(p)] for p in decayed["params"]}
    assert found == {n for n, p in network.named_parameters() if p.dim() > 1}
    assert "fc.weight" in found
    assert {"fc.bias", "bn1.weight", "layer1.0.conv2.fc1.bias"}.isdisjoint(found)
    assert len(decayed["params"]) + len(others["params"]) == len(names)


def test_what_is_frozen_is_left_out() -> None:
    network = build(TINY, num_classes=3)
    freeze(network, "backbone")
    groups = parameter_groups(network, 0.1)
    assert [p.shape for group in groups for p in group["params"]] == [(3, 128), (3,)]


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_a_step_is_torchs(opt: str) -> None:
    network, other = (enliven(nn.Linear(4, 2)) for _ in range(2))
    ours = create_optimizer(network, replace(CONFIG, opt=opt, momentum=0.8))
    groups = [{"params": [other.weight], "weight_decay": 0.1},
              {"params": [other.bias], "weight_decay": 0.0}]  # fmt: skip
    theirs = (
        torch.optim.SGD(groups, lr=0.4, momentum=0.8, nesterov=True)
        if opt == "sgd"
        else torch.optim.AdamW(groups, lr=0.4)
    )
    for _ in range(3):
        for module, optimizer in ((network, ours), (other, theirs)):
            optimizer.zero_grad()
            module(torch.ones(1, 4)).square().sum().backward()
            optimizer.step()
    assert torch.equal(network.weight, other.weight)
    assert torch.equal(network.bias, other.bias)


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_fused_steps_with_channels_last_are_plain_steps(opt: str) -> None:
    """Torch's fused kernels on a CPU go wrong, silently, where layouts differ."""
    last, plain = (enliven(build(TINY, num_classes=3)) for _ in range(2))
    last = last.to(memory_format=torch.channels_last)
    config = replace(CONFIG, opt=opt, lr=0.01)
    ours = create_optimizer(last, config)
    groups = parameter_groups(plain, config.weight_decay)
    theirs = (
        torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, foreach=False)
        if opt == "sgd"
        else torch.optim.AdamW(groups, lr=0.01, foreach=False)
    )
    for seed in range(3):
        images = photos(4, 32, torch.float32, seed).contiguous(memory_format=torch.channels_last)
        last(images).square().sum().backward()
        for mine, other in zip(last.parameters(), plain.parameters(), strict=True):
            assert mine.grad is not None
            other.grad = mine.grad.contiguous()
        if seed == 1:  # as a resumed run finds it
            saved = {
                key: value.contiguous() for key, value in optimizer_tensors(ours, last).items()
            }
            restore_optimizer(ours, last, saved)
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    for mine, other in zip(last.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6, check_stride=False)


def test_momentum_0_is_plain_sgd() -> None:
    assert (
        create_optimizer(nn.Linear(2, 2), replace(CONFIG, momentum=0.0)).defaults["momentum"] == 0
    )


@pytest.mark.parametrize(("most", "after"), [(0.0, 5.0), (1.0, 1.0), (100.0, 5.0)])
def test_clip(most: float, after: float) -> None:
    one, two, idle = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    one.grad, two.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert float(clip([one, two, idle], most)) == pytest.approx(5.0)
    assert math.hypot(float(one.grad), float(two.grad)) == pytest.approx(after, rel=1e-4)


def test_clip_tells_what_is_not_finite() -> None:
    one = nn.Parameter(torch.zeros(1))
    one.grad = torch.tensor([math.inf])
    assert not math.isfinite(float(clip([one], 1.0)))


def test_moving_average() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    ema = Ema(network, decay=0.9)
    copied = ema.network
    assert not copied.training
    assert not any(p.requires_grad for p in copied.parameters())
    expected = network[0].weight.item()
    for step in range(200):
        with torch.no_grad():
            network[0].weight.fill_(step)
            network[1].running_mean.fill_(step)
        network[1].num_batches_tracked += 1
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert copied[0].weight.item() == pytest.approx(expected, rel=1e-5)
    assert float(copied[1].running_mean) == pytest.approx(expected, rel=0.01)
    assert int(copied[1].num_batches_tracked) == 200
    assert network[0].weight.item() == 199
