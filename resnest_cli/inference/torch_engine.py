"""The engine that runs the torch network, on any device that torch knows.

Batch norms are folded (`model.folding`), and maps lie in memory with their channels last, which is
quicker on CPUs and on GPUs with tensor cores; not on mps, where it was not tried. By default all is
float32 as torch runs it. With `amp` the weights are kept, and the convolutions run, in half
precision under torch's autocast, which leaves sums and softmax in float32. With `compiled` the
network goes through torch.compile for a fixed batch: the first one, to which smaller ones are
padded; `graphs` records it as a CUDA graph for such batches. Nothing here was measured on an
accelerator.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from resnest_cli.errors import EngineError, UsageError
from resnest_cli.inference.compiled import cpu_features
from resnest_cli.inference.fingerprint import Fingerprint
from resnest_cli.inference.fixed_batches import FixedBatches, compiling, recording
from resnest_cli.inference.run_options import Amp
from resnest_cli.model.folding import folded
from resnest_cli.model.resnest import ResNeSt

_DTYPES = {"off": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class BatchTooLargeError(EngineError):
    """A batch does not fit into the device's memory."""


class TorchEngine:
    """The network in evaluation mode on one device; keeps a copy with its batch norms folded."""

    name = "torch"

    def __init__(
        self,
        network: ResNeSt,
        device: str = "auto",
        *,
        amp: Amp = "off",
        compiled: bool = False,
        graphs: bool = False,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.device = resolve_device(device)
        self._kind = self.device.partition(":")[0]
        self._dtype = _DTYPES[amp]
        if amp == "float16" and self._kind == "cpu":
            raise UsageError("--amp float16 needs an accelerator; a CPU computes in bfloat16.")
        network = folded(network).to(self.device, self._dtype)
        self._layout = torch.contiguous_format if self._kind == "mps" else torch.channels_last
        self.network = network.to(memory_format=self._layout)
        if graphs and self._kind != "cuda":
            raise UsageError(f"--cuda-graphs needs an NVIDIA GPU; the device is {self.device}.")
        self._fixed: FixedBatches | None = None
        if compiled or graphs:
            self._fixed = FixedBatches(compiling(notify) if compiled else recording)
        self._way = "+compiled" if compiled else "+graphs" if graphs else ""

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocessed photos (N, 3, H, W) -> logits (N, classes), float32."""
        return self.output(batch, "logits")

    def output(self, batch: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """Preprocessed photos (N, 3, H, W) -> one output, float32; see `onnx_graph.OUTPUTS`.

        Raises:
            EngineError: the network cannot be compiled or recorded here.
            BatchTooLargeError: so many photos do not fit into the device's memory.
        """
        run = self._runner(name)
        try:
            with torch.inference_mode(), self.autocast():
                photos = self.moved(torch.from_numpy(batch))
                out = run(photos) if self._fixed is None else self._fixed(name, run, photos)
                return np.asarray(out.float().cpu().contiguous().numpy(), dtype=np.float32)
        except torch.OutOfMemoryError as error:
            raise BatchTooLargeError(
                f"{len(batch)} photos at once do not fit into the memory of {self.device}: lower "
                "--batch-size, or leave it to `auto`."
            ) from error

    def moved(self, photos: torch.Tensor) -> torch.Tensor:
        """On the device, in its precision and layout; through pinned memory where that helps."""
        if self._kind == "cuda":
            photos = photos.pin_memory()
        photos = photos.to(self.device, non_blocking=True)
        return photos.to(self._dtype, memory_format=self._layout)

    def _runner(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        network = self.network
        if name == "logits":
            return network
        if name == "features":
            return lambda photos: network.forward_head(
                network.forward_intermediates(photos, [4])[0], pre_logits=True
            )
        return lambda photos: network.forward_intermediates(photos, [int(name[-1])])[0]

    def autocast(self) -> torch.autocast:
        """The precision of the convolutions, around a run of the network."""
        return torch.autocast(
            self._kind,
            dtype=self._dtype,
            enabled=self._dtype is not torch.float32,
            cache_enabled=self._fixed is None,  # a graph must not find what another run has cast
        )

    def fingerprint(self, batch_size: int) -> Fingerprint:
        """What decides the bits of its answers, beside the model and the photos."""
        device = f"{self._kind} {cpu_features()}"
        if self._kind == "cuda":
            device = torch.cuda.get_device_name(self.device)
        return Fingerprint(
            engine=self.name,
            version=f"{torch.__version__}+folded{self._way}",
            precision=str(self._dtype).removeprefix("torch."),
            device=device,
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
