"""Optimisers, the learning rate as a function of the step, and clipping."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from resnest_cli.training.config import Config


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters that learn, in two groups: weights with decay; norms and biases without.

    What is frozen is left out. Follows timm.optim.param_groups_weight_decay.
    """
    live = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in live if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in live if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def create_optimizer(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW, at the learning rate of the first step.

    SGD without momentum is plain. The fused kernels take a third of the time on a CPU (10.6 M
    parameters: AdamW 10 ms against 31, SGD 7 against 19). On a CPU they take for granted that
    gradients and moments lie in memory as their parameter does: autograd sees to the first,
    `resume.restore_optimizer` to the second.
    """
    assert config.lr is not None
    groups = parameter_groups(network, config.weight_decay)
    fused = all(p.device.type in {"cpu", "cuda"} for p in network.parameters())
    if config.opt == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    momentum = config.momentum
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0, fused=fused
    )


class Schedule:
    """The learning rate of each step: linear warm-up from a hundredth, then cosine or constant.

    A pure function of the step (from 0), so that nothing of it has to be saved. The cosine ends at
    `min_lr` times the peak (arXiv 1608.03983, without restarts).
    """

    def __init__(self, config: Config, steps_per_epoch: int) -> None:
        assert config.lr is not None
        assert config.epochs is not None
        self._peak, self._end = config.lr, config.lr * config.min_lr
        self._warmup = round(config.warmup_epochs * steps_per_epoch)
        self._total = config.epochs * steps_per_epoch
        self._constant = config.sched == "constant"

    def lr(self, step: int) -> float:
        """The learning rate of this step."""
        if step < self._warmup:
            return self._peak * max(0.01, (step + 1) / self._warmup)
        if self._constant:
            return self._peak
        done = (step - self._warmup) / max(1, self._total - self._warmup)
        return self._end + (self._peak - self._end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def clip(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scales gradients down to a total L2 norm of `most` (0: never); the norm before, a scalar."""
    live = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in live if p.grad is not None])
    if most > 0:
        torch.nn.utils.clip_grads_with_norm_(live, most, norm)
    return norm
