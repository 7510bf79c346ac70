"""What an .onnx file would have ONNX Runtime do, found out before it is run.

An .onnx is a program: it may loop for ever, ask for any amount of memory and read other files. So a
file runs only if it is made as `resnest export` makes it, which is the structure of a convolutional
network with its weights inside: `check_structure`. Other files run where the user trusts them.

The package onnx reads them; it takes 0.1 s to import and is asked when a network is compiled.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import CheckpointError, EngineError
from resnest_cli.model.state_dict import shortened

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

# Those that `inference.onnx_graph` and the quantisation to 8 bits write. None loops or branches.
OPERATORS = {
    "Add", "AveragePool", "Concat", "Conv", "DequantizeLinear", "Flatten", "Gemm",
    "GlobalAveragePool", "MaxPool", "Mul", "QuantizeLinear", "Relu", "Sigmoid", "Softmax", "Split",
    "Sub", "Sum",
}  # fmt: skip
_LARGEST = 1 << 26  # elements of any value for one photo; ours have 1.6 million
_MOST_NODES = 20_000  # resnest269e with 8 bits has 6,000
_LARGEST_NUMBER = 1 << 16  # of an attribute, such as a kernel's side
_SIDE = 224  # pixels, where the file takes any size


def check_structure(path: Path, data: bytes) -> None:
    """Whether a file is made as `resnest export` makes it; `data` is its content.

    Raises:
        CheckpointError: it is not; names the first thing that ours never have, and the remedy.
        EngineError: the package onnx cannot be loaded.
    """
    try:
        wrong = _foreign(_loaded(path, data))
    except (CheckpointError, EngineError):
        raise
    except Exception as error:  # onnx has many of its own for what is damaged or contradictory
        wrong = f"its graph is not sound ({shortened(str(error), 120)[1:-1]})"
    if wrong:
        raise CheckpointError(
            f"{path} is not run: {wrong}, unlike any file that `resnest export` writes. It could "
            "compute for ever, fill the memory or read other files. If you trust its origin: "
            "--trust-onnx."
        )


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside an .onnx in which it keeps its tensors, sorted.

    Raises:
        CheckpointError: it is no ONNX file, or one of the files is missing or not in its folder.
        EngineError: the package onnx cannot be loaded.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    names = sorted({
        entry.value for tensor in _tensors(_loaded(path, data).graph)
        for entry in tensor.external_data if entry.key == "location"
    })  # fmt: skip
    folder = path.parent.resolve()
    for name in names:
        found = (folder / name).resolve()
        if not found.is_relative_to(folder) or not found.is_file():
            raise CheckpointError(
                f"{path} keeps its tensors in {shortened(name)}, which is not in its folder. Copy "
                "both together."
            )
    return tuple(path.parent / name for name in names)


def _loaded(path: Path, data: bytes) -> "ModelProto":
    """The graph, without what external files hold."""
    try:
        import onnx
    except Exception as error:  # missing, or a library that it needs
        raise EngineError(
            f"the package onnx, which looks into {path}, cannot be loaded: {error}. Run: "
            "pip install onnx"
        ) from error
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or no ONNX file. Copy it again.") from error


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
    domains = [opset.domain for opset in model.opset_import if opset.domain not in {"", "ai.onnx"}]
    if domains:
        return f"it uses operators of {shortened(domains[0])}"
    if model.functions or model.training_info or graph.sparse_initializer:
        return "it has functions, training or sparse tensors"
    if len(graph.node) > _MOST_NODES:
        return f"it has {len(graph.node):,} nodes"
    wrong = (
        *(_wrong_node(node) for node in graph.node),
        *(_wrong_tensor(tensor) for tensor in graph.initializer),
    )
    return next(filter(None, wrong), "") or _too_large(model)


def _wrong_node(node: "NodeProto") -> str:
    if node.op_type not in OPERATORS or node.domain not in {"", "ai.onnx"}:
        return f"it uses the operator {shortened(node.op_type)}"
    if not all(map(_is_small, node.attribute)):
        return f"its operator {node.op_type} has an attribute that is large or no number"
    return ""


def _is_small(attribute: Any) -> bool:
    numbers = [attribute.i, attribute.f, *attribute.ints, *attribute.floats]
    return (
        not (attribute.HasField("t") or attribute.HasField("g") or attribute.HasField("tp"))
        and not (attribute.tensors or attribute.graphs or attribute.type_protos)
        and not attribute.HasField("sparse_tensor")
        and len(attribute.s) < 100
        and not attribute.strings
        and len(numbers) < 20
        and all(abs(number) < _LARGEST_NUMBER for number in numbers)
    )


def _wrong_tensor(tensor: "TensorProto") -> str:
    """Empty where a tensor's numbers stand in the file, as many as it says."""
    from onnx import numpy_helper

    if tensor.external_data or tensor.data_location:
        return f"its tensor {shortened(tensor.name)} stands in another file"
    try:
        numpy_helper.to_array(tensor)
    except Exception:  # of several kinds
        return f"its tensor {shortened(tensor.name)} has not the numbers that it says"
    return ""


def _too_large(model: "ModelProto") -> str:
    """Names a value that would be huge, or whose size nobody knows, for one photo.

    The numbers of tensors are dropped on the way: shapes alone count.
    """
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
            elements = 1
            for side in shapes.get(name) or [0]:
                elements *= side
            if not 0 < elements <= _LARGEST:
                return f"its value {shortened(name)} is huge or of unknown size"
    return ""
