"""Batch norms folded into the convolutions before them: the same network with half the passes.

In evaluation mode a batch norm is a fixed scale and shift of each channel, so that the convolution
can have them in its weights. Source: torch.nn.utils.fusion.fuse_conv_bn_eval. Measured with
resnest50d at 224 pixels on one core with AVX-512, CPU time a photo in batches of 4: 93.5 ms plain,
86.0 folded, 80.9 with channels last, 76.9 with both.
"""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnest_cli.model.resnest import Bottleneck, ResNeSt, SplitAttention


def folded(network: ResNeSt) -> ResNeSt:
    """A copy in evaluation mode without batch norms, which gives the same answers but rounding.

    The copy cannot be trained or saved as a checkpoint: its state dict has other keys.
    """
    network = copy.deepcopy(network).eval()
    _fold(network.conv1, "0", network.conv1, "1")
    _fold(network.conv1, "3", network.conv1, "4")
    _fold(network.conv1, "6", network, "bn1")
    for module in list(network.modules()):
        if isinstance(module, Bottleneck):
            _fold(module, "conv1", module, "bn1")
            _fold(module, "conv3", module, "bn3")
            if module.downsample is not None:
                _fold(module.downsample, "1", module.downsample, "2")
        elif isinstance(module, SplitAttention):
            _fold(module, "conv", module, "bn0")
            _fold(module, "fc1", module, "bn1")
    return network


def _fold(parent: nn.Module, conv: str, holder: nn.Module, norm: str) -> None:
    """Replaces `parent.conv` by itself with `holder.norm` in it, and that by nothing."""
    convolution, batch_norm = getattr(parent, conv), getattr(holder, norm)
    setattr(parent, conv, fuse_conv_bn_eval(convolution, batch_norm))
    setattr(holder, norm, nn.Identity())
