"""The network to be trained: fresh or from a checkpoint, with a classifier for the new classes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnest_cli.model.checkpoint import Checkpoint
from resnest_cli.model.class_names import canonical
from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.model.variants import Variant
from resnest_cli.training.config import Config
from resnest_cli.training.seeds import derived_seed


@dataclass(frozen=True, slots=True)
class Start:
    """A network in training mode on the CPU, and whether its classifier was taken over."""

    network: ResNeSt
    kept_classifier: bool


def fresh(config: Config, variant: Variant, num_classes: int) -> Start:
    """A network with drawn weights, the same for the same seed."""
    torch.manual_seed(derived_seed(config.seed, "weights"))
    return Start(_built(config, variant, num_classes), kept_classifier=False)


def from_checkpoint(
    config: Config,
    source: Checkpoint,
    old_names: tuple[str, ...],
    old_ids: tuple[str, ...] | None,
    class_ids: tuple[str, ...],
    class_names: tuple[str, ...],
) -> Start:
    """The checkpoint's network with a classifier for other classes.

    Where the checkpoint knows every one of the classes, by id or by name, its classifier's rows are
    taken over in the new order; otherwise the classifier is drawn afresh.
    """
    variant = source.info.variant
    assert variant is not None
    torch.manual_seed(derived_seed(config.seed, "weights"))
    network = _built(config, variant, len(class_ids))
    tensors = dict(source.tensors)
    rows = _rows(old_ids or (), class_ids)
    rows = rows or _rows(old_names, class_ids) or _rows(old_names, class_names)
    for name in ("fc.weight", "fc.bias"):
        old = tensors.pop(name, None)  # a network without a classifier has none
        if old is not None and rows is not None:
            tensors[name] = old[rows]
    network.load_state_dict(tensors, strict=False)
    return Start(network, kept_classifier=rows is not None)


def _rows(old: tuple[str, ...], new: tuple[str, ...]) -> list[int] | None:
    """Where each new class stands among the old ones; None unless each stands there once."""
    old, new = (tuple(map(canonical, names)) for names in (old, new))
    if len(set(old)) < len(old) and any(old.count(name) > 1 for name in new):
        return None
    places = {name: index for index, name in enumerate(old)}
    return [places[name] for name in new] if all(name in places for name in new) else None


def _built(config: Config, variant: Variant, num_classes: int) -> ResNeSt:
    return build(
        variant,
        num_classes=num_classes,
        drop_rate=config.drop,
        drop_path_rate=config.drop_path,
        drop_block_rate=config.drop_block,
    )


def freeze(network: ResNeSt, what: str) -> list[nn.Module]:
    """Freezes "backbone", "stages:N" or "none"; returns what must stay in evaluation mode.

    Frozen parameters get no gradient, and frozen batch norms keep their running statistics.
    """
    if what == "none":
        return []
    count = 4 if what == "backbone" else int(what.partition(":")[2])
    modules = [network.conv1, network.bn1, *network.stages()[:count]]
    for module in modules:
        module.requires_grad_(False)
    return modules


def thawing(network: ResNeSt, what: str) -> list[nn.Module]:
    """What is not frozen for good, but for the classifier, from the last stage to the stem.

    In this order, one after the other, they begin to learn under gradual unfreezing (ULMFiT, arXiv
    1801.06146, section 3.3). `what` is as in `freeze`, without "backbone".
    """
    stem = nn.ModuleList([network.conv1, network.bn1])
    frozen = 0 if what == "none" else 1 + int(what.partition(":")[2])
    return [stem, *network.stages()][frozen:][::-1]


def has_live_norms(network: nn.Module, frozen: list[nn.Module]) -> bool:
    """Whether a batch norm learns its statistics, for which a batch of one photo is too few."""
    still = {id(inner) for module in frozen for inner in module.modules()}
    return any(
        isinstance(module, nn.BatchNorm2d) and id(module) not in still
        for module in network.modules()
    )


class Head(nn.Module):
    """The classifier alone, for features that were computed once: (B, num_features) -> logits."""

    def __init__(self, network: ResNeSt) -> None:
        super().__init__()
        assert isinstance(network.fc, nn.Linear)
        self.dropout = network.dropout
        self.fc = network.fc

    def forward(self, features: Tensor) -> Tensor:
        """(B, num_features) -> (B, num_classes)."""
        logits: Tensor = self.fc(self.dropout(features))
        return logits


def with_backbone(
    backbone: Mapping[str, Tensor], head: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The whole network's state dict, from a frozen backbone's and a head's."""
    return {**backbone, **head}
