"""What a run will cost: a probe that leaves no trace, and figures that follow the settings."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from resnest_cli.errors import ResnestError
from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.training import plan
from resnest_cli.training.config import Config
from resnest_cli.training.network import freeze
from resnest_cli.training.plan import (
    _SCRATCH_BYTES,
    Estimate,
    _Kept,
    _together,
    channels_last_pays,
    estimate,
    estimate_cached,
)
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
            raise torch.OutOfMemoryError
        return 0.1 * count, 10**6 * count

    monkeypatch.setattr(plan, "_probe", small)
    room = 2
    assert cost().memory_bytes > 8 * 10**6  # of the batch, not of the two that were tried
    assert tried == [8, 4, 2]
    room = 1
    with pytest.raises(ResnestError, match="2 photos of 32 pixels does not fit"):
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
    assert channels_last_pays(64, "cpu", "off")
    assert not channels_last_pays(224, "cpu", "off")
    assert channels_last_pays(224, "cuda", "bfloat16")


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
