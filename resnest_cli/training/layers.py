"""Parameters in groups that learn at different rates: without decay, and layer by layer.

Layer-wise decay of the learning rate comes from BEiT (arXiv 2106.08254); layers are those of
timm.optim.param_groups_layer_decay for a ResNeSt: the stem, each block, the classifier.
"""

import re
from collections import defaultdict
from typing import Any

from torch import nn

_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
_STEM = re.compile(r"(conv1|bn1)\.")


def layer_numbers(network: nn.Module) -> dict[str, int]:
    """The layer of each parameter, by name: 0 is the stem, blocks follow, the classifier is last.

    A network without stem and blocks, such as a classifier on cached features, is one layer.
    """
    names = [name for name, _ in network.named_parameters()]
    found = {m.groups() for m in map(_BLOCK.match, names) if m is not None}
    blocks = sorted(found, key=lambda place: (int(place[0]), int(place[1])))
    places = {place: number for number, place in enumerate(blocks, start=1)}
    last = len(blocks) + 1
    numbers = {}
    for name in names:
        block = _BLOCK.match(name)
        numbers[name] = places[block.groups()] if block else 0 if _STEM.match(name) else last
    return numbers


def parameter_groups(
    network: nn.Module, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Parameters that learn: weights with decay; norms and biases without; of each layer apart.

    `lr_scale` of a group is what its learning rate is multiplied by: layer_decay to the power of
    its distance from the classifier. With a layer decay of 1 there are two groups in all. What is
    frozen is left out. Follows timm.optim.param_groups_weight_decay and param_groups_layer_decay.
    """
    numbers = layer_numbers(network)
    last = max(numbers.values(), default=0)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            layer = numbers[name] if layer_decay != 1 else last
            groups[layer, parameter.dim() <= 1].append(parameter)
    return [
        {
            "params": groups[layer, bare],
            "weight_decay": 0.0 if bare else weight_decay,
            "lr_scale": layer_decay ** (last - layer),
        }
        for layer, bare in sorted(groups)
    ]
