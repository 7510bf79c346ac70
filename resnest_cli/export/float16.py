"""An .onnx network in 16 bits: half the size, for runtimes that compute so.

Weights and maps become float16; `photos` and the outputs stay float32, as programs that use the
file give and want them, with a cast after and before. ONNX Runtime's own tool
(`onnxruntime.transformers.float16`) does the same, but leaves the nodes in an order that
`onnx.checker` refuses. ONNX Runtime's CPU has no convolutions of float16: it computes them in
float32 between casts, so a speed is gained on GPUs and in other runtimes only.
"""

from typing import TYPE_CHECKING

import numpy as np

from resnest_cli.errors import CheckpointError

if TYPE_CHECKING:
    from onnx import ModelProto

_INPUT = "photos"


def halved(proto: "ModelProto") -> "ModelProto":
    """A copy of a network of ours, float32, in float16.

    Raises:
        CheckpointError: a weight that is too large for 16 bits.
    """
    import onnx
    from onnx import TensorProto, checker, helper, numpy_helper

    found = onnx.ModelProto()
    found.CopyFrom(proto)
    graph = found.graph
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue  # sizes, as of a Split
        with np.errstate(over="ignore"):
            values = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"--fp16: the weights {tensor.name} have numbers beyond 65,504, the largest of 16 "
                "bits. Export the network without it."
            )
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    outputs = {value.name for value in graph.output}
    names = {name: f"{name}_16" for name in (_INPUT, *outputs)}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    casts = [(_INPUT, names[_INPUT], TensorProto.FLOAT16)]
    casts += [(names[name], name, TensorProto.FLOAT) for name in sorted(outputs)]
    first, *last = (
        helper.make_node("Cast", [before], [after], name=f"cast_{after}", to=kind)
        for before, after, kind in casts
    )
    nodes = [first, *graph.node, *last]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    checker.check_model(found, full_check=True)
    return found
