"""What an .onnx file says about itself, and what it would have ONNX Runtime do. No torch.

`read_metadata` takes milliseconds: it needs neither the package onnx nor the weights. Source:
onnx.proto, the messages ModelProto (`metadata_props`, field 14) and StringStringEntryProto (`key`
1, `value` 2), in protobuf's encoding (https://protobuf.dev/programming-guides/encoding): fields one
after the other, each with its number and kind, so that all others are skipped unread.

An .onnx is a program: it may loop for ever, ask for any amount of memory and read other files. So a
file runs only if it is made as `resnest export` makes it, which is the structure of a convolutional
network with its weights inside: `check_structure`, which asks the package onnx, once, when a
network is compiled. Other files run where the user trusts them.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from resnest_cli.errors import CheckpointError, EngineError
from resnest_cli.files import reading
from resnest_cli.signals import StopRequest
from resnest_cli.text import quoted

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2  # numbers of fields
_VARINT, _COUNTED = 0, 2  # kinds of fields
_FIXED = {1: 8, 5: 4}  # bytes, by kind
_LONGEST = 8 << 20  # bytes of one entry, as of a checkpoint's header

# Those that `inference.onnx_graph` and the conversions to 16 and to 8 bits write. None loops or
# branches.
OPERATORS = {
    "Add", "AveragePool", "Cast", "Concat", "Conv", "DequantizeLinear", "Flatten", "Gemm",
    "GlobalAveragePool", "MaxPool", "Mul", "QuantizeLinear", "Relu", "Sigmoid", "Softmax", "Split",
    "Sub", "Sum",
}  # fmt: skip
_DOMAINS = {"", "ai.onnx"}
_LARGEST = 1 << 26  # elements of any value for one photo; ours have 1.6 million
_MOST_NODES = 20_000  # resnest269e with 8 bits has 6,000
_LARGEST_NUMBER = 1 << 16  # of an attribute, such as a kernel's side
_SIDE = 224  # pixels, where the file takes any size


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in `metadata_props`; empty where another program wrote none."""
    try:
        with reading(path, CheckpointError), path.open("rb") as file:
            found = {}
            for entry in _fields(file, os.fstat(file.fileno()).st_size, {_METADATA_PROPS}):
                texts = dict(_fields(io.BytesIO(entry[1]), len(entry[1]), {_KEY, _VALUE}))
                found[texts.get(_KEY, b"").decode()] = texts.get(_VALUE, b"").decode()
            return found
    except ValueError as error:
        raise CheckpointError(
            f"{path} is cut short or no ONNX file ({error}). Export or copy it again."
        ) from error


def _fields(file: BinaryIO, size: int, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of the wanted fields, of those with a length."""
    at = 0
    while at < size:
        file.seek(at)
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        if kind not in {_VARINT, _COUNTED, *_FIXED}:
            raise ValueError(f"unknown kind of field {kind}")
        length = _FIXED.get(kind, 0)
        if kind in {_VARINT, _COUNTED}:
            value = _varint(file)
            length = value if kind == _COUNTED else 0
        at = file.tell() + length
        if at > size:
            raise ValueError("a field goes beyond the end")
        if kind == _COUNTED and number in wanted:
            if length > _LONGEST:
                raise ValueError(f"an entry of the metadata has {length:,} bytes")
            yield number, file.read(length)


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number has no end")


def check_structure(path: Path, data: bytes) -> None:
    """Checks that a file is made as `resnest export` makes it; `data` is its content."""
    try:
        wrong = _foreign(_loaded(path, data))
    except (CheckpointError, EngineError):
        raise
    except Exception as error:  # onnx has many of its own for what is damaged or contradictory
        wrong = f"its graph is not sound ({quoted(str(error), 120)[1:-1]})"
    if wrong:
        raise CheckpointError(
            f"{path} is not run: {wrong}, unlike any file that `resnest export` writes. It could "
            "compute for ever, fill the memory or read other files. If you trust its origin: "
            "--trust-onnx."
        )


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside an .onnx in which it keeps its tensors, sorted; all in its own folder."""
    with reading(path, CheckpointError):
        data = path.read_bytes()
    entries = [entry for tensor in _tensors(_loaded(path, data).graph)
               for entry in tensor.external_data]  # fmt: skip
    names = sorted({entry.value for entry in entries if entry.key == "location"})
    folder = path.parent.resolve()
    for name in names:
        found = (folder / name).resolve()
        if not found.is_relative_to(folder) or not found.is_file():
            raise CheckpointError(
                f"{path} keeps its tensors in {quoted(name)}, which is not in its folder. Copy "
                "both together."
            )
    return tuple(path.parent / name for name in names)


def _loaded(path: Path, data: bytes) -> "ModelProto":
    """The graph, without what external files hold."""
    with needed("onnx"):
        import onnx
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or no ONNX file. Copy it again.") from error


@contextmanager
def needed(package: str) -> Iterator[None]:
    """Turns whatever keeps a package, or a library of it, from being imported into EngineError."""
    before = StopRequest.last
    try:
        yield
    except Exception as error:
        if StopRequest.last is not None and StopRequest.last is not before:
            raise StopRequest.last from None  # which code in C turns into an ImportError
        raise EngineError(
            f"the package {package} cannot be loaded: {error}. Run: pip install {package}"
        ) from error


def _tensors(graph: "GraphProto") -> "list[TensorProto]":
    """All tensors of a graph, of the graphs inside it and of its nodes."""
    found = list(graph.initializer)
    for sparse in graph.sparse_initializer:
        found += [sparse.values, sparse.indices]
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t, *attribute.tensors]
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    found += _tensors(inner)
    return found


def _foreign(model: "ModelProto") -> str:
    """What ours never have, in words; empty where there is nothing of the kind."""
    graph = model.graph
    domains = [opset.domain for opset in model.opset_import if opset.domain not in _DOMAINS]
    if domains:
        return f"it uses operators of {quoted(domains[0])}"
    if model.functions or model.training_info or graph.sparse_initializer:
        return "it has functions, training or sparse tensors"
    if len(graph.node) > _MOST_NODES:
        return f"it has {len(graph.node):,} nodes"
    wrong = [*map(_wrong_node, graph.node), *map(_wrong_tensor, graph.initializer)]
    return next(filter(None, wrong), "") or _too_large(model)


def _wrong_node(node: "NodeProto") -> str:
    if node.op_type not in OPERATORS or node.domain not in _DOMAINS:
        return f"it uses the operator {quoted(node.op_type)}"
    if not all(map(_is_small, node.attribute)):
        return f"its operator {node.op_type} has an attribute that is large or no number"
    return ""


def _is_small(attribute: Any) -> bool:
    numbers = [attribute.i, attribute.f, *attribute.ints, *attribute.floats]
    return (
        not any(map(attribute.HasField, ("t", "g", "tp", "sparse_tensor")))
        and not (attribute.tensors or attribute.graphs or attribute.type_protos)
        and not attribute.strings
        and len(attribute.s) < 100
        and len(numbers) < 20
        and all(abs(number) < _LARGEST_NUMBER for number in numbers)
    )


def _wrong_tensor(tensor: "TensorProto") -> str:
    """Empty where a tensor's numbers stand in the file, as many as it says."""
    from onnx import numpy_helper

    if tensor.external_data or tensor.data_location:
        return f"its tensor {quoted(tensor.name)} stands in another file"
    try:
        numpy_helper.to_array(tensor)
    except Exception:  # of several kinds
        return f"its tensor {quoted(tensor.name)} has not the numbers that it says"
    return ""


def _too_large(model: "ModelProto") -> str:
    """Names a value that would be huge, or of unknown size, for one photo; drops the numbers."""
    from onnx import TensorProto, shape_inference

    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.INT64:  # sizes, as of a Split
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.ClearField("int32_data")
    for value in model.graph.input:
        for place, side in enumerate(value.type.tensor_type.shape.dim):
            if not side.HasField("dim_value"):
                side.dim_value = 1 if place == 0 else _SIDE
    del model.graph.value_info[:]  # what the file says of them
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    for node in graph.node:
        for name in node.output:
            if not 0 < prod(shapes.get(name) or [0]) <= _LARGEST:
                return f"its value {quoted(name)} is huge or of unknown size"
    return ""
