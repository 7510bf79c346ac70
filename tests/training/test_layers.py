"""Layer-wise decay, against timm's groups, and gradual unfreezing."""

from dataclasses import replace

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from resnest_cli.model.resnest import build
from resnest_cli.training.config import Config
from resnest_cli.training.layers import layer_numbers, parameter_groups
from resnest_cli.training.network import Head, freeze, thawing
from resnest_cli.training.optim import create_optimizer, set_rate
from tests.networks import TINY

CONFIG = Config(
    command="finetune", data="d", model="m", recipe="finetune", epochs=10, batch_size=8, lr=0.4
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


def test_the_rate_of_each_step_has_the_scale() -> None:
    network = build(TINY, num_classes=3)
    optimizer = create_optimizer(network, replace(CONFIG, layer_decay=0.5))
    set_rate(optimizer, 0.2)
    rates = sorted({g["lr"] for g in optimizer.param_groups}, reverse=True)
    assert rates == pytest.approx([0.2 * 0.5**n for n in range(7)])  # stem, five blocks, classifier
    plain = create_optimizer(network, CONFIG)
    assert len(plain.param_groups) == 2
    assert {g["lr_scale"] for g in plain.param_groups} == {1.0}


def test_a_classifier_alone_is_one_layer() -> None:
    head = Head(build(TINY, num_classes=3))
    assert set(layer_numbers(head).values()) == {1}
    assert {g["lr_scale"] for g in parameter_groups(head, 0.1, 0.5)} == {1.0}


@pytest.mark.parametrize(("what", "units"), [("none", 5), ("stages:0", 4), ("stages:3", 1)])
def test_what_thaws(what: str, units: int) -> None:
    network = build(TINY, num_classes=3)
    freeze(network, what)
    found = thawing(network, what)
    assert len(found) == units
    assert found[0] is network.layer4
    learning = {id(p) for p in network.parameters() if p.requires_grad}
    thawed = {id(p) for module in found for p in module.parameters()}
    assert thawed | {id(p) for p in network.fc.parameters()} == learning
