"""The engine that runs the torch network, on any device that torch knows."""

import numpy as np
import torch
from numpy.typing import NDArray

from resnest_cli.errors import UsageError
from resnest_cli.inference.compiled import cpu_features
from resnest_cli.inference.fingerprint import Fingerprint
from resnest_cli.model.resnest import ResNeSt


class TorchEngine:
    """The network in evaluation mode, float32, on one device."""

    name = "torch"

    def __init__(self, network: ResNeSt, device: str = "auto") -> None:
        self.device = resolve_device(device)
        self.network = network.eval().to(self.device)

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocessed photos (N, 3, H, W) -> logits (N, classes), float32."""
        return self.output(batch, "logits")

    def output(self, batch: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """Preprocessed photos (N, 3, H, W) -> one output, float32; see `onnx_graph.OUTPUTS`."""
        with torch.inference_mode():
            photos = torch.from_numpy(batch).to(self.device)
            if name == "logits":
                out = self.network(photos)
            elif name == "features":
                (last,) = self.network.forward_intermediates(photos, [4])
                out = self.network.forward_head(last, pre_logits=True)
            else:
                (out,) = self.network.forward_intermediates(photos, [int(name[-1])])
            return np.asarray(out.float().cpu().numpy(), dtype=np.float32)

    def fingerprint(self, batch_size: int) -> Fingerprint:
        """What decides the bits of its answers, beside the model and the photos."""
        kind = self.device.partition(":")[0]
        return Fingerprint(
            engine=self.name,
            version=str(torch.__version__),
            precision="float32",
            device=torch.cuda.get_device_name(self.device)
            if kind == "cuda"
            else f"{kind} {cpu_features()}",
            batch_size=batch_size,
        )


def resolve_device(device: str) -> str:
    """The torch device for auto, cpu, cuda, cuda:N or mps; auto takes an accelerator if any.

    Raises:
        UsageError: torch sees no such device here.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if cuda else 0
        number = int(device.partition(":")[2] or 0)
        if number >= count:
            raise UsageError(
                f"device {device} is not available: torch {torch.__version__} sees {count} CUDA "
                "device(s) here. Use --device cpu or auto, or install torch's CUDA build."
            )
    if device == "mps" and not mps:
        raise UsageError("device mps is not available here. Use --device cpu or auto.")
    return device
