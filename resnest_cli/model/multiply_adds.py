"""Multiply-adds of a network, by stage, from the table alone. No torch.

Counted as in the table's `gmacs`: convolutions and linear layers, one for each product with a
weight; `model.resnest` is followed line by line. The attention's product with the maps, pooling,
batch norms and biases are not counted: together they are less than 1 % of the whole.
"""

from resnest_cli.model.variants import EXPANSION, Variant

STAGES = ("stem", "stage 1", "stage 2", "stage 3", "stage 4", "head")


def multiply_adds(
    variant: Variant, size: int, *, num_classes: int | None = None, in_channels: int = 3
) -> dict[str, int]:
    """Multiply-adds for one photo of `size` x `size` pixels, by the names of `STAGES`.

    `num_classes` is the variant's own unless it is given.
    """
    stem = variant.stem_width
    side = _half(size)
    found = {"stem": 9 * side**2 * (in_channels * stem + stem * stem + stem * 2 * stem)}
    side = _half(side)  # the max pool
    channels = 2 * stem
    for number, (width, blocks) in enumerate(zip(variant.widths, variant.blocks, strict=True), 1):
        total = 0
        for index in range(blocks):
            stride = 2 if number > 1 and index == 0 else 1
            total += _bottleneck(variant, channels, width, side, stride)
            side = _half(side) if stride == 2 else side
            channels = width * EXPANSION
        found[f"stage {number}"] = total
    classes = variant.num_classes if num_classes is None else num_classes
    found["head"] = channels * classes
    return found


def _bottleneck(variant: Variant, in_channels: int, width: int, side: int, stride: int) -> int:
    """A block whose input is (in_channels, side, side)."""
    group_width = int(width * (variant.base_width / 64)) * variant.cardinality
    out_channels = width * EXPANSION
    before = side**2  # pixels
    after = _half(side) ** 2 if stride == 2 else before
    inside = after if variant.avd_first else before  # where the split attention works
    total = before * in_channels * group_width
    total += inside * _split_convolution(variant, group_width) + _attention(variant, group_width)
    total += after * group_width * out_channels
    if stride > 1 or in_channels != out_channels:  # the shortcut is pooled first
        total += after * in_channels * out_channels
    return total


def _split_convolution(variant: Variant, channels: int) -> int:
    """The 3x3 convolution into the splits, for one pixel."""
    groups = variant.cardinality * variant.radix
    return 9 * (channels // groups) * channels * variant.radix


def _attention(variant: Variant, channels: int) -> int:
    """The two 1x1 convolutions on pooled maps, for one photo."""
    inner = max(channels * variant.radix // 4, 32)
    first = channels // variant.cardinality * inner
    second = inner // variant.cardinality * channels * variant.radix
    return first + second


def _half(side: int) -> int:
    return -(-side // 2)
