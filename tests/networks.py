"""Small networks and lively weights for the tests.

A fresh network says little: the last gamma of every residual block starts at zero, so that nothing
inside the block reaches the output. `enliven` draws every parameter and every running statistic.
"""

from typing import Any, TypeVar

import pytest
import torch
from torch import nn

from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.model.variants import VARIANTS, Variant, get_variant

Network = TypeVar("Network", bound=nn.Module)

# Every mechanism of the table in a network of 70 thousand parameters: two blocks in a stage, radix
# softmax over two cardinal groups.
TINY = get_variant("resnest50d_2s2x40d").overridden(
    {"blocks": [1, 2, 1, 1], "widths": [16, 16, 16, 32], "stem_width": 8, "base_width": 32}
)

# Every variant; these take long, and have no block that the others lack: the deepest, and those
# whose radix and number of groups two others have.
_LONG = {"resnest101e", "resnest200e", "resnest269e", "resnest50d_1s2x40d", "resnest50d_2s2x40d"}


def slow_but(*quick: str) -> list[Any]:
    """Every variant, for `parametrize`: all but these are slow."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS]


EACH = slow_but(*(VARIANTS.keys() - _LONG))


@torch.no_grad()
def enliven(network: Network, seed: int = 0) -> Network:
    """Draws all tensors from `seed`: no gamma near 0, no variance near 0, maps of order 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue  # num_batches_tracked: counts, never read with a fixed momentum
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            value = 0.75 + 0.5 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        elif tensor.dim() == 1:
            value = 0.1 * noise
        else:
            value = noise * (2 / tensor[0].numel()) ** 0.5
        if name.endswith("bn3.weight"):
            value = value * 0.1  # keeps the sum over a hundred residual branches in range
        tensor.copy_(value)
    return network


def lively(
    variant: Variant | str, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any
) -> ResNeSt:
    """`enliven(build(...))` without drawing first what `enliven` replaces."""
    network = build(variant, init=False, **options).to_empty(device="cpu")
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.zero_()
    return enliven(network.to(dtype), seed)


def photos(
    batch: int, size: int, dtype: torch.dtype = torch.float64, seed: int = 1
) -> torch.Tensor:
    """Seeded normal noise of shape (batch, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64).to(dtype)
