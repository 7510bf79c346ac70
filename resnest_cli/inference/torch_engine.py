"""The engine that runs the torch network, on any device that torch knows.

Batch norms are folded, and maps lie in memory with their channels last, which is quicker on CPUs
and on GPUs with tensor cores; not on mps, where it was not tried. Measured with resnest50d at 224
pixels on one core with AVX-512, CPU time a photo in batches of 4: 93.5 ms plain, 86.0 folded, 80.9
with channels last, 76.9 with both. By default all is float32 as torch runs it. With `amp` the
weights are kept, and the convolutions run, in half precision under torch's autocast, which leaves
sums and softmax in float32. With `compiled` the network goes through torch.compile, with `graphs`
it is recorded as a CUDA graph, which on a GPU happens to what was compiled, too; both for a fixed
batch, see `FixedBatches`. Nothing here was measured on an accelerator.
"""

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnest_cli.cpu import cpu_features
from resnest_cli.errors import EngineError, UsageError
from resnest_cli.inference.engine import Fingerprint
from resnest_cli.model.resnest import Bottleneck, ResNeSt, SplitAttention
from resnest_cli.options import Amp
from resnest_cli.progress import Notify, ignore
from resnest_cli.text import count

Run = Callable[[Tensor], Tensor]

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
        notify: Notify = ignore,
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
            self._fixed = FixedBatches(partial(_compiled, notify) if compiled else _recorded)
        self._way = "+compiled" if compiled else "+graphs" if graphs else ""

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocessed photos (N, 3, H, W) -> logits (N, classes), float32."""
        return self.output(batch, "logits")

    def output(self, batch: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """Preprocessed photos (N, 3, H, W) -> one output, float32; see `onnx_graph.OUTPUTS`."""
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

    def stacked(self, photos: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """As np.stack; for a GPU in memory that it reads by itself, and that is used again."""
        if self._kind != "cuda":
            return np.stack(photos)
        place = torch.empty((len(photos), *photos[0].shape), pin_memory=True)
        return np.stack(photos, out=place.numpy())

    def on_device(self, photos: Tensor) -> Tensor:
        """Preprocessed photos (N, 3, H, W) on its device -> logits (N, classes), float32, there."""
        with torch.no_grad(), self.autocast():
            photos = photos.to(self._dtype, memory_format=self._layout)
            return cast("Tensor", self.network(photos)).float()

    def moved(self, photos: Tensor) -> Tensor:
        """On the device, in its precision and layout; through pinned memory where that helps."""
        if self._kind == "cuda":
            photos = photos.pin_memory()  # unless it is already
        photos = photos.to(self.device, non_blocking=True)
        return photos.to(self._dtype, memory_format=self._layout)

    def _runner(self, name: str) -> Run:
        network = self.network
        if name == "logits":
            return network
        if name == "features":
            return lambda x: network.forward_head(network.forward_features(x), pre_logits=True)
        if name == "features+logits":
            return partial(_both, network)
        return lambda x: network.forward_intermediates(x, [int(name[-1])])[0]

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


def _both(network: ResNeSt, photos: Tensor) -> Tensor:
    """Features and logits in one row: (N, num_features + classes)."""
    features = network.forward_head(network.forward_features(photos), pre_logits=True)
    return torch.cat([features, network.fc(features)], dim=1)


def resolve_device(device: str) -> str:
    """The torch device for auto, cpu, cuda, cuda:N or mps; auto takes an accelerator if any."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    if device.startswith("cuda"):
        there = torch.cuda.device_count() if cuda else 0
        number = int(device.partition(":")[2] or 0)
        if number >= there:
            raise UsageError(
                f"device {device} is not available: torch {torch.__version__} sees "
                f"{count(there, 'CUDA device')} here. Use --device cpu or auto, or install "
                "torch's CUDA build."
            )
    if device == "mps" and not mps:
        raise UsageError("device mps is not available here. Use --device cpu or auto.")
    return device


def folded(network: ResNeSt) -> ResNeSt:
    """A copy for evaluation only whose convolutions have their batch norms in their weights."""
    network = copy.deepcopy(network).eval()
    _fold(network.conv1, "0", network.conv1, "1")
    _fold(network.conv1, "3", network.conv1, "4")
    _fold(network.conv1, "6", network, "bn1")
    for module in list(network.modules()):
        if isinstance(module, Bottleneck):
            _fold(module, "conv1", module, "bn1")
            _fold(module, "conv3", module, "bn3")
            if module.downsample is not None:
                _fold(module.downsample, "1", module.downsample, "2")
        elif isinstance(module, SplitAttention):
            _fold(module, "conv", module, "bn0")
            _fold(module, "fc1", module, "bn1")
    return network


def _fold(parent: nn.Module, conv: str, holder: nn.Module, norm: str) -> None:
    """Replaces `parent.conv` by itself with `holder.norm` in it, and that by nothing."""
    convolution, batch_norm = getattr(parent, conv), getattr(holder, norm)
    setattr(parent, conv, fuse_conv_bn_eval(convolution, batch_norm))
    setattr(holder, norm, nn.Identity())


class FixedBatches:
    """Runs a network's outputs, each through what `make` makes of it for one size of batch.

    `make` gets the network's function and a batch, and may keep the batch's place in memory. That
    is paid once, for the first batch's size: smaller ones are padded to it, for a larger one it is
    done anew. Torch's compiler would compile again for every size, in a minute each.
    """

    def __init__(self, make: Callable[[Run, Tensor], Run]) -> None:
        self._make = make
        self._ready: dict[str, tuple[Run, int]] = {}  # and the size that it was made for

    def __call__(self, name: str, run: Run, photos: Tensor) -> Tensor:
        """The output `name`, which `run` computes, of photos (N, 3, H, W)."""
        count = len(photos)
        if count > self._ready.get(name, (run, -1))[1]:
            self._ready[name] = self._make(run, photos), count
        made, size = self._ready[name]
        if count < size:
            channels_last = photos.is_contiguous(memory_format=torch.channels_last)
            photos = torch.cat([photos, photos.new_zeros(size - count, *photos.shape[1:])])
            if channels_last:
                photos = photos.contiguous(memory_format=torch.channels_last)
        return made(photos)[:count].clone()  # what was recorded writes into the same place again


def _compiled(notify: Notify, run: Run, photos: Tensor) -> Run:
    """torch.compile, for `FixedBatches`; `notify` is given the time that it took."""
    # It advises to allow TF32 in matrix products; of those there is one, the classifier.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
    compiled = cast("Run", torch.compile(run, dynamic=False))
    begin = time.monotonic()
    try:
        compiled(photos)
        if photos.device.type == "cuda":
            # Not the compiler's mode reduce-overhead, which does the same, but up to torch 2.13
            # only in the thread that imported it (pytorch/pytorch issue 123177); ours is another.
            compiled = _recorded(compiled, photos)
    except (torch.OutOfMemoryError, EngineError):  # the caller says it better; no graph
        raise
    except Exception as error:
        raise EngineError(
            f"torch cannot compile the network here: {_first_line(error)}. Leave out --compile."
        ) from error
    took = time.monotonic() - begin
    notify(f"Compiled for batches of {len(photos)} in {took:.0f} s.")
    return compiled


def _recorded(run: Run, photos: Tensor) -> Run:
    """Records the network's kernels as a CUDA graph, which starts them all with one call.

    Follows torch.cuda.CUDAGraph's documentation: a few runs on a stream of their own, then the
    recording, whose input and output keep their places in memory. Not run on a GPU so far.
    """
    place = photos.clone(memory_format=torch.preserve_format)
    graph: Any = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.device(place.device):  # streams are those of the current one
            stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    run(place)
            torch.cuda.current_stream().wait_stream(stream)
            # Other threads may decode on the device meanwhile, which "global" would forbid.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                out = run(place)
    except torch.OutOfMemoryError:  # the caller says it better
        raise
    except RuntimeError as error:
        raise EngineError(
            f"the network cannot be recorded as a CUDA graph here: {_first_line(error)}. Leave out "
            "--cuda-graphs, or --compile, which records one too."
        ) from error

    def replay(photos: Tensor) -> Tensor:
        place.copy_(photos)
        graph.replay()
        return out

    return replay


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
