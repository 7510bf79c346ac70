"""Optimisers, the groups of parameters that they see, clipping, and the learning rate of each step.

Groups: norms and biases without weight decay, and layer-wise decay of the learning rate as in BEiT
(arXiv 2106.08254); layers are those of timm.optim.param_groups_layer_decay for a ResNeSt: the stem,
each block, the classifier.

Schedules are functions of the step, so that nothing of them has to be saved:

cosine    falls to `min_lr` times the peak (arXiv 1608.03983, without restarts)
step      times `decay_rate` every `decay_epochs` (torch.optim.lr_scheduler.StepLR), counted from
          the start of the run as timm does, and never below `min_lr` times the peak
onecycle  up from 1/25 of the peak over 30% of the run, then down to 1/250,000 of it, both as
          cosines ("Super-convergence", arXiv 1708.07120): torch's OneCycleLR with its defaults, but
          for momentum, which stays
constant  the peak

All but onecycle, which has its own, begin with a linear warm-up from a hundredth of the peak.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from resnest_cli.model.resnest import Bottleneck
from resnest_cli.training.settings import Config

_BETA1, _BETA2, _EPS, _MOST = 0.9, 0.999, 1e-6, 1.0  # of LAMB
_RISE, _FIRST, _LAST = 0.3, 25.0, 1e4  # OneCycleLR: pct_start, div_factor, final_div_factor


def create_optimizer(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, AdamW or LAMB, at the learning rate of the first step.

    SGD without momentum is plain. The fused kernels take a third of the time on a CPU (10.6 M
    parameters: AdamW 10 ms against 31, SGD 7 against 19). On a CPU they take for granted that
    gradients and moments lie in memory as their parameter does: autograd sees to the first,
    `state.restore_optimizer` to the second. SGD with float16 is not fused: the fused kernel is
    called for steps that the gradient scaler means to skip, too, the first of which makes momentum
    of memory that was never written.
    """
    assert config.lr is not None
    groups = parameter_groups(network, config.weight_decay, config.layer_decay)
    fused = all(p.device.type in {"cpu", "cuda"} for p in network.parameters())
    if config.opt == "lamb":
        return Lamb(groups, lr=config.lr)
    if config.opt == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    momentum, nesterov = config.momentum, config.momentum > 0
    fused = fused and config.amp != "float16"
    sgd = torch.optim.SGD(groups, config.lr, momentum=momentum, nesterov=nesterov, fused=fused)
    if momentum > 0 and config.unfreeze_every:
        # The fused kernel wants a buffer for all of a group or for none; zero gives the same step.
        for group in sgd.param_groups:
            for parameter in group["params"]:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def layer_numbers(network: nn.Module) -> dict[str, int]:
    """The layer of each parameter: 0 is the stem, blocks follow, the classifier is last."""
    layers: list[tuple[str, ...]] = [("conv1.", "bn1.")]
    modules = network.named_modules()
    layers += [(f"{name}.",) for name, module in modules if isinstance(module, Bottleneck)]
    return {
        name: next((at for at, layer in enumerate(layers) if name.startswith(layer)), len(layers))
        for name, _ in network.named_parameters()
    }


def parameter_groups(
    network: nn.Module, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Parameters that learn: weights with decay; norms and biases without; of each layer apart.

    `lr_scale` of a group is what its learning rate is multiplied by: layer_decay to the power of
    its distance from the classifier. With a layer decay of 1 there are two groups in all. Frozen
    parameters are left out. Follows timm.optim.param_groups_weight_decay and
    param_groups_layer_decay.
    """
    numbers = layer_numbers(network)
    last = max(numbers.values(), default=0)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            layer = numbers[name] if layer_decay != 1 else last
            groups[layer, parameter.dim() <= 1].append(parameter)
    return [
        {
            "params": groups[layer, bare],
            "weight_decay": 0.0 if bare else weight_decay,
            "lr_scale": layer_decay ** (last - layer),
        }
        for layer, bare in sorted(groups)
    ]


class Lamb(torch.optim.Optimizer):
    """LAMB (arXiv 1904.00962): Adam's update, scaled by each tensor's ratio of weight norm to
    update norm; for large batches, as in timm's recipes A1 to A3.

    Follows timm.optim.Lamb with its defaults: the gradient's global norm is brought down to 1,
    moments are those of Adam with bias correction, weight decay is part of the update, and
    parameters without weight decay are not adapted. Each parameter counts its steps (timm: a group
    does).
    """

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
            if decay := group["weight_decay"]:
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


class Schedule:
    """The learning rate of each step, from 0; `config` is resolved."""

    def __init__(self, config: Config, steps_per_epoch: int) -> None:
        assert config.lr is not None
        assert config.epochs is not None
        self._kind, self._decay_rate = config.sched, config.decay_rate
        self._peak, self._end = config.lr, config.lr * config.min_lr
        self._warmup = round(config.warmup_epochs * steps_per_epoch)
        self._total = config.epochs * steps_per_epoch
        self._every = max(1, round((config.decay_epochs or config.epochs) * steps_per_epoch))

    def lr(self, step: int) -> float:
        """The learning rate of this step."""
        if self._kind == "onecycle":
            first = self._peak / _FIRST
            top, last = _RISE * self._total - 1, self._total - 1
            if step <= top:
                return _cosine(first, self._peak, step / top if top > 0 else 1.0)
            return _cosine(self._peak, first / _LAST, (step - top) / (last - top))
        if step < self._warmup:
            return self._peak * max(0.01, (step + 1) / self._warmup)
        if self._kind == "constant":
            return self._peak
        if self._kind == "step":
            return max(self._end, self._peak * self._decay_rate ** (step // self._every))
        done = (step - self._warmup) / max(1, self._total - self._warmup)
        return _cosine(self._peak, self._end, done)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
