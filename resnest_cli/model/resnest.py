"""ResNeSt, the split-attention network, top to bottom: SplitAttention, Bottleneck, ResNeSt, build.

Source: "ResNeSt: Split-Attention Networks" (arXiv 2004.08955). Module names, and so the keys of the
state dict, are those of the original release (resnest.torch) and of timm, whose weights load
unchanged. Shapes in comments: B batch, C channels, H and W height and width of the map at hand.

Deviations from the references, none of which changes what published weights compute:
- Each radix split is pooled first and the small vectors are added; the references add the maps.
- Stochastic depth drops the residual branch (arXiv 1603.09382). In timm's ResNeSt block it acts on
  the block's input and does nothing without a downsample.
- DropBlock stands where the original Gluon code has it: after bn1, after the split attention and
  after bn3 of every block of the last two stages. The original torch code only raises for it.
- Dilated networks (output stride 8 or 16) follow the original release, which was trained so;
  timm drops the strided pooling of the first dilated block and pools its shortcut.
- In training the weighted sum of the splits has a backward pass of its own, and on a CPU small
  maps go through a matrix product, see `Pointwise`.
- Activation checkpointing updates batch norm's running statistics once, not twice.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from resnest_cli.model.variants import EXPANSION, Variant, get_variant

STAGES = (0, 1, 2, 3, 4)  # the stem's map and those of layer1 to layer4


class Pointwise(nn.Conv2d):
    """1x1 convolution without bias: (B, in_channels, H, W) -> (B, out_channels, H, W).

    Deviation in means: in training on a CPU, with channels last, maps of up to 16 pixels go through
    one matrix product. oneDNN's convolutions reach a third of its rate there; a training step of
    resnest14d at 64 pixels is 1.08 times as fast (2 cores with AVX-512).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`, in the memory format of `x`."""
        batch, channels, height, width = x.shape
        if (
            not self.training  # exporters would take the map's size for fixed
            or x.device.type != "cpu"
            or height * width > 16
            or not x.is_contiguous(memory_format=torch.channels_last)
        ):
            return super().forward(x)
        rows = x.permute(0, 2, 3, 1).reshape(-1, channels)  # (B * H * W, C), a view
        out = F.linear(rows, self.weight.flatten(1), self.bias)  # (B * H * W, out_channels)
        return out.view(batch, height, width, -1).permute(0, 3, 1, 2)


class SplitAttention(nn.Module):
    """3x3 convolution into `radix` splits, weighted by attention over them (paper, section 3.1).

    Input and output: (B, channels, H, W); the spatial size is kept. `cardinality` groups share
    nothing but the batch. The attention is a softmax over the splits, or a sigmoid when there is
    only one. Follows resnest.torch.splat.SplAtConv2d.
    """

    def __init__(
        self, channels: int, *, radix: int, cardinality: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.radix = radix
        self.cardinality = cardinality
        inner = max(channels * radix // 4, 32)
        self.conv = nn.Conv2d(
            channels, channels * radix, 3, stride, padding=dilation, dilation=dilation,
            groups=cardinality * radix, bias=False,
        )  # fmt: skip
        self.bn0 = nn.BatchNorm2d(channels * radix)
        self.act0 = nn.ReLU(inplace=True)
        self.fc1 = nn.Conv2d(channels, inner, kernel_size=1, groups=cardinality)
        self.bn1 = nn.BatchNorm2d(inner)
        self.act1 = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(inner, channels * radix, kernel_size=1, groups=cardinality)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H, W)."""
        x = self.act0(self.bn0(self.conv(x)))  # (B, radix * C, H, W)
        # Under autocast the softmax is float32, and the map must not become so.
        weights = self.attention(x).to(x.dtype)[..., None, None]  # (B, radix, C, 1, 1)
        return weighted_sum(x, weights, training=self.training)  # (B, C, H, W)

    def attention(self, splits: Tensor) -> Tensor:
        """Weight of every channel of every split: (B, radix * C, H, W) -> (B, radix, C) in [0, 1].

        Over `radix` > 1 splits the weights of a channel add up to one.
        """
        # A sum, not a mean, whose gradient would be written out as a whole map.
        pooled = splits.sum(dim=(2, 3)) / splits[0, 0].numel()  # (B, radix * C)
        gap = pooled.view(splits.shape[0], self.radix, -1).sum(dim=1)  # (B, C)
        inner = self.act1(self.bn1(self.fc1(gap[..., None, None])))  # (B, inner, 1, 1)
        logits: Tensor = self.fc2(inner)  # (B, cardinality * radix * C / cardinality, 1, 1)
        if self.radix == 1:
            return logits.flatten(2).transpose(1, 2).sigmoid()  # (B, 1, C)
        # fc2 puts the groups first and the splits second, the convolution the splits first.
        grouped = logits.view(logits.shape[0], self.cardinality, self.radix, -1)
        return grouped.transpose(1, 2).softmax(dim=1).flatten(2)  # (B, radix, C)


def weighted_sum(splits: Tensor, weights: Tensor, *, training: bool) -> Tensor:
    """Splits (B, radix * C, H, W) and weights (B, radix, C, 1, 1) -> their sum (B, C, H, W).

    Both of one dtype. Follows the end of resnest.torch.splat.SplAtConv2d.forward. In `training` the
    gradient can be taken once, not twice; a whole step of resnest50d at 224 pixels, batch 16, with
    channels last is 1.07 times as fast so (2 cores). What is compiled or exported takes the plain
    expression, which a compiler fuses better than we do.
    """
    if training and not torch.compiler.is_compiling():
        return cast("Tensor", _WeightedSum.apply(splits, weights))
    return _weighted_sum(splits, weights)


def _weighted_sum(splits: Tensor, weights: Tensor) -> Tensor:
    # One product and sum after the other: in training, with channels last, the whole network
    # is 1.1 times as fast as with a product over (B, radix, C, H, W) and its sum.
    first, *others = splits.chunk(weights.shape[1], dim=1)  # radix of (B, C, H, W)
    total = first * weights[:, 0]
    for index, split in enumerate(others, start=1):
        total = torch.addcmul(total, split, weights[:, index])
    return total


class _WeightedSum(Function):
    """`_weighted_sum`; autograd would make a gradient of every split and copy them together."""

    @staticmethod
    def forward(ctx: Any, splits: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(splits, weights)
        return _weighted_sum(splits, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        splits, weights = ctx.saved_tensors
        radix = weights.shape[1]
        of_splits, of_weights = torch.empty_like(splits), torch.empty_like(weights)
        product = torch.empty_like(grad)
        pairs = zip(splits.chunk(radix, dim=1), of_splits.chunk(radix, dim=1), strict=True)
        for index, (split, place) in enumerate(pairs):
            torch.mul(grad, weights[:, index], out=place)
            torch.mul(grad, split, out=product)  # (B, C, H, W)
            torch.sum(product, dim=(2, 3), keepdim=True, out=of_weights[:, index])
        return of_splits, of_weights


class DropBlock(nn.Module):
    """Zeroes square blocks of a map in training and scales the rest (arXiv 1810.12890, alg. 1).

    (B, C, H, W) -> (B, C, H, W). `rate` is the share of units to drop, in [0, 1). The block is
    `size` wide, or as wide as the map allows. Block centres are drawn where a whole block fits, per
    photo and channel, as in torchvision.ops.drop_block2d, whose import would double the start-up.
    """

    def __init__(self, rate: float, size: int = 3) -> None:
        super().__init__()
        self.rate = rate
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """The identity in evaluation."""
        if not self.training or self.rate == 0:
            return x
        height, width = x.shape[-2:]
        size = min(self.size, height, width)
        rows, columns = height - size + 1, width - size + 1
        gamma = min(1.0, self.rate * height * width / (size * size * (rows * columns)))
        corners = x.new_empty((*x.shape[:2], rows, columns)).bernoulli_(gamma)
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
        """The identity in evaluation."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty((len(x), 1, 1, 1)).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)


class Bottleneck(nn.Module):
    """The residual block: 1x1 convolution, split attention, 1x1 convolution (paper, figure 2).

    (B, in_channels, H, W) -> (B, width * 4, H / stride, W / stride), odd sizes rounded up. The
    stride is taken by average pooling after the split attention, or before it (`avd_first`).
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        variant: Variant,
        *,
        stride: int = 1,
        dilation: int = 1,
        pool: bool = False,
        downsample: nn.Sequential | None = None,
        drop_block_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        group_width = variant.group_width(width)
        out_channels = width * EXPANSION
        # A pool of stride 1 smooths the first block of a dilated stage, as the original does.
        avd = nn.AvgPool2d(3, stride, padding=1) if pool else None
        self.conv1 = Pointwise(in_channels, group_width)
        self.bn1 = nn.BatchNorm2d(group_width)
        self.drop_block1 = DropBlock(drop_block_rate)
        self.act1 = nn.ReLU(inplace=True)
        self.avd_first = avd if variant.avd_first else None
        self.conv2 = SplitAttention(
            group_width, radix=variant.radix, cardinality=variant.cardinality, dilation=dilation
        )
        self.drop_block2 = DropBlock(drop_block_rate)
        self.avd_last = None if variant.avd_first else avd
        self.conv3 = Pointwise(group_width, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.drop_block3 = DropBlock(drop_block_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.downsample = downsample
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width * 4, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        branch: Tensor = self.act1(self.drop_block1(self.bn1(self.conv1(x))))  # (B, G, H, W)
        if self.avd_first is not None:
            branch = self.avd_first(branch)
        branch = self.drop_block2(self.conv2(branch))
        if self.avd_last is not None:
            branch = self.avd_last(branch)
        branch = self.drop_block3(self.bn3(self.conv3(branch)))  # (B, width * 4, H / s, W / s)
        branch = self.drop_path(branch)
        branch += shortcut
        out: Tensor = self.act3(branch)
        return out


class ResNeSt(nn.Module):
    """The network: deep stem, four stages of bottlenecks, pooled features, classifier.

    Input: float (B, in_channels, H, W), normalised as `variant.preprocessing` says; output: logits
    (B, num_classes). `build` makes one.
    """

    def __init__(
        self,
        variant: Variant,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        output_stride: Literal[8, 16, 32] = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_block_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.variant = variant
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_features = variant.num_features
        self.grad_checkpointing = False
        stem = variant.stem_width
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem, stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem, stem * 2, 3, padding=1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(stem * 2)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        stages = _make_stages(variant, output_stride, drop_path_rate, drop_block_rate)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.dropout = nn.Dropout(drop_rate)
        self.fc = _classifier(self.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> last map (B, num_features, H / 32, W / 32)."""
        return self.forward_intermediates(x, stages=(4,))[0]

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Last map (B, num_features, h, w) -> logits (B, num_classes).

        With `pre_logits` the pooled features (B, num_features), in training after dropout.
        """
        pooled: Tensor = self.dropout(x.mean(dim=(2, 3)))  # (B, num_features)
        if pre_logits:
            return pooled
        logits: Tensor = self.fc(pooled)
        return logits

    def forward_intermediates(self, x: Tensor, stages: Iterable[int] = STAGES) -> list[Tensor]:
        """The maps of the chosen stages, in ascending order, as timm's `features_only` gives them.

        Stage 0 is the stem before its pooling, (B, 2 * stem_width, H / 2, W / 2); stages 1 to 4 are
        (B, 4 * widths[i], H / r, W / r) with r = 4, 8, 16, 32 (less where dilated). Nothing is
        computed beyond the last stage asked for.

        Raises:
            ValueError: no stage, or one outside 0 to 4.
        """
        wanted = sorted(set(stages))
        if not wanted or not set(wanted) <= set(STAGES):
            raise ValueError(f"stages must be a choice of {STAGES}, not {wanted}")
        maps = []
        x = self.act1(self.bn1(self.conv1(x)))  # (B, 2 * stem, H / 2, W / 2)
        if 0 in wanted:
            maps.append(x)
        if wanted[-1] > 0:
            x = self.maxpool(x)  # (B, 2 * stem, H / 4, W / 4)
        for number, stage in enumerate(self.stages()[: wanted[-1]], start=1):
            for block in stage:
                x = self._run(block, x)
            if number in wanted:
                maps.append(x)
        return maps

    def stages(self) -> tuple[nn.Sequential, ...]:
        """The four stages of bottlenecks."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the classifier by one of `num_classes` outputs, freshly drawn; 0 removes it."""
        weight = self.bn1.weight
        self.fc = _classifier(self.num_features, num_classes).to(weight.device, weight.dtype)
        self.num_classes = num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades time for memory in training: block inputs are kept, the rest computed again."""
        self.grad_checkpointing = enable

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            contexts = lambda: (nullcontext(), _frozen_statistics(block))  # noqa: E731
            return cast("Tensor", checkpoint(block, x, use_reentrant=False, context_fn=contexts))
        return cast("Tensor", block(x))


def _classifier(num_features: int, num_classes: int) -> nn.Module:
    return nn.Linear(num_features, num_classes) if num_classes > 0 else nn.Identity()


def _make_stages(
    variant: Variant, output_stride: int, drop_path_rate: float, drop_block_rate: float
) -> list[nn.Sequential]:
    """The four stages, layer1 to layer4; follows resnest.torch.resnet.ResNet._make_layer."""
    stages = []
    in_channels = variant.stem_width * 2
    depth = sum(variant.blocks)
    net_stride, dilation, done = 4, 1, 0
    for number, (width, blocks) in enumerate(zip(variant.widths, variant.blocks, strict=True)):
        stride = 1 if number == 0 else 2
        first_dilation = dilation
        if net_stride * stride > output_stride:
            # The first block keeps the dilation of the stage before, the others double it.
            stride, dilation = 1, dilation * 2
        net_stride *= stride
        stage = nn.Sequential()
        for index in range(blocks):
            first = index == 0
            downsample = None
            if first and (stride > 1 or in_channels != width * EXPANSION):
                downsample = _downsample(in_channels, width * EXPANSION, stride)
            block = Bottleneck(
                in_channels,
                width,
                variant,
                stride=stride if first else 1,
                dilation=first_dilation if first else dilation,
                pool=first and number > 0,
                downsample=downsample,
                drop_block_rate=drop_block_rate if number >= 2 else 0.0,
                # The linear decay rule of the stochastic-depth paper, section 4.
                drop_path_rate=drop_path_rate * done / max(depth - 1, 1),
            )
            stage.append(block)
            in_channels = width * EXPANSION
            done += 1
        stages.append(stage)
    return stages


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    pool: nn.Module = nn.Identity()
    if stride > 1:  # an odd edge is averaged over the pixels that exist
        pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, Pointwise(in_channels, out_channels), nn.BatchNorm2d(out_channels))


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norm in training mode, but its running statistics and counters stay as they are."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Not track_running_stats: checkpointing wants the same tensors saved on both runs.
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked


@torch.no_grad()
def init_weights(model: ResNeSt, *, zero_init_last: bool = True) -> None:
    """Draws every parameter anew and resets every buffer, as the references do.

    Convolutions: normal with variance 2 / fan_out (He et al., arXiv 1502.01852); biases and the
    classifier: torch's default; batch norm: identity, but the last gamma of every residual block is
    0 unless `zero_init_last` is off, so that the block starts as its shortcut (arXiv 1706.02677).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                nn.init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()
    for module in model.modules():
        if zero_init_last and isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)


def build(
    variant: Variant | str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    output_stride: Literal[8, 16, 32] = 32,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    drop_block_rate: float = 0.0,
    init: bool = True,
) -> ResNeSt:
    """A network of this variant (a record, an id or an alias): training mode, float32, on the CPU.

    `drop_rate` is dropout before the classifier, `drop_path_rate` stochastic depth of the last
    block (earlier ones less, linearly), `drop_block_rate` DropBlock in the last two stages; all in
    [0, 1) and active in training only. With `init=False` nothing is drawn or allocated: the tensors
    stand on torch's meta device until `load_state_dict(..., assign=True)` puts weights in place.

    Raises:
        UnknownModelError: no variant of that name.
        ValueError: a rate, stride or number out of range.
    """
    if isinstance(variant, str):
        variant = get_variant(variant)
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, not {output_stride}")
    if num_classes < 0 or in_channels < 1:
        raise ValueError(f"bad num_classes {num_classes} or in_channels {in_channels}")
    rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate,
             "drop_block_rate": drop_block_rate}  # fmt: skip
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must lie in [0, 1), not {rate}")
    with torch.device("meta"):
        model = ResNeSt(
            variant, num_classes=num_classes, in_channels=in_channels, output_stride=output_stride,
            **rates,
        )  # fmt: skip
    if init:
        model.to_empty(device="cpu")
        init_weights(model)
    return model
