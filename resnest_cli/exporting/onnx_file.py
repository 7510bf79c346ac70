"""The network as an .onnx file: float32, self-contained, its classes and preprocessing inside.

One input `photos`, float32 (batch, channels, height, width), all but the channels free; outputs
`features`, float32 (batch, num_features), pooled before the classifier, and `logits`, float32
(batch, num_classes), as the network gives them: probabilities are softmax(logits / temperature),
with the metadata's temperature (1 where there is none). So a new temperature needs no new graph,
and probabilities come out as `predict` rounds them.
"""

from typing import TYPE_CHECKING

from resnest_cli import __version__
from resnest_cli.errors import CheckpointError, EngineError, UsageError
from resnest_cli.exporting.description import exported_metadata
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.loading import Model

if TYPE_CHECKING:
    from onnx import ModelProto

DEFAULT_OPSET = 17  # read by ONNX Runtime since 1.12 (2022)


def check_opset(opset: int) -> None:
    """Tells an opset that the graph cannot have.

    Raises:
        UsageError: older than the graph's operators, or newer than the package onnx.
        EngineError: the package onnx cannot be loaded.
    """
    try:
        from onnx.defs import onnx_opset_version

        from resnest_cli.inference.onnx_graph import OLDEST_OPSET
    except Exception as error:  # missing, or a library that it needs
        raise EngineError(
            f"the package onnx cannot be loaded: {error}. Run: pip install onnx"
        ) from error
    if not OLDEST_OPSET <= opset <= onnx_opset_version():
        raise UsageError(
            f"--opset {opset}: use {OLDEST_OPSET} to {onnx_opset_version()}, the newest that the "
            "package onnx knows here."
        )


def onnx_model(model: Model, opset: int) -> "ModelProto":
    """The network with its weights inside, checked by the package onnx; without metadata.

    Raises:
        CheckpointError: the weights cannot be used.
    """
    from onnx import checker

    from resnest_cli.inference.onnx_engine import EXPORTED
    from resnest_cli.inference.onnx_graph import build_graph

    tensors = model.arrays(checked=True)
    proto = build_graph(model.variant, tensors, EXPORTED, opset=opset).standalone()
    for node in proto.graph.node:
        node.name = node.output[0]  # tools name what they do not like by it
    checker.check_model(proto, full_check=True)
    return proto


def serialized(proto: "ModelProto", info: CheckpointInfo) -> bytes:
    """The file's bytes, with what it says about itself.

    Raises:
        CheckpointError: class names and the like are too long for any reader.
    """
    assert info.variant
    proto.producer_name, proto.producer_version = "resnest-cli", __version__
    proto.doc_string = (
        f"{info.variant.id}: photos -> features, logits of {info.num_classes} classes. Classes, "
        "preprocessing and temperature are in metadata_props, as JSON."
    )
    del proto.metadata_props[:]
    for key, value in exported_metadata(info).items():
        if len(value) > _LONGEST:
            raise CheckpointError(f"{key} has {len(value):,} characters. Shorten it.")
        proto.metadata_props.add(key=key, value=value)
    data: bytes = proto.SerializeToString()
    return data


_LONGEST = 1 << 20
