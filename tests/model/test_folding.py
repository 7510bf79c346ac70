"""Folding: the same answers, no batch norm left, and the original untouched."""

import copy

import pytest
import torch
from torch import nn

from resnest_cli.inference.torch_engine import folded
from resnest_cli.model.resnest import build
from tests.networks import enliven


@pytest.mark.parametrize(
    "variant", ["resnest14t", "resnest14d", "resnest50d_4s2x40d", "resnest50d_1s4x24d"]
)
def test_the_answers_stay(variant: str) -> None:
    network = enliven(build(variant, num_classes=7)).double().eval()
    before = copy.deepcopy(network.state_dict())
    photos = torch.randn(2, 3, 70, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected = network.forward_intermediates(photos), network(photos)
        quick = folded(network)
        found = quick.forward_intermediates(photos), quick(photos)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_a_training_network_is_folded_as_in_evaluation() -> None:
    network = enliven(build("resnest14t", num_classes=3)).train()
    photos = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        found = folded(network)(photos)
        torch.testing.assert_close(found, network.eval()(photos), rtol=1e-4, atol=1e-4)
