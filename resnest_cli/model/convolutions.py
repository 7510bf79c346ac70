"""The convolutions of a block, which in training on a CPU are computed in the quickest way.

Everywhere else, in evaluation above all, they are `nn.Conv2d`, whose keys they have.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnest_cli.model.winograd import pixels_of_tiles, winograd


class Pointwise(nn.Conv2d):
    """1x1 convolution without bias: (B, in_channels, H, W) -> (B, out_channels, H, W).

    Deviation in means: in training on a CPU, with channels last, maps of up to 16 pixels go through
    one matrix product. oneDNN's convolutions reach a third of its rate there; a training step of
    resnest14d at 64 pixels is 1.08 times as fast (2 cores with AVX-512).
    """

    SMALL = 16  # pixels

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W), in the memory format of `x`."""
        batch, channels, height, width = x.shape
        if (
            not self.training  # exporters would take the map's size for fixed
            or x.device.type != "cpu"
            or height * width > self.SMALL
            or not x.is_contiguous(memory_format=torch.channels_last)
        ):
            return super().forward(x)
        rows = x.permute(0, 2, 3, 1).reshape(-1, channels)  # (B * H * W, C), a view
        out = F.linear(rows, self.weight.flatten(1), self.bias)  # (B * H * W, out_channels)
        return out.view(batch, height, width, -1).permute(0, 3, 1, 2)


class SplitConvolution(nn.Conv2d):
    """3x3 convolution without bias, padded by its dilation, which keeps the size at stride 1.

    Deviation in means: in training on a CPU, with channels last, groups of many channels go through
    `winograd`, with a quarter of the multiplications. A training step of resnest50d at 224 pixels
    or of resnest14d at 64 takes 0.92 of the time (2 cores with AVX-512). The gradient can then be
    taken once, not twice.
    """

    MIN_CHANNELS = 128  # of a group
    MIN_PIXELS = 1000  # of all maps of a batch
    MAX_WASTE = 1.5  # pixels of tiles for a pixel of a map

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, dilation: int, groups: int
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size=3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=groups,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        if self.training and self._pays(x):
            return winograd(x, self.weight, self.groups)
        return super().forward(x)

    def _pays(self, x: Tensor) -> bool:
        """Whether Winograd's way is quicker; measured on two cores, forward and backward pass."""
        batch, _, height, width = x.shape
        return (
            self.weight.shape[1] >= self.MIN_CHANNELS
            and self.bias is None  # folding gives it one
            and self.stride == self.dilation == (1, 1)
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype in {torch.float32, torch.float64}
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and x.is_contiguous(memory_format=torch.channels_last)
            and batch * height * width >= self.MIN_PIXELS
            and pixels_of_tiles(height, width) <= self.MAX_WASTE * height * width
        )
