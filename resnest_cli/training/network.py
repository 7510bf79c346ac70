"""The network to be trained: fresh or from a checkpoint, with a classifier for the new classes."""

from collections import OrderedDict

import torch
from torch import nn

from resnest_cli.data.dataset import DataSet
from resnest_cli.data.seeds import derived_seed
from resnest_cli.model.labels import canonical
from resnest_cli.model.loading import Model
from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.model.variants import Variant
from resnest_cli.training.settings import Config


def create_network(
    config: Config, variant: Variant, model: Model | None, dataset: DataSet
) -> tuple[ResNeSt, bool]:
    """A network on the CPU, and whether its classifier was taken over.

    Without a model all weights are drawn, the same for the same seed. Where the model knows every
    one of the classes, by id or by name, its classifier's rows are taken over in the new order;
    otherwise the classifier is drawn afresh.
    """
    source = model.load() if model is not None else None
    torch.manual_seed(derived_seed(config.seed, "weights"))
    network = build(
        (source.info.variant if source is not None else None) or variant,
        num_classes=len(dataset.class_ids),
        in_channels=1 if config.grey else 3,
        drop_rate=config.drop,
        drop_path_rate=config.drop_path,
        drop_block_rate=config.drop_block,
    )
    if source is None or model is None:
        return network, False
    tensors, rows = dict(source.tensors), _rows(model.class_ids or (), dataset.class_ids)
    rows = rows or _rows(model.class_names, dataset.class_ids)
    rows = rows or _rows(model.class_names, dataset.class_names)
    for name in ("fc.weight", "fc.bias"):
        old = tensors.pop(name, None)  # a network without a classifier has none
        if old is not None and rows is not None:
            tensors[name] = old[rows]
    stem = tensors["conv1.0.weight"]
    if network.in_channels < stem.shape[1]:  # as timm's `adapt_input_conv`: a grey photo has three
        tensors["conv1.0.weight"] = stem.sum(dim=1, keepdim=True)  # channels that are the same
    network.load_state_dict(tensors, strict=False)
    network.variant = variant
    return network, rows is not None


def _rows(old: tuple[str, ...], new: tuple[str, ...]) -> list[int] | None:
    """Where each new class stands among the old ones; None unless each stands there once."""
    old, new = (tuple(map(canonical, names)) for names in (old, new))
    if len(set(old)) < len(old) and any(old.count(name) > 1 for name in new):
        return None
    places = {name: index for index, name in enumerate(old)}
    return [places[name] for name in new] if all(name in places for name in new) else None


def freeze(network: ResNeSt, what: str) -> list[nn.Module]:
    """Freezes "backbone", "stages:N" or "none"; returns what must stay in evaluation mode."""
    if what == "none":
        return []
    count = 4 if what == "backbone" else int(what.partition(":")[2])
    modules = [network.conv1, network.bn1, *network.stages()[:count]]
    for module in modules:
        module.requires_grad_(False)
    return modules


def thawing(network: ResNeSt, what: str) -> list[nn.Module]:
    """What begins to learn one after the other, from the last stage to the stem.

    Gradual unfreezing: ULMFiT, arXiv 1801.06146, section 3.3. `what` as in `freeze`.
    """
    stem = nn.ModuleList([network.conv1, network.bn1])
    frozen = 0 if what == "none" else 1 + int(what.partition(":")[2])
    return [stem, *network.stages()][frozen:][::-1]


def has_live_norms(network: nn.Module, frozen: list[nn.Module]) -> bool:
    """Whether a batch norm learns its statistics, for which a batch of one photo is too few."""
    still = {id(inner) for module in frozen for inner in module.modules()}
    norms = (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    return any(id(norm) not in still for norm in norms)


def head(network: ResNeSt) -> nn.Module:
    """The classifier alone, for features that were computed once: (B, num_features) -> logits."""
    return nn.Sequential(OrderedDict(dropout=network.dropout, fc=network.fc))
