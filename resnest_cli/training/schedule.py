"""The learning rate as a function of the step, so that nothing of it has to be saved.

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

from resnest_cli.training.config import Config

_RISE, _FIRST, _LAST = 0.3, 25.0, 1e4  # OneCycleLR: pct_start, div_factor, final_div_factor


class Schedule:
    """The learning rate of each step, from 0; `config` is resolved."""

    def __init__(self, config: Config, steps_per_epoch: int) -> None:
        assert config.lr is not None
        assert config.epochs is not None
        self._kind = config.sched
        self._peak, self._end = config.lr, config.lr * config.min_lr
        self._warmup = round(config.warmup_epochs * steps_per_epoch)
        self._total = config.epochs * steps_per_epoch
        self._every = max(1, round((config.decay_epochs or config.epochs) * steps_per_epoch))
        self._rate = config.decay_rate

    def lr(self, step: int) -> float:
        """The learning rate of this step."""
        if self._kind == "onecycle":
            return self._one_cycle(step)
        if step < self._warmup:
            return self._peak * max(0.01, (step + 1) / self._warmup)
        if self._kind == "constant":
            return self._peak
        if self._kind == "step":
            return max(self._end, self._peak * self._rate ** (step // self._every))
        done = (step - self._warmup) / max(1, self._total - self._warmup)
        return _cosine(self._peak, self._end, done)

    def _one_cycle(self, step: int) -> float:
        first = self._peak / _FIRST
        top, last = _RISE * self._total - 1, self._total - 1
        if step <= top:
            return _cosine(first, self._peak, step / top if top > 0 else 1.0)
        return _cosine(self._peak, first / _LAST, (step - top) / (last - top))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
