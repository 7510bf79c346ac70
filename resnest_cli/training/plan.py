"""What a run will cost, from a real step on a few synthetic photos: seconds and memory."""

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from resnest_cli.inference.engine import Engine
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.training.config import Config

_PROBED = 4  # photos in the probe
_MOST_PROBED = 32  # for small photos and on a GPU, where fewer mostly time the calls of kernels
_PROBED_PIXELS = 200_000
# Scratch memory and gradients on their way, measured against the peak of real steps on a CPU:
# resnest14d at 64 pixels, batch 64; resnest50d at 224, batch 16.
_SCRATCH_SHARE, _SCRATCH_BYTES = 0.25, 200 * 10**6
_SHARE_FORWARD = 1 / 3  # of a training step; the backward pass costs about two forward passes


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of an epoch and of all, bytes at the peak; an estimate, not a promise."""

    epoch_seconds: float
    total_seconds: float
    memory_bytes: int


def channels_last_pays(size: int, device: str, amp: str) -> bool:
    """Whether photos of this size train faster with channels last.

    A rule, not a measurement on the spot, so that a run can be repeated: on a CPU up to 128 pixels;
    on an accelerator with mixed precision, as torch's documentation advises.
    """
    if device == "cpu":
        return size <= 128
    return amp != "off"


def estimate(network: ResNeSt, config: Config, *, train_photos: int, val_photos: int) -> Estimate:
    """Times a step of a copy of the network and counts what it keeps for the backward pass.

    The network, its statistics and torch's generator are left as they were.
    """
    assert config.epochs is not None
    assert config.batch_size is not None
    assert config.img_size is not None
    kind = config.device.partition(":")[0]
    fitting = _PROBED_PIXELS // config.img_size**2 if kind == "cpu" else _MOST_PROBED
    count = max(2, min(config.batch_size, max(_PROBED, min(_MOST_PROBED, fitting))))
    with torch.random.fork_rng([config.device] if kind == "cuda" else []):
        per_photo, kept = _probe(network, config, count)
    validations = 2 if config.model_ema else 1
    epoch = per_photo * (train_photos + _SHARE_FORWARD * validations * val_photos)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    weights = sum(p.numel() for p in network.parameters())
    moments = {"sgd": 1 if config.momentum else 0, "adamw": 2}[config.opt]
    tensors = 4 * (weights * (2 if config.model_ema else 1) + learning * (1 + moments))
    activations = kept / count * config.batch_size
    memory = int(tensors + (1 + _SCRATCH_SHARE) * activations) + _SCRATCH_BYTES
    return Estimate(epoch, epoch * config.epochs, memory)


def _probe(network: ResNeSt, config: Config, count: int) -> tuple[float, int]:
    """Seconds of a step per photo, and bytes that a step of `count` photos keeps."""
    kind = config.device.partition(":")[0]
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    probe = copy.deepcopy(network).to(config.device).to(memory_format=layout).train()
    photos = torch.randn(count, 3, config.img_size or 0, config.img_size or 0)
    photos = photos.to(config.device).contiguous(memory_format=layout)
    targets = torch.zeros(count, dtype=torch.int64, device=config.device)
    dtype = torch.float16 if config.amp == "float16" else torch.bfloat16
    seconds, most = [], 0
    for _ in range(3):  # the first allocates and picks kernels
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
    return min(seconds[1:]) / count, most


class _Kept:
    """Counts the bytes of tensors that autograd keeps, each storage once, and no weights.

    For one forward pass: memory that a pass frees serves the next under the same address.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.bytes = 0
        self._seen = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def estimate_cached(engine: Engine, config: Config, *, views: int, val_photos: int) -> Estimate:
    """The same with a frozen backbone: its features are computed once, the rest costs little.

    `views` is the number of rows of the training photos.
    """
    assert config.img_size is not None
    photos = np.zeros((_PROBED, 3, config.img_size, config.img_size), np.float32)
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        features = engine.output(photos, "features")
        seconds.append(time.perf_counter() - begin)
    rows = views + val_photos
    total = seconds[-1] / _PROBED * rows
    return Estimate(0.0, total, 4 * features.shape[1] * rows)
