"""The weights of split attention: how much each split counts for each channel of a photo.

Read while the network runs, by forward hooks; `SplitAttention.attention` computes them (paper,
arXiv 2004.08955, section 3.1).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnest_cli.model.resnest import ResNeSt, SplitAttention


@dataclass(frozen=True, slots=True)
class Block:
    """The attention in one block, `block` of `stage`, both from 1.

    `weights` are float32 (radix, C) in [0, 1]: of `radix` > 1 splits, a channel's add up to one.
    The C channels belong to `cardinality` groups, one after the other.
    """

    stage: int
    block: int
    cardinality: int
    weights: NDArray[np.float32]

    @property
    def preferred(self) -> tuple[float, ...]:
        """The share of the channels that each split weighs most for."""
        radix, channels = self.weights.shape
        counts = np.bincount(self.weights.argmax(axis=0), minlength=radix)
        return tuple(float(count) / channels for count in counts)

    @property
    def strength(self) -> float:
        """Mean weight of the split that a channel prefers: 1 / radix to 1; mean gate of radix 1."""
        return float(self.weights.max(axis=0).mean())


@contextmanager
def watched(network: ResNeSt) -> Iterator[list[Block]]:
    """A list that each run of the network on one photo, in the body, appends its blocks to."""
    found: list[Block] = []

    def watch(stage: int, block: int, split: SplitAttention) -> "torch.utils.hooks.RemovableHandle":
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], splits: Tensor) -> None:
            weights = split.attention(splits)[0]  # (radix, C), of the first photo
            array = weights.detach().float().cpu().numpy()
            found.append(Block(stage, block, split.cardinality, array))

        # What the attention is computed from: the splits (B, radix * C, H, W) after act0.
        return split.act0.register_forward_hook(hook)

    handles = [
        watch(stage, block, split)
        for stage, blocks in enumerate(network.stages(), start=1)
        for block, split in enumerate(_split_attentions(blocks), start=1)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _split_attentions(blocks: nn.Module) -> list[SplitAttention]:
    return [module for module in blocks.modules() if isinstance(module, SplitAttention)]
