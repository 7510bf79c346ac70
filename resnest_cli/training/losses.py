"""The loss: cross entropy or binary cross entropy, of hard or soft targets, classes weighted.

Binary cross entropy asks of every class by itself whether the photo shows it ("ResNet strikes
back", arXiv 2110.00476); with a threshold, every class that has more than that share of a mixed
photo counts in full.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from resnest_cli.training.config import Config


class Loss:
    """The mean loss of a batch in nats, float32.

    Cross entropy is torch's CrossEntropyLoss: with class weights and hard labels a weighted mean,
    with soft targets a mean over photos. Binary cross entropy is timm.loss.BinaryCrossEntropy: the
    mean over photos and classes. Soft targets, (B, num_classes), are taken as they are: who mixes
    smooths; hard labels, int64 (B,), are smoothed here.
    """

    def __init__(self, config: Config, class_weights: Tensor | None = None) -> None:
        self._smoothing = config.smoothing
        self._binary, self._threshold = config.bce_loss, config.bce_target_thresh
        self._weights = class_weights

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, num_classes) of any float type; a scalar."""
        logits = logits.float() if logits.dtype != torch.float64 else logits
        weights = None if self._weights is None else self._weights.to(logits)
        soft = targets.is_floating_point()
        if not self._binary:
            smoothing = 0.0 if soft else self._smoothing
            return F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)
        wanted = targets.to(logits.dtype) if soft else self._smoothed(logits, targets)
        if self._threshold > 0:
            wanted = wanted.gt(self._threshold).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, wanted, weights)

    def share(self, targets: Tensor) -> float:
        """What the mean was divided by, so that means of several batches can be put together."""
        if self._weights is None or self._binary or targets.is_floating_point():
            return float(len(targets))
        return float(self._weights.to(targets.device)[targets].sum(dtype=torch.float64))

    def _smoothed(self, logits: Tensor, labels: Tensor) -> Tensor:
        rest = self._smoothing / logits.shape[1]
        wanted = torch.full_like(logits, rest)
        return wanted.scatter_(1, labels[:, None], 1 - self._smoothing + rest)
