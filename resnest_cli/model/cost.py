"""Multiply-adds of the network, counted as in `Variant.gmacs`."""

import torch
from torch import Tensor, nn

from resnest_cli.model.resnest import build
from resnest_cli.model.variants import Variant

STAGES = ("stem", "stage 1", "stage 2", "stage 3", "stage 4", "head")
_PLACES = ("conv1", "layer1", "layer2", "layer3", "layer4", "fc")


def multiply_adds(
    variant: Variant, size: int, *, num_classes: int | None = None, in_channels: int = 3
) -> dict[str, int]:
    """Multiply-adds for one photo of `size` x `size` pixels, by the names of `STAGES`.

    Convolutions and linear layers count, one for each product with a weight. The attention's
    product with the maps, pooling, batch norms and biases do not: together they are less than 1 %
    of the whole. `num_classes` is the variant's own unless it is given.
    """
    classes = variant.num_classes if num_classes is None else num_classes
    network = build(variant, num_classes=classes, in_channels=in_channels, init=False).eval()
    found = dict.fromkeys(STAGES, 0)
    for stage, place in zip(STAGES, _PLACES, strict=True):

        def count(module: nn.Module, _: object, output: Tensor, stage: str = stage) -> None:
            assert isinstance(module.weight, Tensor)
            found[stage] += output.numel() * module.weight[0].numel()

        for module in network.get_submodule(place).modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
    network(torch.empty(1, in_channels, size, size, device="meta"))  # computes shapes alone
    return found
