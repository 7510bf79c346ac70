"""Multiply-adds from the table equal those counted on the network, exactly and by stage."""

import pytest
import torch
from torch import nn

from resnest_cli.model.resnest import build
from resnest_cli.model.variants import STAGES, VARIANTS, Variant, multiply_adds
from tests.networks import TINY


def counted_by_stage(variant: Variant, size: int, classes: int, channels: int) -> dict[str, int]:
    """What each layer multiplies, on meta tensors, added up by the name of its place."""
    network = build(variant, num_classes=classes, in_channels=channels, init=False).eval()
    found = dict.fromkeys(STAGES, 0)

    def counter(stage: str):
        def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
            found[stage] += output[0].numel() * module.weight[0].numel()

        return count

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            place = name.partition(".")[0]
            stage = {"conv1": "stem", "fc": "head"}.get(place, f"stage {place[-1]}")
            module.register_forward_hook(counter(stage))
    network(torch.empty(1, channels, size, size, device="meta"))
    return found


@pytest.mark.parametrize("size", [48, 65, 97, 223, 416])
@pytest.mark.parametrize("name", ["resnest14d", "resnest50d_4s2x40d", "resnest50d_1s4x24d"])
def test_any_size_classes_and_channels_by_stage(name: str, size: int) -> None:
    variant = VARIANTS[name]
    found = multiply_adds(variant, size, num_classes=7, in_channels=4)
    assert found == counted_by_stage(variant, size, 7, 4)


def test_an_altered_variant() -> None:
    assert multiply_adds(TINY, 48, num_classes=5) == counted_by_stage(TINY, 48, 5, 3)
