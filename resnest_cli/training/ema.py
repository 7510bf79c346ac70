"""A moving average of the weights (EMA), which often validates better than the weights."""

import copy

import torch
from torch import nn


class Ema:
    """Keeps `network`, a copy in evaluation mode, as the average of the weights of each step.

    average <- d * average + (1 - d) * weights, with d = min(decay, (1 + step) / (10 + step)), so
    that short runs do not stay near the first weights (as timm's ModelEmaV3 with warm-up and
    TensorFlow's ExponentialMovingAverage). Running statistics are averaged like weights, counters
    are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._source = network
        self._decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after step number `step`, from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        mine, theirs = self.network.state_dict(), self._source.state_dict()
        floating = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [mine[name] for name in floating], [theirs[name] for name in floating], 1 - decay
        )
        for name, tensor in mine.items():
            if not tensor.is_floating_point():
                tensor.copy_(theirs[name])
