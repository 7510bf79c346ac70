"""The network as an ONNX graph, built block by block from the table and the tensors. No torch.

Source: `model.resnest`, whose order this file keeps; operators of ONNX as they are since opset 13.
The graph computes what the torch network computes in evaluation mode, for any batch, height and
width.

Deviations, none of which changes the answer but in the last bits:
- Batch norms are folded into the convolution before them, in float64, then rounded to float32.
- The softmax over two splits is a sigmoid of the difference of their logits, and their weighted sum
  one interpolation.
- The shortcut's ceil-mode average pool is written with padding at the end that is not counted:
  the same numbers, and no doubt about the size of the output.
- Where the channels of a split fill the runtime's blocks, each split has convolutions of its own.

Convolutions of each split's own spare the copies of its map: 0.94 to 0.98 of the CPU time of one
for all, by variant (ONNX Runtime 1.32, one core with AVX-512).

Whoever changes the graph raises `onnx_cache.GRAPH_VERSION`.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from resnest_cli.model.state_dict import COUNTER
from resnest_cli.model.variants import EXPANSION, Variant

OUTPUTS = ("map0", "map1", "map2", "map3", "map4", "features", "logits")

OPSET = 17  # unless another is asked for
OLDEST_OPSET = 13  # before it Split and Softmax were other operators
_BLOCK = 16  # channels that the runtime's convolutions work on at once, with AVX-512; 8 without
_EPSILON = 1e-5  # of torch's BatchNorm2d

Array = NDArray[Any]
Float64 = NDArray[np.float64]


class Graph(NamedTuple):
    """A graph whose large tensors stand beside it, so that they need not be copied into it."""

    model: ModelProto  # names them as external data
    weights: dict[str, NDArray[np.float32]]

    def standalone(self) -> ModelProto:
        """One self-contained model, as a file for others holds it; below 2 GB, as protobuf asks."""
        model = ModelProto()
        model.CopyFrom(self.model)
        for tensor in model.graph.initializer:
            if tensor.name in self.weights:
                tensor.ClearField("external_data")
                tensor.data_location = TensorProto.DEFAULT
                tensor.raw_data = self.weights[tensor.name].tobytes()
        return model


def build_graph(
    variant: Variant,
    tensors: dict[str, Array],
    outputs: Iterable[str] = ("logits",),
    opset: int = OPSET,
) -> Graph:
    """The graph of a network with these weights.

    Args:
        variant: the architecture; classes and input channels are read off the tensors.
        tensors: the state dict, float32, under the names of `model.resnest`. It is emptied on the
            way, so that it and the folded tensors are never whole at once.
        outputs: any of `OUTPUTS`; the graph has them in the order given and computes no more than
            they need.
        opset: version of ONNX's operators, from `OLDEST_OPSET` to the newest of the package onnx.

    The input is `photos`, float32 (B, in_channels, H, W). `map0` is the stem's map before its
    pooling, (B, 2 * stem_width, H / 2, W / 2), and `map1` to `map4` those of the stages, as
    `ResNeSt.forward_intermediates` gives them; `features` are the pooled features (B, num_features)
    and `logits` (B, num_classes).

    Raises:
        ValueError: an unknown output; a tensor is missing, unknown or of another shape.
    """
    outputs = tuple(outputs)
    if not outputs or len(set(outputs)) < len(outputs) or not set(outputs) <= set(OUTPUTS):
        raise ValueError(f"outputs must be a choice of {OUTPUTS}, not {outputs}")
    builder = _Builder(tensors)
    in_channels = builder.shape("conv1.0.weight", 4)[1]
    last = max(OUTPUTS.index(name) for name in outputs)
    shapes = _network(builder, variant, in_channels, last)
    builder.check_all_used(last)
    graph = GraphProto(
        name=variant.id,
        node=builder.nodes,
        initializer=builder.initializers,
        input=[_described("photos", ["batch", in_channels, "height", "width"])],
        output=[_described(name, shapes[name]) for name in outputs],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        graph,
        opset_imports=opsets,
        # The one that came with the opset, so that older runtimes read the graph.
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="resnest-cli",
    )
    return Graph(model, builder.weights)


def _described(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


class _Builder:
    """Collects nodes and tensors; its methods take and return names of values."""

    def __init__(self, tensors: dict[str, Array]) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.weights: dict[str, NDArray[np.float32]] = {}
        self._tensors = tensors
        self._constants: dict[tuple[int, ...], str] = {}

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Shape of a tensor of so many dimensions."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.ndim != dimensions:
            raise ValueError(f"{name} is missing or not of {dimensions} dimensions")
        return tensor.shape

    def tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        """Takes a tensor out of the state dict; it must have this shape."""
        if name not in self._tensors or self._tensors[name].shape != shape:
            raise ValueError(f"{name} is missing or not of shape {shape}")
        return self._tensors.pop(name)

    def check_all_used(self, last: int) -> None:
        """ValueError if a tensor has no place in the network up to the output number `last`."""
        beyond = tuple(f"layer{n}." for n in range(last + 1, 5))
        beyond += () if last == OUTPUTS.index("logits") else ("fc.",)
        rest = [name for name in self._tensors if not name.endswith(COUNTER)]
        unknown = [name for name in rest if not name.startswith(beyond)]
        if unknown:
            raise ValueError(f"the network has no {unknown[0]}")

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node with one output."""
        name = output or f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def split(self, x: str, parts: int, size: int, axis: int) -> list[str]:
        """Cuts a value into equal parts."""
        names = [f"Split{len(self.nodes)}.{part}" for part in range(parts)]
        sizes = (size,) * parts
        if sizes not in self._constants:
            name = self._constants[sizes] = f"integers{len(self._constants)}"
            tensor = helper.make_tensor(name, TensorProto.INT64, [parts], sizes)
            self.initializers.append(tensor)
        inputs = [x, self._constants[sizes]]
        self.nodes.append(helper.make_node("Split", inputs, names, axis=axis))
        return names

    def weight(self, name: str, value: Array) -> str:
        """Puts a tensor beside the graph."""
        array = np.ascontiguousarray(value, np.float32)
        self.weights[name] = array
        tensor = TensorProto(
            name=name,
            data_type=TensorProto.FLOAT,
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        # The runtime is given the array by name; these three only have to be there.
        for key, text in (("location", "memory"), ("offset", "0"), ("length", str(array.nbytes))):
            tensor.external_data.add(key=key, value=text)
        self.initializers.append(tensor)
        return name

    def folded(self, conv: str, norm: str, shape: tuple[int, ...]) -> tuple[Float64, Float64]:
        """Weight and bias, float64, of a convolution followed by a batch norm."""
        channels = shape[:1]
        mean, variance, gamma, beta = (
            self.tensor(f"{norm}.{part}", channels).astype(np.float64)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gamma / np.sqrt(variance + _EPSILON)
        weight = self.tensor(f"{conv}.weight", shape) * scale[:, None, None, None]
        bias: Array = np.zeros(channels)
        if f"{conv}.bias" in self._tensors:
            bias = self.tensor(f"{conv}.bias", channels)
        return weight, (bias - mean) * scale + beta

    def conv(self, x: str, name: str, weight: Array, bias: Array, **attributes: Any) -> str:
        """A convolution with this weight and bias, kept as `<name>.weight` and `<name>.bias`."""
        inputs = x, self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias)
        return self.op("Conv", *inputs, kernel_shape=weight.shape[2:], **attributes)

    def conv_norm(
        self, x: str, conv: str, norm: str, shape: tuple[int, ...], **attributes: Any
    ) -> str:
        """A convolution with a weight of this shape, and its batch norm."""
        return self.conv(x, conv, *self.folded(conv, norm, shape), **attributes)


def _network(b: _Builder, variant: Variant, in_channels: int, last: int) -> dict[str, list[Any]]:
    """Writes the network up to OUTPUTS[last]; returns the shape of every output on the way."""
    same: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    stem = variant.stem_width
    x = "photos"  # (B, in_channels, H, W)
    x = b.conv_norm(x, "conv1.0", "conv1.1", (stem, in_channels, 3, 3), strides=[2, 2], **same)
    x = b.conv_norm(b.op("Relu", x), "conv1.3", "conv1.4", (stem, stem, 3, 3), **same)
    x = b.conv_norm(b.op("Relu", x), "conv1.6", "bn1", (stem * 2, stem, 3, 3), **same)
    x = b.op("Relu", x, output="map0")  # (B, 2 * stem, H / 2, W / 2)
    shapes: dict[str, list[Any]] = {"map0": ["batch", stem * 2, "height0", "width0"]}
    if last == 0:
        return shapes
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], **same)  # (B, 2 * stem, H/4, W/4)
    channels = stem * 2
    for stage, (width, blocks) in enumerate(zip(variant.widths, variant.blocks, strict=True), 1):
        for index in range(blocks):
            stride = 2 if stage > 1 and index == 0 else 1
            output = f"map{stage}" if index == blocks - 1 else None
            x = _bottleneck(b, x, f"layer{stage}.{index}", variant, channels, width, stride, output)
            channels = width * EXPANSION
        shapes[x] = ["batch", channels, f"height{stage}", f"width{stage}"]
        if last == stage:
            return shapes
    x = b.op("Flatten", b.op("GlobalAveragePool", x), output="features")  # (B, num_features)
    shapes["features"] = ["batch", channels]
    if last == OUTPUTS.index("logits"):
        (classes,) = b.shape("fc.bias", 1)
        weight = b.weight("fc.weight", b.tensor("fc.weight", (classes, channels)))
        bias = b.weight("fc.bias", b.tensor("fc.bias", (classes,)))
        b.op("Gemm", x, weight, bias, output="logits", transB=1)  # (B, classes)
        shapes["logits"] = ["batch", classes]
    return shapes


def _bottleneck(
    b: _Builder, x: str, name: str, variant: Variant, in_channels: int, width: int, stride: int,
    output: str | None,
) -> str:  # fmt: skip
    """(B, in_channels, H, W) -> (B, width * 4, H / stride, W / stride), odd sizes rounded up."""
    group_width = variant.group_width(width)
    out_channels = width * EXPANSION
    pool: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    pool["count_include_pad"] = 1  # as torch by default

    shortcut = x
    if stride > 1 or in_channels != out_channels:
        if stride > 1:
            # As ceil_mode: an odd edge is averaged over the pixels that exist.
            halves: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
            shortcut = b.op("AveragePool", x, **halves, auto_pad="SAME_UPPER")
        shape = (out_channels, in_channels, 1, 1)
        shortcut = b.conv_norm(shortcut, f"{name}.downsample.1", f"{name}.downsample.2", shape)

    before = pool if stride > 1 and variant.avd_first else None
    splits = _splits(b, x, name, variant, in_channels, group_width, before)
    branch = _attention(b, splits, f"{name}.conv2", variant, group_width)  # (B, G, H, W)
    if stride > 1 and not variant.avd_first:
        branch = b.op("AveragePool", branch, **pool)
    branch = b.conv_norm(branch, f"{name}.conv3", f"{name}.bn3", (out_channels, group_width, 1, 1))
    return b.op("Relu", b.op("Add", branch, shortcut), output=output)


def _splits(
    b: _Builder, x: str, name: str, variant: Variant, in_channels: int, channels: int,
    pool: dict[str, Any] | None,
) -> list[str]:  # fmt: skip
    """(B, in_channels, H, W) -> radix of (B, channels, H, W): the block's first convolution, a pool
    where there is one, and the convolution into the splits.

    The groups of the second convolution are sorted by split, so that each split is made of its own
    part of the first one's channels, and the two convolutions fall into `radix` pairs.
    """
    radix, groups = variant.radix, variant.cardinality
    conv1, conv2 = f"{name}.conv1", f"{name}.conv2.conv"
    weight1, bias1 = b.folded(conv1, f"{name}.bn1", (channels, in_channels, 1, 1))
    shape = (channels * radix, channels // (groups * radix), 3, 3)
    weight2, bias2 = b.folded(conv2, f"{name}.conv2.bn0", shape)
    parts = radix if channels % (radix * _BLOCK) == 0 else 1
    made = []
    for part in range(parts):
        own = f".{part}" if parts > 1 else ""
        rows1, rows2 = (
            slice(part * count // parts, (part + 1) * count // parts)
            for count in (channels, channels * radix)
        )
        y = b.op("Relu", b.conv(x, conv1 + own, weight1[rows1], bias1[rows1]))
        if pool is not None:
            y = b.op("AveragePool", y, **pool)
        group = groups * radix // parts
        pads = [1, 1, 1, 1]
        y = b.conv(y, conv2 + own, weight2[rows2], bias2[rows2], pads=pads, group=group)
        made.append(b.op("Relu", y))  # (B, radix / parts * C, H, W)
    return made if parts == radix else b.split(made[0], radix, channels, axis=1)


def _attention(b: _Builder, splits: list[str], name: str, variant: Variant, channels: int) -> str:
    """radix of (B, channels, H, W) -> their weighted sum, of the same shape."""
    radix, groups = variant.radix, variant.cardinality
    inner = max(channels * radix // 4, 32)
    pooled = [b.op("GlobalAveragePool", split) for split in splits]
    gap = b.op("Sum", *pooled) if radix > 1 else pooled[0]  # (B, C, 1, 1)
    shape = (inner, channels // groups, 1, 1)
    hidden = b.conv_norm(gap, f"{name}.fc1", f"{name}.bn1", shape, group=groups)
    hidden = b.op("Relu", hidden)  # (B, inner, 1, 1)

    # fc2 has the groups first and the splits second: (groups, radix, C / groups) -> (radix, C).
    weight = b.tensor(f"{name}.fc2.weight", (channels * radix, inner // groups, 1, 1))
    bias = b.tensor(f"{name}.fc2.bias", (channels * radix,))
    weights, biases = (
        rows.reshape(groups, radix, channels // groups, *rows.shape[1:])
        .swapaxes(0, 1)
        .reshape(radix, channels, *rows.shape[1:])
        .astype(np.float64)
        for rows in (weight, bias)
    )
    if radix == 1:
        logits = b.conv(hidden, f"{name}.fc2", weights[0], biases[0], group=groups)
        return b.op("Mul", splits[0], b.op("Sigmoid", logits))
    if radix == 2:
        first, second = splits
        weight, bias = weights[0] - weights[1], biases[0] - biases[1]
        logits = b.conv(hidden, f"{name}.fc2", weight, bias, group=groups)
        change = b.op("Mul", b.op("Sub", first, second), b.op("Sigmoid", logits))
        return b.op("Add", second, change)  # (B, C, H, W)
    each = [
        b.conv(hidden, f"{name}.fc2.{index}", weights[index], biases[index], group=groups)
        for index in range(radix)
    ]
    logits = b.op("Concat", *each, axis=2)  # (B, C, radix, 1)
    attention = b.split(b.op("Softmax", logits, axis=2), radix, 1, axis=2)  # radix of (B, C, 1, 1)
    weighted = [b.op("Mul", split, a) for split, a in zip(splits, attention, strict=True)]
    return b.op("Sum", *weighted)  # (B, C, H, W)
