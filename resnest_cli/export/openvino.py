"""The network as OpenVINO's intermediate representation: model.xml and model.bin.

It is made of the .onnx file, so it has the same input and outputs; what that says about itself
stands in the .xml under `rt_info/resnest`, keys and values as in the .onnx file's metadata:

    model = openvino.Core().read_model("model.xml")
    model.get_rt_info(["resnest", "class_names"]).astype(str)  # JSON

With 16 bits the weights are stored as float16. What the network is computed in is the device's
choice: on a CPU with AMX it is bfloat16 unless INFERENCE_PRECISION_HINT says f32, as it does where
the file is compared here.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnest_cli.errors import EngineError, need
from resnest_cli.files import writing
from resnest_cli.images.batches import Float32
from resnest_cli.text import one_line


class Representation(NamedTuple):
    """The two files, and the version that wrote them."""

    xml: bytes
    weights: bytes
    version: str


def load_openvino() -> Any:
    """The package, which is an extra; MissingPackageError without it."""
    need("openvino", "an .xml")
    import openvino

    return openvino


def representation(onnx: bytes, metadata: Mapping[str, str], *, fp16: bool) -> Representation:
    """The files of a network that `formats.onnx_bytes` wrote."""
    openvino = load_openvino()
    temporary = tempfile.TemporaryDirectory(prefix="resnest-openvino-")
    with writing(Path(tempfile.gettempdir())), temporary as folder:
        target = Path(folder) / "model.xml"
        try:
            model = openvino.Core().read_model(onnx)
            for key, value in metadata.items():
                model.set_rt_info(value, ["resnest", key])
            openvino.save_model(model, str(target), compress_to_fp16=fp16)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO cannot convert the network: {one_line(str(error))}."
            ) from error
        files = target.read_bytes(), target.with_suffix(".bin").read_bytes()
    return Representation(*files, str(openvino.__version__))


def runner(found: Representation) -> Callable[[Float32], Float32]:
    """What runs it on the CPU, in float32: photos (N, channels, H, W) -> logits (N, classes)."""
    openvino = load_openvino()
    core = openvino.Core()
    weights = openvino.Tensor(np.frombuffer(found.weights, np.uint8))
    try:
        model = core.read_model(found.xml, weights)
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot run the network: {one_line(str(error))}.") from error

    def run(photos: Float32) -> Float32:
        try:
            return np.array(compiled(photos)["logits"], np.float32)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO cannot run the network: {one_line(str(error))}."
            ) from error

    return run
