"""An .onnx network in 8 bits: static quantisation with ONNX Runtime's own tools.

Weights and activations become int8 and uint8 with a scale each (per output channel for weights),
between QuantizeLinear and DequantizeLinear, which runtimes turn into integer arithmetic. The ranges
of the activations are the least and largest values on the calibration photos.

Measured with resnest14t on 1,400 of Tiny ImageNet's validation photos, 200 others to calibrate, one
core with AVX-512 VNNI, ONNX Runtime 1.32; photos a second in batches of 8, all in turn:

    what has 8 bits                       same first class    top-1   photos/s
    nothing                                                  50.4 %        741
    everything                                      93.4 %   50.9 %      1,127
    everything, weights 7 bits                      93.6 %   50.1 %      1,122
    convolutions and classifier, 7 bits             92.9 %   50.1 %      1,072
    everything but the attention, 7 bits            92.9 %   50.4 %      1,096
    everything, 7 bits, ranges cut at 99.999 %      93.8 %   50.9 %      1,110

The differences between the last five are chance (one standard error is 0.7 points of agreement).
So everything has 8 bits, and weights use 7 of them (`reduce_range`): processors without VNNI add
products of 8 bits in 16, which overflow, and would give other answers than were measured.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import EngineError, ResnestError

if TYPE_CHECKING:
    from onnx import ModelProto

Float32 = NDArray[np.float32]


def quantized(proto: "ModelProto", batches: Iterable[Float32]) -> "ModelProto":
    """The network in 8 bits, calibrated on batches of photos (N, 3, H, W).

    Raises:
        ResnestError: there is no batch, or no room for temporary files.
        EngineError: ONNX Runtime's tools cannot do it.
    """
    import onnx

    try:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )
    except ImportError as error:
        raise EngineError(f"ONNX Runtime's quantisation cannot be loaded: {error}.") from error

    seen = 0

    class Photos(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            # One by one: every map of the network is kept until its range is known.
            self._photos = (batch[i : i + 1] for batch in batches for i in range(len(batch)))

        def get_next(self) -> dict[str, Any] | None:
            nonlocal seen
            photo = next(self._photos, None)
            seen += photo is not None
            return None if photo is None else {"photos": photo}

    try:
        with tempfile.TemporaryDirectory(prefix="resnest-int8-") as folder, _silent():
            target = Path(folder) / "int8.onnx"
            quantize_static(
                proto,
                str(target),
                Photos(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
            )
            return onnx.load(str(target))
    except ResnestError:
        raise
    except OSError as error:
        where = error.filename or tempfile.gettempdir()
        raise ResnestError(f"{where}: cannot be written: {error.strerror or error}.") from error
    except Exception as error:
        if not seen:
            raise ResnestError("no photo to calibrate with can be read.") from error
        raise EngineError(f"ONNX Runtime cannot quantise the network: {error}.") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Without the tools' advice to prepare the model: its batch norms are folded already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
