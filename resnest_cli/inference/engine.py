"""What runs the network: batches of photos in, logits out. Engines know no files, no terminal."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import UsageError

if TYPE_CHECKING:
    from resnest_cli.model.loading import Model

Float32 = NDArray[np.float32]


class Engine(Protocol):
    """A network with weights, ready to run."""

    name: str
    device: str

    def logits(self, batch: Float32) -> Float32:
        """Preprocessed photos (N, 3, H, W) -> logits (N, classes)."""
        ...


def create_engine(model: "Model", device: str = "auto") -> Engine:
    """The engine for this model on `device`: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: the machine has no such device.
    """
    from resnest_cli.inference.torch_engine import TorchEngine

    return TorchEngine(model.network(), device)


def check_device_name(device: str) -> None:
    """Tells a misspelt device before any weights are loaded.

    Raises:
        UsageError: not one of auto, cpu, cuda, cuda:N, mps.
    """
    kind, _, number = device.partition(":")
    if kind not in {"auto", "cpu", "cuda", "mps"} or (
        ":" in device and (kind != "cuda" or not number.isdecimal())
    ):
        raise UsageError(f"unknown device {device!r}: use auto, cpu, cuda, cuda:1 or mps.")
