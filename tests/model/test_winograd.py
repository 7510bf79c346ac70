"""Winograd's convolution against torch's."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from resnest_cli.model.convolutions import winograd


def inputs(
    shape: tuple[int, int, int, int], kernels: int, groups: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """A map as after a ReLU, with channels last, and kernels of its channels."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, dtype=dtype).relu()
    weight = torch.randn(kernels, shape[1] // groups, 3, 3, generator=generator, dtype=dtype) / 9
    x = x.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), weight.requires_grad_()


def direct(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    return F.conv2d(x, weight, padding=1, groups=groups)


def results(
    way: Callable[[Tensor, Tensor, int], Tensor], x: Tensor, weight: Tensor, groups: int
) -> tuple[Tensor, ...]:
    """The output and the gradients of a fixed sum of it."""
    out = way(x, weight, groups)
    generator = torch.Generator().manual_seed(1)
    towards = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, (x, weight), towards)


# Maps smaller than a tile, whole tiles, and every rest in both directions.
@pytest.mark.parametrize("height", [*range(1, 10), 14])
@pytest.mark.parametrize("width", [1, 4, 6, 7, 9])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_float64_results_are_those_of_a_direct_convolution(
    height: int, width: int, groups: int
) -> None:
    x, weight = inputs((2, 8, height, width), 12, groups)
    found, wanted = (results(way, x, weight, groups) for way in (winograd, direct))
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert found[1].is_contiguous(memory_format=torch.channels_last)


def test_gradients_are_the_numerical_ones() -> None:
    x, weight = inputs((1, 4, 5, 6), 6, 2)
    assert torch.autograd.gradcheck(lambda a, b: winograd(a, b, 2), (x, weight))


def test_float32_errors() -> None:
    x, weight = inputs((4, 256, 14, 14), 128, 2, torch.float32)
    exact = results(direct, x.detach().double().requires_grad_(), weight.double(), 2)
    errors = [
        [float((one - two).norm() / two.norm()) for one, two in zip(found, exact, strict=True)]
        for found in (results(way, x, weight, 2) for way in (winograd, direct))
    ]
    print("relative errors of output, gradient of x and of weights: "
          f"{errors[0]}, directly {errors[1]}")  # fmt: skip
    assert max(errors[0]) < 1.2e-6  # with the points 0, 1, -1, 2, -2: 1.8e-6
    assert all(0 < one < 6 * two for one, two in zip(*errors, strict=True))


def test_it_stands_where_a_convolution_stands() -> None:
    """Fake tensors before, changes in place, a gradient that is expanded, autocast behind it."""
    x, weight = inputs((2, 8, 6, 7), 8, 2, torch.float32)
    with FakeTensorMode() as mode:
        winograd(mode.from_tensor(x), mode.from_tensor(weight), 2)
    outs = [way(x, weight, 2) for way in (winograd, direct)]
    gradients = []
    for out in outs:
        with torch.autocast("cpu", torch.bfloat16):
            gradients.append(torch.autograd.grad(out.mul_(2).relu_().sum(), (x, weight)))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    empty = torch.zeros(0, 8, 6, 7).contiguous(memory_format=torch.channels_last)
    assert winograd(empty, weight, 2).shape == (0, 8, 6, 7)


def test_nothing_is_kept_for_kernels_that_do_not_learn() -> None:
    x, weight = inputs((2, 8, 6, 7), 8, 2)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        winograd(x, weight.detach(), 2)
    assert [tensor.shape for tensor in kept] == [weight.shape]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_only_the_gradients_that_are_needed(layout: torch.memory_format) -> None:
    x, weight = inputs((2, 8, 6, 7), 8, 2)
    weight = weight.detach().contiguous(memory_format=layout).requires_grad_()
    wanted = torch.autograd.grad(direct(x, weight, 2).square().sum(), (x, weight))
    (of_x,) = torch.autograd.grad(winograd(x, weight.detach(), 2).square().sum(), x)
    (of_weight,) = torch.autograd.grad(winograd(x.detach(), weight, 2).square().sum(), weight)
    torch.testing.assert_close((of_x, of_weight), wanted, rtol=0, atol=1e-11)
    assert of_weight.stride() == weight.stride()


def test_a_second_derivative_is_refused() -> None:
    x, weight = inputs((1, 4, 4, 4), 4, 1)
    (first,) = torch.autograd.grad(winograd(x, weight, 1).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
