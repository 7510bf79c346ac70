"""The engine that runs the torch network, on any device that torch knows.

Batch norms are folded (`model.folding`), and maps lie in memory with their channels last, which is
quicker on CPUs and on GPUs with tensor cores; not on mps, where it was not tried. By default all is
float32 as torch runs it. With `amp` the weights are kept, and the convolutions run, in half
precision under torch's autocast, which leaves sums and softmax in float32. With `compiled` the
network goes through torch.compile for a fixed batch: the first one, to which smaller ones are
padded. Nothing here was measured on an accelerator.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnest_cli.errors import EngineError, UsageError
from resnest_cli.inference.compiled import cpu_features
from resnest_cli.inference.fingerprint import Fingerprint
from resnest_cli.inference.run_options import Amp
from resnest_cli.model.folding import folded
from resnest_cli.model.resnest import ResNeSt

_DTYPES = {"off": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        self._compiled = _Compiled(notify) if compiled else None

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocessed photos (N, 3, H, W) -> logits (N, classes), float32."""
        return self.output(batch, "logits")

    def output(self, batch: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """Preprocessed photos (N, 3, H, W) -> one output, float32; see `onnx_graph.OUTPUTS`.

        Raises:
            EngineError: the network cannot be compiled here.
        """
        run = self._runner(name)
        with torch.inference_mode(), self.autocast():
            photos = self.moved(torch.from_numpy(batch))
            out = run(photos) if self._compiled is None else self._compiled(name, run, photos)
            return np.asarray(out.float().cpu().contiguous().numpy(), dtype=np.float32)

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
            self._kind, dtype=self._dtype, enabled=self._dtype is not torch.float32
        )

    def fingerprint(self, batch_size: int) -> Fingerprint:
        """What decides the bits of its answers, beside the model and the photos."""
        device = f"{self._kind} {cpu_features()}"
        if self._kind == "cuda":
            device = torch.cuda.get_device_name(self.device)
        return Fingerprint(
            engine=self.name,
            version=f"{torch.__version__}+folded{'+compiled' if self._compiled else ''}",
            precision=str(self._dtype).removeprefix("torch."),
            device=device,
            batch_size=batch_size,
        )


class _Compiled:
    """The network through torch.compile, for one size of batch; says how long that took."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._known: dict[str, tuple[Any, int]] = {}

    def __call__(
        self, name: str, run: Callable[[torch.Tensor], torch.Tensor], photos: torch.Tensor
    ) -> torch.Tensor:
        count = len(photos)
        if name not in self._known or count > self._known[name][1]:
            # On CUDA this mode also records the whole batch as one graph.
            mode = "reduce-overhead" if photos.device.type == "cuda" else "default"
            compiled = torch.compile(run, dynamic=False, mode=mode)
            self._warm_up(compiled, photos)
            self._known[name] = compiled, count
        compiled, size = self._known[name]
        if count < size:
            rest = photos.new_zeros(size - count, *photos.shape[1:])
            photos = torch.cat([photos, rest]).contiguous(memory_format=torch.channels_last)
        out: torch.Tensor = compiled(photos)
        return out[:count].clone()  # a recorded graph writes into the same place again

    def _warm_up(self, compiled: Any, photos: torch.Tensor) -> None:
        begin = time.monotonic()
        try:
            compiled(photos)
        except Exception as error:
            raise EngineError(
                f"torch cannot compile the network here: {type(error).__name__}: "
                f"{str(error).strip().splitlines()[0]}. Leave out --compile."
            ) from error
        took = time.monotonic() - begin
        self._notify(f"Compiled for batches of {len(photos)} in {took:.0f} s.")


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
