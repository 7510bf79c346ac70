"""LAMB, the optimiser of large batches (arXiv 1904.00962), which timm's recipes A1 to A3 use.

Follows timm.optim.Lamb with its defaults: the gradient's global norm is brought down to 1, moments
are those of Adam with bias correction, weight decay is part of the update, and parameters without
weight decay are not adapted. Each parameter has its own count of steps (timm: one a group).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_BETA1, _BETA2, _EPS, _MOST = 0.9, 0.999, 1e-6, 1.0


class Lamb(torch.optim.Optimizer):
    """Adam's update, scaled by each tensor's ratio of weight norm to update norm."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step from the gradients as they are."""
        assert closure is None
        live = [
            (parameter, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if not live:
            return
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter, _ in live])
        shrink = (norm / _MOST).clamp(min=1.0)
        for parameter, group in live:
            update = self._update(parameter, parameter.grad / shrink)
            decay = group["weight_decay"]
            if decay:
                update.add_(parameter, alpha=decay)
                weight_norm, update_norm = parameter.norm(), update.norm()
                ratio = weight_norm / update_norm
                whole = (weight_norm > 0) & (update_norm > 0)
                update.mul_(torch.where(whole, ratio, torch.ones_like(ratio)))
            parameter.add_(update, alpha=-group["lr"])

    def _update(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """Adam's, before weight decay; counts and moments go on."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        step = float(state["step"])
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(gradient, 1 - _BETA1)
        second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        scale = (second.sqrt() / (1 - _BETA2**step) ** 0.5).add_(_EPS)
        update: Tensor = (first / (1 - _BETA1**step)).div_(scale)
        return update
