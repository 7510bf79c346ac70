"""The weighted sum of splits: its own backward pass against autograd's."""

import pytest
import torch
from torch import Tensor

from resnest_cli.model.resnest import weighted_sum


def inputs(radix: int, layout: torch.memory_format, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(radix)
    splits = torch.randn(2, radix * 3, 4, 5, generator=generator, dtype=dtype)
    weights = torch.randn(2, radix, 3, 1, 1, generator=generator, dtype=dtype)
    return splits.contiguous(memory_format=layout).requires_grad_(), weights.requires_grad_()


@pytest.mark.parametrize("radix", [1, 2, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_value_and_gradients_are_those_of_autograd(radix: int, layout: torch.memory_format) -> None:
    splits, weights = inputs(radix, layout, torch.float64)
    ours = weighted_sum(splits, weights, training=True)
    shaped = splits.view(2, radix, 3, 4, 5)
    plain = (shaped * weights).sum(dim=1)
    assert torch.allclose(ours, plain, rtol=0, atol=1e-14)

    towards = torch.randn_like(plain)
    found = torch.autograd.grad(ours, (splits, weights), towards)
    wanted = torch.autograd.grad(plain, (splits, weights), towards)
    for one, two in zip(found, wanted, strict=True):
        assert one.shape == two.shape
        assert torch.allclose(one, two, rtol=0, atol=1e-13)
    assert found[0].is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(
        lambda s, w: weighted_sum(s, w, training=True), (splits, weights)
    )


def test_a_second_derivative_is_refused_in_training_and_there_otherwise() -> None:
    splits, weights = inputs(2, torch.contiguous_format, torch.float64)
    for training in (True, False):
        out = weighted_sum(splits, weights, training=training)
        (first,) = torch.autograd.grad(out.pow(2).sum(), splits, create_graph=True)
        if training:
            with pytest.raises(RuntimeError, match="once_differentiable"):
                first.sum().backward()
        else:
            (second,) = torch.autograd.grad(first.sum(), weights)
            assert bool(second.any())


def test_half_precision_stays_half() -> None:
    splits, weights = inputs(2, torch.channels_last, torch.bfloat16)
    out = weighted_sum(splits, weights, training=True)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert splits.grad is not None
    assert splits.grad.dtype == torch.bfloat16
