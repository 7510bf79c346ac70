"""What a run will cost, from a real step on a few synthetic photos: seconds and memory."""

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnest_cli.errors import ResnestError
from resnest_cli.inference.engine import Engine
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.training.order import largest_size, work
from resnest_cli.training.settings import Config

_PROBED = 4  # photos given to the engine
# Photos given to the network: of small ones and on a GPU, fewer mostly time the calls of kernels.
_FEWEST, _MOST_PROBED, _PROBED_PIXELS = 2, 32, 200_000
# Scratch memory and gradients on their way, measured against the peak of real steps on a CPU:
# resnest14d at 64 pixels, batch 64; resnest50d at 224, batch 16. They also cover the maps that only
# whole batches keep in another form (see `convolutions`), a thirtieth of the peak.
_SCRATCH_SHARE, _SCRATCH_BYTES = 0.25, 200 * 10**6
_ENOUGH = 3.0  # seconds of probing after which no step is repeated
_SHARE_FORWARD = 1 / 3  # of a training step; the backward pass costs about two forward passes


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of an epoch and of all, bytes at the peak; an estimate, not a promise."""

    epoch_seconds: float
    total_seconds: float
    memory_bytes: int


def channels_last_pays(device: str, amp: str) -> bool:
    """Whether photos train faster with channels last.

    A rule, not a measurement on the spot, so that a run can be repeated. On a CPU always; photos a
    second on two cores with AVX-512, NCHW against channels last: resnest14d at 64 pixels 95 / 126,
    resnest50d at 224 4.6 / 5.3, at 256 2.6 / 3.2, at 320 1.6 / 2.1, resnest101e at 256 1.8 / 2.0
    (from 256 on by another machine). On an accelerator with mixed precision, as torch's
    documentation advises; not measured.
    """
    return device == "cpu" or amp != "off"


def estimate(
    network: ResNeSt,
    config: Config,
    *,
    train_photos: int,
    val_photos: int,
    load_seconds: float = 0.0,
    cores: int = 1,
) -> Estimate:
    """Times a step of a copy of the network and counts what it keeps for the backward pass.

    `load_seconds` is what one process needs to read and prepare a photo. Without loader processes
    that comes on top; on a CPU the loaders share the `cores` with the network; beside an
    accelerator they work at the same time, and the slower side decides.

    The network, its statistics and torch's generator are left as they were.

    Raises:
        ResnestError: not even two photos fit into the device's memory.
    """
    assert config.epochs is not None
    assert config.batch_size is not None
    assert config.img_size is not None
    kind = config.device.partition(":")[0]
    fitting = _PROBED_PIXELS // config.img_size**2 if kind == "cpu" else _MOST_PROBED
    count = max(_FEWEST, min(config.batch_size, _MOST_PROBED, fitting))
    with torch.random.fork_rng([config.device] if kind == "cuda" else []):
        per_photo, kept, count = _fitting_probe(network, config, count)
    copies = 2 if config.model_ema else 1  # of the weights, each validated
    epoch = train_photos * _together(per_photo * work(config), load_seconds, config, cores)
    forward = _SHARE_FORWARD * per_photo
    epoch += copies * val_photos * _together(forward, load_seconds, config, cores)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    weights = sum(p.numel() for p in network.parameters())
    moments = {"sgd": 1 if config.momentum else 0, "adamw": 2, "lamb": 2}[config.opt]
    tensors = 4 * (weights * copies + learning * (1 + moments))
    share = (largest_size(config) / config.img_size) ** 2
    activations = kept / count * config.batch_size * share
    memory = int(tensors + (1 + _SCRATCH_SHARE) * activations) + _SCRATCH_BYTES
    return Estimate(epoch, epoch * config.epochs, memory)


def _together(step: float, load: float, config: Config, cores: int) -> float:
    """Seconds of a photo, from those of the network and of loading."""
    if not config.workers:
        return step + load
    if config.device == "cpu":
        return max(step + load / cores, load / config.workers)
    return max(step, load / min(config.workers, cores))


def _fitting_probe(network: ResNeSt, config: Config, count: int) -> tuple[float, int, int]:
    """`_probe` of as many photos as fit into memory, and how many these are."""
    while True:
        try:
            return *_probe(network, config, count), count
        except torch.OutOfMemoryError as error:
            if count == _FEWEST:
                raise ResnestError(
                    f"a step of {count} photos of {config.img_size} pixels does not fit into the "
                    f"memory of {config.device}. Try a smaller --img-size or --model, or --freeze "
                    "backbone."
                ) from error
        count = max(_FEWEST, count // 2)


def _probe(network: ResNeSt, config: Config, count: int) -> tuple[float, int]:
    """Seconds of a step per photo, and bytes that a step of `count` photos keeps."""
    kind, size = config.device.partition(":")[0], config.img_size or 0
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    probe = copy.deepcopy(network).to(config.device).to(memory_format=layout).train()
    photos = torch.randn(count, 3, size, size).to(config.device).contiguous(memory_format=layout)
    targets = torch.zeros(count, dtype=torch.int64, device=config.device)
    dtype = torch.float16 if config.amp == "float16" else torch.bfloat16
    seconds, most = list[float](), 0
    while len(seconds) < 3 and sum(seconds) < _ENOUGH:
        kept = _Kept(probe)
        begin = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            with torch.autocast(kind, dtype=dtype, enabled=config.amp != "off"):
                logits = probe(photos)
            loss = F.cross_entropy(logits.float(), targets)
        torch.autograd.backward(loss)
        float(loss.detach())  # waits for the device
        seconds.append(time.perf_counter() - begin)
        most = max(most, kept.bytes)
    # The first also allocates and picks kernels, which counts for little where it is that slow.
    return min(seconds[1:] or seconds) / count, most


class _Kept:
    """Counts the bytes of tensors that autograd keeps, each storage once, and no weights.

    For one forward pass: memory that a pass frees serves the next under the same address.
    """

    def __init__(self, network: nn.Module) -> None:
        self.bytes = 0
        self._seen = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def estimate_cached(
    engine: Engine, config: Config, *, train_photos: int, val_photos: int, load_seconds: float = 0.0
) -> Estimate:
    """The same with a frozen backbone: its features are computed once, the rest costs little.

    Photos are decoded in another thread; of them the slower side decides.
    """
    assert config.img_size is not None
    photos = np.zeros((_PROBED, 3, config.img_size, config.img_size), np.float32)
    seconds = 0.0
    for _ in range(2):  # the second is not the first use
        begin = time.perf_counter()
        features = engine.output(photos, "features")
        seconds = time.perf_counter() - begin
    rows = (2 if config.hflip > 0 else 1) * train_photos + val_photos
    total = max(seconds / _PROBED * rows, load_seconds * (train_photos + val_photos))
    return Estimate(0.0, total, 4 * features.shape[1] * rows)
