"""The network as a .pt2 file, for torch.export.load: ATen operators, weights, metadata.

Batch, height and width are free. The program takes photos, float32 (batch, channels, height,
width), and gives logits, float32 (batch, num_classes), without the temperature. What the file says
about itself is the text `resnest.json` in it: one JSON object of texts, the keys and values of an
.onnx file's metadata.

    files = {"resnest.json": ""}
    program = torch.export.load("model.pt2", extra_files=files).module()
"""

import io
import json
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim

from resnest_cli.exporting.description import exported_metadata
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.resnest import ResNeSt

NOTE = "resnest.json"

Float32 = NDArray[np.float32]


def serialized(network: ResNeSt, info: CheckpointInfo) -> bytes:
    """The file's bytes, from a network in evaluation mode on the CPU."""
    assert info.preprocessing
    size = info.preprocessing.size
    example = torch.zeros(2, network.in_channels, size, size)  # 1 would count as fixed
    shapes = {0: Dim("batch", min=1), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=(shapes,))
    file = io.BytesIO()
    texts = json.dumps(exported_metadata(info), ensure_ascii=False, sort_keys=True)
    torch.export.save(program, file, extra_files={NOTE: texts})
    return file.getvalue()


def runner(data: bytes) -> Callable[[Float32], Float32]:
    """What runs the file: photos (N, channels, H, W) -> logits (N, classes)."""
    program = torch.export.load(io.BytesIO(data)).module()

    def run(photos: Float32) -> Float32:
        with torch.inference_mode():
            logits: Float32 = program(torch.from_numpy(photos)).numpy()
        return logits

    return run
