"""What drops parts of the network in training: DropBlock and stochastic depth.

Neither has parameters, so neither shows in a state dict. torchvision.ops has both, but importing
torchvision doubles the start-up time of a program that only predicts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropBlock(nn.Module):
    """Zeroes square blocks of a map in training and scales the rest (arXiv 1810.12890, alg. 1).

    (B, C, H, W) -> (B, C, H, W). `rate` is the share of units to drop, in [0, 1). The block is
    `size` wide, or as wide as the map allows. Block centres are drawn where a whole block fits, per
    photo and channel, as in torchvision.ops.drop_block2d.
    """

    def __init__(self, rate: float, size: int = 3) -> None:
        super().__init__()
        self.rate = rate
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Drops blocks in training; the identity in evaluation."""
        if not self.training or self.rate == 0:
            return x
        height, width = x.shape[-2:]
        size = min(self.size, height, width)
        positions = (height - size + 1) * (width - size + 1)
        gamma = min(1.0, self.rate * height * width / (size * size * positions))
        corners = torch.empty(
            (*x.shape[:2], height - size + 1, width - size + 1), dtype=x.dtype, device=x.device
        ).bernoulli_(gamma)
        # Padded by size - 1 all around, the maximum over a window spreads a corner to its block.
        dropped = F.max_pool2d(F.pad(corners, [size - 1] * 4), kernel_size=size, stride=1)
        kept = 1 - dropped
        return x * kept * (kept.numel() / kept.sum().clamp(min=1))


class DropPath(nn.Module):
    """Stochastic depth: drops the whole branch of a photo in training (arXiv 1603.09382).

    (B, C, H, W) -> (B, C, H, W). `rate`, in [0, 1), is the probability to drop; what is kept is
    scaled by 1 / (1 - rate), so that evaluation needs no scaling.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drops branches in training; the identity in evaluation."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.empty((len(x), 1, 1, 1), dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(1 - self.rate).div_(1 - self.rate)
