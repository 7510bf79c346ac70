"""The loss where a photo may have several labels: each class is a question of its own.

Binary cross entropy of the sigmoid, or the asymmetric loss of "Asymmetric Loss For Multi-Label
Classification" (Ridnik et al., ICCV 2021, arXiv 2009.14119), equations 4 to 7:

    of what a photo shows           - (1 - p)^g+ log p
    of what it does not show        - q^g- log(1 - q),    q = max(p - margin, 0)

which gives the many easy absences little weight, and none to those below the margin. As in the
published code the powers are weights, through which no gradient flows (in timm's
`AsymmetricLossMultiLabel` it does, unless told), and a target between 0 and 1 blends both.

Both are means over photos and classes (the published code has the sum). Smoothing moves each target
towards 1/2, t (1 - s) + s / 2, as timm's loss of several labels does; weights of classes multiply
what photos show, as `pos_weight` of torch's loss.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from resnest_cli.training.settings import Config

_LEAST = 1e-8  # of a probability whose logarithm is taken, as in the published code


class LabelLoss:
    """The mean loss of a batch in nats, float32; `weights` are float32 (classes,)."""

    def __init__(self, config: Config, weights: Tensor | None = None) -> None:
        self._config, self._weights = config, weights

    def __call__(self, logits: Tensor, targets: Tensor, answers: Tensor | None = None) -> Tensor:
        """Logits (B, classes) of any float type, targets in [0, 1] of the same shape; a scalar.

        A teacher has no `answers` here, see `conflicts`.
        """
        assert answers is None
        logits = logits.float() if logits.dtype != torch.float64 else logits
        wanted, config = targets.to(logits.dtype), self._config
        if config.bce_target_thresh > 0:  # of mixed photos
            wanted = wanted.gt(config.bce_target_thresh).to(logits.dtype)
        wanted = wanted * (1 - config.smoothing) + config.smoothing / 2
        weights = None if self._weights is None else self._weights.to(logits)
        if not config.asl:
            return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights)
        return self._asymmetric(logits, wanted, weights)

    def _asymmetric(self, logits: Tensor, wanted: Tensor, weights: Tensor | None) -> Tensor:
        config, shown = self._config, torch.sigmoid(logits)
        absent = (1 - shown + config.asl_margin).clamp(max=1)
        positive = wanted * shown.clamp(min=_LEAST).log()
        negative = (1 - wanted) * absent.clamp(min=_LEAST).log()
        if weights is not None:
            positive = positive * weights
        with torch.no_grad():
            right = shown * wanted + absent * (1 - wanted)
            power = config.asl_gamma_pos * wanted + config.asl_gamma_neg * (1 - wanted)
            focus = (1 - right) ** power
        return -(focus * (positive + negative)).mean()

    def share(self, targets: Tensor) -> float:
        """What the mean was divided by, so that means of several batches can be put together."""
        return float(len(targets))
