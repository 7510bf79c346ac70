"""Class activation maps: which places of a photo speak for a class.

Grad-CAM (arXiv 1610.02391) by captum's `LayerGradCam`: the channels of a map, weighted by the mean
gradient of the class's logit and added up; what speaks against the class counts as nothing (ReLU).

Deviation in means, not in result: the network runs once, up to the map, for all classes; captum is
given what follows. Of stage 4 that is the classifier alone, and the map is that of CAM (arXiv
1512.04150).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnest_cli.model.resnest import ResNeSt
from resnest_cli.report import canvas

canvas.matplotlib()  # quiet: captum imports it, and it logs about its caches
from captum.attr import LayerGradCam  # noqa: E402

_AT_ONCE = 8  # classes; every one is a run of the stages behind the map, with its gradients

# Below so many cells a side, stage 4 says little more about the place than chance. Measured with
# the bundled model on 452 Tiny ImageNet photos, of 48 pixels, that it is sure of (above 30 %):
# hiding the ninth of a photo that a map calls hottest lowers the probability by 0.22 with stage 4
# (2 cells a side), 0.34 with stage 3 (3 cells) and 0.31 with stage 2 (6 cells); hiding any ninth by
# 0.21. At 96 pixels stages 4 and 3 are equal: 0.27, any ninth 0.16.
_FEWEST_CELLS = 4


class _Rest(nn.Module):
    """What follows a stage: its map (B, C, h, w) -> logits (B, classes)."""

    def __init__(self, network: ResNeSt, stage: int) -> None:
        super().__init__()
        self.map = nn.Identity()  # the layer that captum looks at
        self.blocks = nn.Sequential(*(b for later in network.stages()[stage:] for b in later))
        self.network = network

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, classes)."""
        return self.network.forward_head(self.blocks(self.map(maps)))


def chosen_stage(size: int) -> int:
    """The stage to look at in photos of `size` pixels a side: 4, or 3 where its map is too small.

    Stage 4 has a cell for every 32 pixels.
    """
    return 4 if -(-size // 32) >= _FEWEST_CELLS else 3


@torch.no_grad()
def run(network: ResNeSt, photos: Tensor, stage: int) -> tuple[Tensor, Tensor]:
    """Photos (B, 3, H, W) -> logits (B, classes), and the map of `stage` 1 to 4, (B, C, h, w).

    The logits are bit for bit those of `network(photos)`.
    """
    maps = network.forward_intermediates(photos, {stage, 4})
    return network.forward_head(maps[-1]), maps[0]


def grad_cam(network: ResNeSt, maps: Tensor, stage: int, classes: Sequence[int]) -> Tensor:
    """One photo's map of `stage`, (1, C, h, w) -> a map for each of K classes, (K, h, w) from 0 up.

    The unit is the logit's: the more, the more a place speaks for the class.
    """
    rest = _Rest(network, stage)
    method = LayerGradCam(rest, rest.map)
    found = []
    for start in range(0, len(classes), _AT_ONCE):
        part = torch.tensor(classes[start : start + _AT_ONCE], device=maps.device)
        batch = maps.expand(len(part), -1, -1, -1).clone()  # (K, C, h, w)
        found.append(method.attribute(batch, part, relu_attributions=True).detach())  # (K, 1, h, w)
    return torch.cat(found)[:, 0]


def upsampled(maps: Tensor, size: int) -> Tensor:
    """Maps (K, h, w) -> (K, size, size), bilinear, each divided by its maximum: in [0, 1].

    A map without a positive cell stays zero everywhere.
    """
    large = F.interpolate(maps[:, None], (size, size), mode="bilinear")[:, 0]
    most = large.amax(dim=(1, 2), keepdim=True)
    return torch.where(most > 0, large / most.clamp_min(torch.finfo(large.dtype).tiny), 0.0)
