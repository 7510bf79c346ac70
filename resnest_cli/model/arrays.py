"""The tensors of a file of weights as numpy arrays, for engines that need no torch.

Safetensors and the plain kind of torch.save's files are read here; of all others, and of whatever
is wrong with a file, `checkpoint.load` takes care.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from resnest_cli.errors import CheckpointError
from resnest_cli.model.container import file_kind, read_header
from resnest_cli.model.pickled_arrays import read_pickled
from resnest_cli.model.state_dict import clean_names

_FLOATS = {"F16", "F32", "F64"}  # numpy has no bfloat16
_COUNTER = ".num_batches_tracked"


def read_arrays(path: Path) -> dict[str, NDArray[np.float32]] | None:
    """Cleaned name -> float32 tensor, finite, without batch norm's counters.

    None where torch has to look: see above.
    """
    try:
        raw = _safetensors(path) if file_kind(path) == "safetensors" else read_pickled(path)
        if raw is None:
            return None
        arrays = {}
        shapes = {name: array.shape for name, array in raw.items()}
        for clean, name in clean_names(path, shapes).names.items():
            array = raw.pop(name)
            if clean.endswith(_COUNTER):
                continue
            with np.errstate(over="ignore"):  # shows as infinite below
                value = array.astype(np.float32, copy=False)
            if array.dtype.kind != "f" or not np.isfinite(value).all():
                return None
            arrays[clean] = value
    except (CheckpointError, OSError):
        return None
    return arrays


def _safetensors(path: Path) -> dict[str, NDArray[Any]] | None:
    names = read_header(path).shapes
    try:
        with safe_open(path, framework="numpy") as file:
            kinds = {file.get_slice(name).get_dtype() for name in names if _COUNTER not in name}
            return {name: file.get_tensor(name) for name in names} if kinds <= _FLOATS else None
    except (SafetensorError, ValueError, TypeError):
        return None
