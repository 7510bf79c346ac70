"""What a job that is resumed must find unchanged."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What decides the bits of an engine's answers, beside the model and the photos.

    A job that is resumed must find it unchanged. `device` tells the kind of processor, whose
    instruction set decides how sums are rounded; `batch_size` stands for the batch boundaries. The
    number of threads is not part of it: it changes no bit, see tests/inference/test_onnx_engine.py.
    """

    engine: str
    version: str
    precision: str
    device: str
    batch_size: int
