"""The 1x1 and 3x3 convolutions of a block, computed in training on a CPU in the quickest way.

Everywhere else, in evaluation above all, they are `nn.Conv2d`, whose keys they have.

`winograd` is minimal filtering F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks" (arXiv 1509.09308): the input is cut into overlapping tiles of 6x6, tiles and
kernels are transformed, multiplied element by element and added up over the channels, which is one
matrix product for each of the 36 elements, and transformed back into tiles of 4x4. A quarter of the
multiplications is left. Tiles lie as (36, tiles, channels): all transforms are one product, too.
Root mean square errors in float32, as shares of the values', of 256 to 128 channels in two groups
(`test_winograd` prints them): output 9e-7, gradient of the input 8e-7, of the kernels 7e-7; a
direct convolution's are 4e-7, 4e-7 and 1.5e-7, and with the usual points 0, 1, -1, 2, -2 all are
twice ours. In float64 results agree to 1e-13.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity
_OUT, _KERNEL, _IN = 4, 3, 6  # edges of a tile of the output, of a kernel, of a tile of the input


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
        """As `nn.Conv2d`, in the memory format of `x`."""
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
            in_channels, out_channels, kernel_size=3, stride=stride, padding=dilation,
            dilation=dilation, groups=groups, bias=False,
        )  # fmt: skip

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
            and _tiles(height) * _tiles(width) * _OUT**2 <= self.MAX_WASTE * height * width
        )


def winograd(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """What `F.conv2d(x, weight, padding=1, groups=groups)` computes, and its gradients.

    `x` (B, C, H, W) with channels last, `weight` (O, C / groups, 3, 3), both float32 or float64;
    the result (B, O, H, W) lies with channels last. The gradient can be taken once, not twice. For
    the backward pass the transformed input is kept, 2.25 times the map (H and W rounded up to
    fours).
    """
    return cast("Tensor", _Winograd.apply(x, weight, groups))


class _Matrices(NamedTuple):
    """The transforms of whole tiles, and their transposes, which the backward pass uses."""

    of_input: Tensor  # (36, 36)
    of_kernel: Tensor  # (36, 9)
    of_output: Tensor  # (16, 36)
    input_back: Tensor
    kernel_back: Tensor
    output_back: Tensor

    @classmethod
    def of(cls, dtype: torch.dtype) -> "_Matrices":
        return cls(*(torch.from_numpy(one).to(dtype) for one in _arrays()))


@lru_cache(1)
def _arrays() -> tuple[NDArray[np.float64], ...]:
    """Cook and Toom's construction: polynomials multiplied by their values at the points."""
    output, kernel = np.zeros((_OUT, _IN)), np.zeros((_IN, _KERNEL))
    source = np.zeros((_IN, _IN))
    for row, point in enumerate(_POINTS):
        others = [other for other in _POINTS if other != point]
        output[:, row] = point ** np.arange(_OUT)
        kernel[row] = point ** np.arange(_KERNEL) / np.prod([point - other for other in others])
        source[row, :-1] = np.poly(others)[::-1]
    output[-1, -1] = kernel[-1, -1] = 1  # infinity
    source[-1] = np.poly(_POINTS)[::-1]
    whole = [np.kron(one, one) for one in (source, kernel, output)]
    # Contiguous: a product with a transposed matrix of 16 rows takes three times as long.
    return *whole, *(np.ascontiguousarray(one.T) for one in whole)


class _Winograd(Function):
    """Names as in the paper: V the transformed input, U the kernels, M their products.

    Large tensors stand in one expression where that frees them at once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, groups: int) -> Tensor:
        by = _Matrices.of(x.dtype)
        batch, channels, height, width = x.shape
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        v = (by.of_input @ _cut_overlapping(x)).view(_IN**2, -1, channels)  # (36, T, C)
        shape = batch, len(weight), height, width
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        parts = zip(
            v.chunk(groups, dim=2),
            _transformed(weight, by).chunk(groups, dim=1),
            out.permute(0, 2, 3, 1).chunk(groups, dim=3),
            strict=True,
        )
        for values, u, place in parts:  # M: (36, T, O / groups)
            _join(by.of_output @ torch.bmm(values, u.transpose(1, 2)).flatten(1), place)
        ctx.save_for_backward(v if ctx.needs_input_grad[1] else None, weight)
        ctx.shape = x.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        v, weight = ctx.saved_tensors
        for_x, for_weight, _ = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):  # as in the forward pass
            of_x, of_weight = _gradients(grad, ctx.shape, weight, v, for_x=for_x)
        return of_x if for_x else None, of_weight if for_weight else None, None


def _gradients(
    grad: Tensor, shape: Sequence[int], weight: Tensor, v: Tensor | None, *, for_x: bool
) -> tuple[Tensor, Tensor]:
    """Of the input, whose shape is (B, H, W, C), if `for_x`; of the kernels where V was kept."""
    by = _Matrices.of(grad.dtype)
    _, height, width, channels = shape
    inputs = weight.shape[1]  # C / groups
    groups = channels // inputs
    kernels = len(weight) // groups
    u = _transformed(weight, by)
    of_x = _zeros_around(shape, grad)
    of_weight = weight.new_empty((_KERNEL**2, *weight.shape[:2]))
    for group, part in enumerate(grad.permute(0, 2, 3, 1).chunk(groups, dim=3)):
        mine = slice(group * inputs, (group + 1) * inputs)
        own = slice(group * kernels, (group + 1) * kernels)
        m = (by.output_back @ _cut(part)).view(_IN**2, -1, kernels)  # (36, T, O / groups)
        if v is not None:  # of U: (36, O / groups, C / groups)
            of_u = torch.bmm(m.transpose(1, 2), v[:, :, mine]).flatten(1)
            of_weight[:, own] = (by.kernel_back @ of_u).view(-1, kernels, inputs)
            del of_u
        if for_x:  # of V: (36, T, C / groups)
            of_v = torch.bmm(m, u[:, own]).flatten(1)
            _join_overlapping(by.input_back @ of_v, of_x[..., mine])
            del of_v
        del m
    inside = of_x[:, 1 : height + 1, 1 : width + 1].contiguous().permute(0, 3, 1, 2)
    ordered = of_weight.view(_KERNEL, _KERNEL, *weight.shape[:2]).permute(2, 3, 0, 1)
    return inside, torch.empty_like(weight).copy_(ordered)  # which lies as the weights do


def _transformed(weight: Tensor, by: _Matrices) -> Tensor:
    """Kernels (O, C / groups, 3, 3) -> (36, O, C / groups)."""
    rows = weight.permute(2, 3, 0, 1).reshape(_KERNEL**2, -1)
    return (by.of_kernel @ rows).view(_IN**2, *weight.shape[:2])


def _tiles(size: int) -> int:
    """How many tiles of the output cover so many pixels."""
    return -(-size // _OUT)


def _zeros_around(shape: Sequence[int], like: Tensor) -> Tensor:
    """Zeros for a map (B, H, W, C), one pixel around it, and more up to the edge of the tiles."""
    batch, height, width, channels = shape
    rows, columns = (_OUT * _tiles(size) + _IN - _OUT for size in (height, width))
    return like.new_zeros((batch, rows, columns, channels))


def _windows(padded: Tensor) -> Tensor:
    """The overlapping tiles in a padded map: (6, 6, B, rows, columns, C), a view."""
    batch, height, width, channels = padded.shape
    image, row, column, _ = padded.stride()
    shape = _IN, _IN, batch, height // _OUT, width // _OUT, channels
    return padded.as_strided(shape, (row, column, image, _OUT * row, _OUT * column, 1))


def _cut_overlapping(x: Tensor) -> Tensor:
    """The overlapping tiles of a map (B, H, W, C), which has zeros around it: (36, T * C)."""
    padded = _zeros_around(x.shape, x)
    padded[:, 1 : x.shape[1] + 1, 1 : x.shape[2] + 1] = x
    return _windows(padded).reshape(_IN**2, -1)


def _join_overlapping(tiles: Tensor, padded: Tensor) -> None:
    """The reverse: tiles (36, T * C) are added up in a padded map of zeros."""
    windows = _windows(padded)
    tiles = tiles.view(windows.shape)
    # Tiles of one of these four parts do not overlap.
    for rows in (slice(_OUT), slice(_OUT, _IN)):
        for columns in (slice(_OUT), slice(_OUT, _IN)):
            windows[rows, columns] += tiles[rows, columns]


def _cut(x: Tensor) -> Tensor:
    """The tiles of 4x4, which do not overlap, of a map (B, H, W, C): (16, T * C)."""
    batch, height, width, channels = x.shape
    shape = _OUT**2, batch * _tiles(height) * _tiles(width) * channels
    tiles = x.new_zeros(shape) if height % _OUT or width % _OUT else x.new_empty(shape)
    for tile, part in _pairs(tiles, x):
        tile.copy_(part)
    return tiles


def _join(tiles: Tensor, out: Tensor) -> None:
    """The reverse: tiles (16, T * C) to a map (B, H, W, C); what is beyond its edges is left."""
    for tile, part in _pairs(tiles, out):
        part.copy_(tile)


def _pairs(tiles: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the same pixels in tiles and map: whole tiles, and those cut off at the edges."""
    batch, height, width, channels = x.shape
    tiles = tiles.view(_OUT, _OUT, batch, _tiles(height), _tiles(width), channels)
    for top, rows, high in _whole_and_rest(height):
        for left, columns, wide in _whole_and_rest(width):
            part = x[:, top * _OUT :, left * _OUT :][:, : rows * high, : columns * wide]
            part = part.view(batch, rows, high, columns, wide, channels)
            tile = tiles[:high, :wide, :, top : top + rows, left : left + columns]
            yield tile, part.permute(2, 4, 0, 1, 3, 5)


def _whole_and_rest(size: int) -> list[tuple[int, int, int]]:
    """Runs of tiles: the first, how many, and how many of their pixels lie in a map this large."""
    whole, rest = divmod(size, _OUT)
    return [run for run in ((0, whole, _OUT), (whole, 1, rest)) if run[1] and run[2]]
