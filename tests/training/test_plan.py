"""What a run will cost: a probe that leaves no trace, and figures that follow the settings."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.training import plan
from resnest_cli.training.defaults import channels_last_pays
from resnest_cli.training.network import freeze
from resnest_cli.training.plan import (
    _SCRATCH_BYTES,
    Estimate,
    _Kept,
    _together,
    estimate,
    estimate_cached,
)
from resnest_cli.training.settings import Config
from resnest_cli.training.step import MemoryUsedError
from tests.networks import TINY, enliven

CONFIG = Config(
    command="train", data="d", model="m", recipe="quick", img_size=32, epochs=3, batch_size=8,
    lr=0.1, drop=0.2, freeze="none", device="cpu", channels_last=False,
)  # fmt: skip


def network() -> ResNeSt:
    return enliven(build(TINY, num_classes=3, drop_rate=0.2))


def cost(used: ResNeSt | None = None, **changes: Any) -> Estimate:
    config = replace(CONFIG, **changes)
    return estimate(used or network(), config, train_photos=100, val_photos=30)


def test_the_probe_leaves_no_trace() -> None:
    used = network().eval()
    before = {name: tensor.clone() for name, tensor in used.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    cost(used)
    assert torch.equal(torch.rand(3), expected)
    assert not used.training
    assert all(parameter.grad is None for parameter in used.parameters())
    for name, tensor in used.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_seconds_add_up() -> None:
    found = cost()
    assert 0 < found.epoch_seconds < 60
    assert found.total_seconds == pytest.approx(3 * found.epoch_seconds)


@pytest.mark.parametrize(
    ("device", "workers", "seconds"),
    [
        ("cpu", 0, 5.0),  # one after the other
        ("cpu", 2, 3.0),  # the same two cores do both
        ("cpu", 1, 4.0),  # a single loader is too slow
        ("cuda", 1, 4.0),
        ("cuda", 8, 2.0),  # no more loaders at once than cores
    ],
)
def test_loading_counts(device: str, workers: int, seconds: float) -> None:
    config = replace(CONFIG, device=device, workers=workers)
    assert _together(1.0, 4.0, config, cores=2) == pytest.approx(seconds)


def test_large_photos_make_an_epoch_longer() -> None:
    found = estimate(
        network(), replace(CONFIG, workers=0), train_photos=100, val_photos=30, load_seconds=9.0
    )
    assert found.epoch_seconds == pytest.approx(9 * 130, rel=0.1)


def test_a_probe_that_does_not_fit_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def small(_: object, __: object, count: int) -> tuple[float, int]:
        tried.append(count)
        if count > room:
            raise MemoryUsedError("no room")
        return 0.1 * count, 10**6 * count

    monkeypatch.setattr(plan, "_probe", small)
    room = 2
    assert cost().memory_bytes > 8 * 10**6  # of the batch, not of the two that were tried
    assert tried == [8, 4, 2]
    room = 1
    with pytest.raises(MemoryUsedError):
        cost()


@pytest.mark.parametrize(("enough", "steps"), [(0.001, 1), (60.0, 3)])
def test_slow_steps_are_not_repeated(
    monkeypatch: pytest.MonkeyPatch, enough: float, steps: int
) -> None:
    monkeypatch.setattr(plan, "_ENOUGH", enough)
    made: list[int] = []

    class Counted(plan._Kept):
        def __init__(self, used: torch.nn.Module) -> None:
            made.append(1)
            super().__init__(used)

    monkeypatch.setattr(plan, "_Kept", Counted)
    cost()
    assert len(made) == steps


def test_memory_follows_the_settings() -> None:
    weights = 4 * sum(p.numel() for p in network().parameters())
    plain = cost(momentum=0.0).memory_bytes
    assert cost(momentum=0.9).memory_bytes == plain + weights
    assert cost(opt="adamw").memory_bytes == plain + 2 * weights
    assert cost(momentum=0.0, model_ema=True).memory_bytes == plain + weights
    fixed = 2 * weights + _SCRATCH_BYTES  # weights and gradients
    kept = plain - fixed
    assert cost(momentum=0.0, batch_size=16).memory_bytes - fixed == pytest.approx(
        2 * kept, rel=0.05
    )
    wider = cost(momentum=0.0, img_size=64).memory_bytes - fixed
    assert wider == pytest.approx(4 * kept, rel=0.2)
    frozen = network()
    freeze(frozen, "stages:2")
    assert cost(frozen).memory_bytes < cost().memory_bytes


def test_each_storage_counts_once_and_weights_do_not() -> None:
    layer = torch.nn.Linear(3, 5)
    x = torch.ones(7, 3)
    kept = _Kept(layer)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        out = layer(x) + layer(x)
    assert kept.bytes == 4 * 7 * 3
    assert out.shape == (7, 5)


def test_mixed_precision_keeps_less() -> None:
    assert cost(amp="bfloat16").memory_bytes < cost().memory_bytes


def test_channels_last() -> None:
    assert channels_last_pays("cpu", "off")
    assert channels_last_pays("cuda", "bfloat16")
    assert not channels_last_pays("cuda", "off")


def test_cached_features() -> None:
    class Fake:
        name, device, photos = "fake", "cpu", 0

        def output(self, batch: np.ndarray, name: str) -> np.ndarray:
            self.photos += len(batch)
            return np.zeros((len(batch), 128), np.float32)

    engine: Any = Fake()
    found = estimate_cached(engine, CONFIG, train_photos=100, val_photos=30)
    assert found.memory_bytes == 4 * 128 * 230  # each photo of the training also mirrored
    assert engine.photos > 0
    plain = estimate_cached(engine, replace(CONFIG, hflip=0.0), train_photos=100, val_photos=30)
    assert plain.memory_bytes == 4 * 128 * 130
    slow = estimate_cached(engine, CONFIG, train_photos=100, val_photos=30, load_seconds=10.0)
    assert slow.total_seconds == 1300


STEPS = """
import re, sys, torch
from pathlib import Path
import torch.nn.functional as F
from resnest_cli.model.resnest import build
from resnest_cli.training.step import keep_memory
name, size, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def peak():  # ru_maxrss would begin at the parent's
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
keep_memory()
torch.set_num_threads(2)
layout = torch.channels_last
F.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(4, 3, 3, 3))
before = peak()
network = build(name, num_classes=20).to(memory_format=layout).train()
optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)
for _ in range(3):
    photos = torch.randn(batch, 3, size, size).contiguous(memory_format=layout)
    loss = F.cross_entropy(network(photos), torch.zeros(batch, dtype=torch.int64))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize(
    ("name", "size", "batch"),
    [("resnest14d", 64, 64), ("resnest14d", 128, 32), ("resnest50d", 96, 24)],
)  # fmt: skip
def test_the_memory_is_that_of_real_steps(name: str, size: int, batch: int) -> None:
    command = [sys.executable, "-c", STEPS, name, str(size), str(batch)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = int(run.stdout)
    expected = cost(
        build(name, num_classes=20), img_size=size, batch_size=batch, momentum=0.9, drop=0.0,
        channels_last=True, workers=0,
    ).memory_bytes  # fmt: skip
    print(f"{name} at {size}, batch {batch}: measured {measured / 1e6:.0f} MB, "
          f"expected {expected / 1e6:.0f}")  # fmt: skip
    assert 0.5 < expected / measured < 2
