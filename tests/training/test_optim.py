"""Optimisers, groups and schedules, against torch's and timm's."""

from dataclasses import replace
from itertools import pairwise

import pytest
import timm
import torch
from timm.optim import Lamb as TimmLamb
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR

from resnest_cli.model.resnest import build
from resnest_cli.training.network import freeze, head
from resnest_cli.training.optim import (
    Lamb,
    Schedule,
    create_optimizer,
    layer_numbers,
    parameter_groups,
)
from resnest_cli.training.settings import Config
from resnest_cli.training.state import optimizer_tensors, restore_optimizer
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


def test_a_step_that_the_gradient_scaler_skips_leaves_no_trace() -> None:
    """The first of a run often overflows in float16; torch's fused SGD keeps its momentum."""
    config = replace(CONFIG, opt="sgd", lr=0.01, amp="float16")
    network = enliven(build(TINY, num_classes=3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer, scaler = create_optimizer(network, config), torch.amp.GradScaler("cpu")
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    scaler.scale(torch.zeros(1))
    scaler.step(optimizer)
    scaler.update()
    assert not any(state for state in optimizer.state.values())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_counters_of_a_fused_optimiser_come_back_on_its_device() -> None:
    """A GPU's kernel would read a counter in the CPU's memory; the meta device stands for one."""
    network = build(TINY, num_classes=3)
    optimizer = create_optimizer(network, replace(CONFIG, opt="adamw"))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = optimizer_tensors(optimizer, network)
    elsewhere = network.to("meta")
    other = torch.optim.AdamW(elsewhere.parameters())
    other.defaults["fused"] = True
    restore_optimizer(other, elsewhere, tensors)
    devices = {value.device.type for state in other.state.values() for value in state.values()}
    assert devices == {"meta"}


def test_momentum_0_is_plain_sgd() -> None:
    assert (
        create_optimizer(nn.Linear(2, 2), replace(CONFIG, momentum=0.0)).defaults["momentum"] == 0
    )


def scales(network: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    """Of each parameter's name: the scale of its learning rate, and its weight decay."""
    names = {id(p): name for name, p in network.named_parameters()}
    return {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }


@pytest.mark.parametrize("name", ["resnest26d", "resnest50d_4s2x40d"])
def test_layers_are_timms(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = build(name, num_classes=7), timm.create_model(name, num_classes=7)
    expected = scales(theirs, param_groups_layer_decay(theirs, 0.05, layer_decay=0.7))
    found = scales(ours, parameter_groups(ours, 0.05, 0.7))
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value == pytest.approx(expected[key], rel=1e-12), key
    assert found["fc.weight"] == (1.0, 0.05)
    assert found["conv1.0.weight"][0] == pytest.approx(0.7 ** (sum(ours.variant.blocks) + 1))


def test_each_layer_has_its_scale() -> None:
    network = build(TINY, num_classes=3)
    optimizer = create_optimizer(network, replace(CONFIG, layer_decay=0.5))
    scales = sorted({g["lr_scale"] for g in optimizer.param_groups}, reverse=True)
    assert scales == [0.5**n for n in range(7)]  # stem, five blocks, classifier
    plain = create_optimizer(network, CONFIG)
    assert len(plain.param_groups) == 2
    assert {g["lr_scale"] for g in plain.param_groups} == {1.0}


def test_a_classifier_alone_is_one_layer() -> None:
    alone = head(build(TINY, num_classes=3))
    assert set(layer_numbers(alone).values()) == {1}
    assert {g["lr_scale"] for g in parameter_groups(alone, 0.1, 0.5)} == {1.0}


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_lamb_is_timms(size: float) -> None:
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


def test_lamb_goes_on_as_before_from_its_tensors() -> None:
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


def idle() -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)


def torchs(scheduler: LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def ours(config: Config, steps_per_epoch: int, steps: int) -> list[float]:
    schedule = Schedule(config, steps_per_epoch)
    return [schedule.lr(step) for step in range(steps)]


def test_warm_up_then_cosine() -> None:
    rates = ours(replace(CONFIG, warmup_epochs=1, min_lr=0.1), 10, 101)
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[55] == pytest.approx(0.04 + 0.36 * 0.5)
    assert rates[100] == pytest.approx(0.04)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_cosine_is_torchs() -> None:
    expected = torchs(CosineAnnealingLR(idle(), T_max=50), 50)
    assert ours(replace(CONFIG, epochs=5), 10, 50) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("epochs", "rate"), [(3.0, 0.1), (2.5, 0.5), (0.3, 0.9)])
def test_step_is_torchs(epochs: float, rate: float) -> None:
    config = replace(CONFIG, sched="step", decay_epochs=epochs, decay_rate=rate)
    expected = torchs(StepLR(idle(), round(epochs * 10), gamma=rate), 100)
    assert ours(config, 10, 100) == pytest.approx(expected, rel=1e-9)
    assert len(set(expected)) > 2


def test_step_counts_from_the_start_and_keeps_its_least() -> None:
    config = replace(
        CONFIG, sched="step", decay_epochs=3.0, decay_rate=0.1, warmup_epochs=1.0, min_lr=0.05
    )
    rates = ours(config, 10, 100)
    assert rates[5] == pytest.approx(0.4 * 0.6)  # warming up
    assert rates[29:31] == pytest.approx([0.4, 0.04])
    assert rates[95] == pytest.approx(0.02)  # not 0.0004


@pytest.mark.parametrize(("epochs", "steps"), [(10, 10), (3, 7), (1, 2), (1, 1), (60, 23)])
def test_one_cycle_is_torchs(epochs: int, steps: int) -> None:
    total = epochs * steps
    if total == 1:  # torch divides by zero there; one step takes the first rate or the peak
        assert 0 < ours(replace(CONFIG, sched="onecycle", epochs=1), 1, 1)[0] <= 0.4
        return
    scheduler = OneCycleLR(idle(), max_lr=0.4, total_steps=total, cycle_momentum=False)
    expected = [scheduler.get_last_lr()[0]]
    for _ in range(total - 1):
        scheduler.optimizer.step()
        scheduler.step()
        expected.append(scheduler.get_last_lr()[0])
    found = ours(replace(CONFIG, sched="onecycle", epochs=epochs, warmup_epochs=1), steps, total)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_constant_and_beyond_the_end() -> None:
    assert set(ours(replace(CONFIG, sched="constant"), 10, 200)) == {0.4}
    assert Schedule(CONFIG, 10).lr(1000) == pytest.approx(0.0)
    one = replace(CONFIG, sched="onecycle")
    assert Schedule(one, 10).lr(1000) == pytest.approx(0.4 / 25 / 1e4)
