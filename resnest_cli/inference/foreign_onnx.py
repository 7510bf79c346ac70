"""A classifier as .onnx that another program wrote, of any architecture, in ONNX Runtime. No torch.

It serves as a teacher. It takes one float input (N, 3, H, W) and gives one output (N, classes),
logits or probabilities; whatever else it takes or gives is refused in words. What it needs to know
beside that may stand in the file's metadata (`metadata_props`): the names of its classes, `size`
(Ultralytics: `imgsz`), `mean` and `std`.
"""

import ast
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from resnest_cli.errors import CheckpointError, UsageError
from resnest_cli.files import reading
from resnest_cli.inference.onnx_engine import runtime_errors, session_options
from resnest_cli.model.labels import KEYS, find_class_names
from resnest_cli.model.onnx_file import check_structure, external_files, read_metadata
from resnest_cli.text import count

Float32 = NDArray[np.float32]

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_TINY = np.finfo(np.float32).tiny  # whose logarithm stands for that of a probability of 0
_SIDES = range(1, 8193)  # of photos, in pixels
_BYTES = 10.0  # from which a mean or a deviation is for pixels in [0, 255]
_PROBED = 2  # photos, of which the first is black and the other noise
_SUM = 1e-2  # how far from 1 probabilities may sum, as of float16


@dataclass(frozen=True, slots=True)
class OnnxInput:
    """What the only input is: its name, dtype, and batch size and side where they are fixed."""

    name: str
    dtype: type
    batch: int | None
    side: int | None


class ForeignOnnx:
    """A foreign classifier, on the CPU.

    `size` is the side of its input in pixels, `batch` how many photos it takes at once where that
    is fixed.
    """

    def __init__(self, path: Path, *, size: int | None = None, trusted: bool = False) -> None:
        """Opens the file; `size` is for one that takes any, and must fit one that does not.

        Raises:
            CheckpointError: no classifier of photos, damaged, or unsafe while not `trusted`.
            UsageError: the size is not known, or is another one.
            EngineError: ONNX Runtime cannot run it.
        """
        self.path = path
        metadata = read_metadata(path)
        self._session = _opened(path, trusted=trusted)
        self._input = _only_input(path, self._session)
        self.batch = self._input.batch
        self.size = _side(path, self._input.side, size, metadata)
        self._log = False
        found = self._probed()
        self.num_classes: int = found.shape[1]
        # Logits that are all in [0, 1] and sum to 1, twice, are as good as impossible.
        sums = found.sum(axis=1, dtype=np.float64)
        self._log = self.num_classes > 1 and bool(
            (found >= 0).all() and np.all(abs(sums - 1) < _SUM)
        )
        self.mean, self.std = (_channels(metadata.get(name)) for name in ("mean", "std"))
        around = {key: _parsed(text) for key, text in metadata.items() if key in KEYS}
        self.class_names, self.notes = find_class_names([around], self.num_classes)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, and those beside it with its tensors."""
        return (self.path, *external_files(self.path))

    def logits(self, batch: Float32) -> Float32:
        """Preprocessed photos (N, 3, H, W) -> logits (N, classes), float32.

        Of a network that gives probabilities, their logarithms.
        """
        size = len(batch) if self.batch is None else self.batch
        photos: NDArray[Any] = np.ascontiguousarray(batch, self._input.dtype)
        parts = []
        for start in range(0, len(photos), max(1, size)):
            part = photos[start : start + size]
            if missing := size - len(part):  # a network for batches of one size
                part = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
            with runtime_errors(self.path):
                (found,) = self._session.run(None, {self._input.name: part})
            parts.append(np.asarray(found))
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        answers = whole[: len(photos)].astype(np.float32, copy=False)
        return np.log(np.maximum(answers, _TINY)) if self._log else answers

    def _probed(self) -> Float32:
        """Its answers to a black photo and to noise."""
        photos = np.zeros((_PROBED, 3, self.size, self.size), np.float32)
        photos[1:] = np.random.default_rng(0).standard_normal(photos[1:].shape, np.float32)
        found = self.logits(photos)
        if found.ndim != 2 or len(found) != _PROBED:
            raise CheckpointError(
                f"{self.path} answers {_PROBED} photos with {_shape(found.shape)} numbers; a "
                "classifier gives (photos, classes). Export it with its classifier and nothing "
                "after it."
            )
        if not np.isfinite(found).all():
            raise CheckpointError(
                f"{self.path} answers with numbers that are not finite. Export it in float32."
            )
        return found


def _opened(path: Path, *, trusted: bool) -> ort.InferenceSession:
    source: str | bytes = str(path)  # as files with its tensors lie beside it
    if trusted:
        external_files(path)  # raises where they are not in its folder
    else:
        with reading(path, CheckpointError):
            source = path.read_bytes()
        check_structure(path, source)
    with runtime_errors(path):
        return ort.InferenceSession(source, session_options(packed=True), ["CPUExecutionProvider"])


def _only_input(path: Path, session: ort.InferenceSession) -> OnnxInput:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise CheckpointError(
            f"{path} has {count(len(inputs), 'input')} and {count(len(outputs), 'output')} "
            f"({_names(inputs)}; {_names(outputs)}); a classifier has one of each: photos and "
            "logits. Export it with these alone."
        )
    (node,) = inputs
    shape = list(node.shape)
    numbers = [side if isinstance(side, int) and side > 0 else None for side in shape]
    where = f"{path}: its input {node.name} {_shape(shape)}"
    if len(shape) == 4 and numbers[3] == 3 and numbers[1] != 3:
        raise CheckpointError(
            f"{where} has the colours last (NHWC, as of TensorFlow); photos are given as "
            "(N, 3, H, W). Export it with its input as NCHW: tf2onnx has --inputs-as-nchw."
        )
    if len(shape) != 4 or numbers[1] not in {3, None} or numbers[2] != numbers[3]:
        raise CheckpointError(f"{where} is not (N, 3, side, side), a batch of square RGB photos.")
    if node.type not in _TYPES:
        raise CheckpointError(
            f"{where} is of {node.type}; photos are given as float, normalised. Export it with an "
            "input of float32."
        )
    return OnnxInput(node.name, _TYPES[node.type], numbers[0], numbers[2])


def _side(path: Path, fixed: int | None, given: int | None, metadata: Mapping[str, str]) -> int:
    if fixed is None and given is None:
        given = _said_side(metadata)
    if fixed is None and given is None:
        raise UsageError(
            f"{path} takes photos of any size and does not say for which it was trained: give "
            "--teacher-size, such as 224."
        )
    if fixed is not None and given not in {None, fixed}:
        raise UsageError(
            f"--teacher-size {given}: {path} takes {fixed} x {fixed} pixels only. Leave it out."
        )
    return fixed or given or 0


def _said_side(metadata: Mapping[str, str]) -> int | None:
    """The side of square photos in the metadata: "224", or "[224, 224]" as of Ultralytics."""
    value = _parsed(metadata.get("size") or metadata.get("imgsz"))
    sides = value if isinstance(value, list) else [value]
    if not all(isinstance(side, int) and side == sides[0] and side in _SIDES for side in sides):
        return None
    return sides[0] if sides else None


def _channels(text: str | None) -> tuple[float, float, float] | None:
    """Numbers in the metadata, such as "[0.485, 0.456, 0.406]", "1,2,3", or "0.5" for all three.

    None of numbers for pixels in [0, 255], such as 123.675, since pixels here lie in [0, 1].
    """
    value = _parsed(f"[{text}]" if text and not text.strip().startswith(("[", "(")) else text)
    with contextlib.suppress(TypeError, ValueError):
        red, green, blue = map(float, value * 3 if len(value) == 1 else value)
        return (red, green, blue) if max(abs(red), abs(green), abs(blue)) < _BYTES else None
    return None


def _parsed(text: str | None) -> Any:
    """A value written as JSON, or as Python does (Ultralytics' `names`); None where it is none."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            value = read(text or "")
            return dict(value) if isinstance(value, Mapping) else value
    return None


def _names(nodes: Sequence[Any]) -> str:
    return ", ".join(f"{node.name} {_shape(node.shape)}" for node in nodes[:4])


def _shape(sides: Sequence[Any]) -> str:
    return "(" + ", ".join("?" if side is None else str(side) for side in sides) + ")"
