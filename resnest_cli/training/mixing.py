"""Mixup and cutmix, with label smoothing."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from resnest_cli.training.config import Config

_OWN = 0x6D6978  # "mix"


class Mixing:
    """Mixes the photos of a batch, and their labels, by torchvision's MixUp or CutMix.

    With both on, each batch takes one or the other with equal probability (as timm's switch).
    """

    def __init__(self, config: Config, num_classes: int) -> None:
        choices: list[v2.Transform] = []
        if num_classes > 1:
            if config.mixup > 0:
                choices.append(v2.MixUp(alpha=config.mixup, num_classes=num_classes))
            if config.cutmix > 0:
                choices.append(v2.CutMix(alpha=config.cutmix, num_classes=num_classes))
        self._choices = choices
        self._smoothing, self._classes = config.smoothing, num_classes

    @property
    def active(self) -> bool:
        """Whether there is anything to mix."""
        return bool(self._choices)

    def __call__(self, photos: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) and int64 (B,) -> mixed photos and targets, float32 (B, num_classes).

        All draws come from `seed`; torch's own generator is left as it was. Targets are smoothed.
        """
        devices = [photos.device] if photos.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            # Not `seed` itself: the step draws its dropout from that.
            torch.manual_seed(seed ^ _OWN)
            choice = self._choices[int(torch.randint(len(self._choices), ()))]
            mixed, targets = choice(photos, labels)
        smoothed = targets * (1 - self._smoothing) + self._smoothing / self._classes
        return mixed.contiguous(memory_format=_format(photos)), smoothed.float()


def _format(photos: Tensor) -> torch.memory_format:
    last = photos.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
