"""Which way convolutions take in training on a CPU, and that it changes nothing else."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from resnest_cli.model import convolutions
from resnest_cli.model.convolutions import Pointwise, SplitConvolution, winograd
from tests.networks import photos


def test_small_maps_take_a_matrix_product_with_the_same_result() -> None:
    torch.manual_seed(0)
    layer = Pointwise(12, 20).double()
    for layout in (torch.channels_last, torch.contiguous_format):
        x = photos(3, 4).repeat(1, 4, 1, 1).contiguous(memory_format=layout).requires_grad_()
        results = []
        for training in (True, False):
            layer.train(training)
            out = layer(x)
            assert out.is_contiguous(memory_format=layout)
            (gradient,) = torch.autograd.grad(out.square().sum(), x)
            results.append((out, gradient))
        for one, two in zip(*results, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the maps that went Winograd's way."""
    seen: list[tuple[int, ...]] = []

    def counted(x: Tensor, weight: Tensor, groups: int) -> Tensor:
        seen.append(tuple(x.shape))
        return winograd(x, weight, groups)

    monkeypatch.setattr(convolutions, "winograd", counted)
    return seen


CHANNELS, BATCH, SIZE = 256, 6, 14


def layer(channels: int = CHANNELS, **more: Any) -> SplitConvolution:
    torch.manual_seed(0)
    settings = {"stride": 1, "dilation": 1, "groups": 2} | more
    made = SplitConvolution(channels, 2 * channels, **settings)
    return made.to(memory_format=torch.channels_last).train()


def maps(channels: int = CHANNELS, batch: int = BATCH, size: int = SIZE) -> Tensor:
    x = torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


def test_training_takes_it_where_it_pays(calls: list[tuple[int, ...]]) -> None:
    with torch.no_grad():
        out = layer()(maps())
        assert calls == [(BATCH, CHANNELS, SIZE, SIZE)]
        torch.testing.assert_close(out, layer().eval()(maps()), rtol=1e-4, atol=1e-5)
        assert len(calls) == 1  # evaluation does not

        layer(128)(maps(128))  # few channels
        layer()(maps(batch=5))  # few pixels
        layer()(maps(batch=28, size=6))  # tiles of 64 pixels for maps of 36
        layer(stride=2)(maps())
        layer(dilation=2)(maps())
        layer()(maps().contiguous())
        layer().bfloat16()(maps().bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            layer()(maps())
        assert len(calls) == 1

        layer()(maps(batch=20, size=8))
        layer().double()(maps().double())
        assert len(calls) == 3


def test_what_is_compiled_or_exported_in_training_is_a_convolution(
    calls: list[tuple[int, ...]],
) -> None:
    program = torch.export.export(layer(), (maps(),))
    assert any("conv2d" in str(node.target) for node in program.graph.nodes)
    torch.compile(layer(), backend="eager", fullgraph=True)(maps())
    assert not calls


def test_a_bias_which_folding_gives_is_used(calls: list[tuple[int, ...]]) -> None:
    for made, x in ((layer(), maps()), (Pointwise(16, 8).train(), maps(16, 4, 4))):
        made.bias = torch.nn.Parameter(torch.ones(made.out_channels))
        torch.testing.assert_close(made(x), made.eval()(x), rtol=1e-4, atol=1e-5)
    assert not calls


def test_gradient_checkpointing_gives_the_same(calls: list[tuple[int, ...]]) -> None:
    made, x = layer().double(), maps().double().requires_grad_()
    gradients = [
        torch.autograd.grad(out.square().sum(), (x, made.weight))
        for out in (made(x), checkpoint(made, x, use_reentrant=False))
    ]
    assert len(calls) == 3
    for one, two in zip(*gradients, strict=True):
        assert torch.equal(one, two)
