"""Our network against two independent ones: timm's ResNeSt and the original release.

All weights are lively (see tests.networks): fresh ones would hide whatever a block computes.
"""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from resnest.torch import ablation
from resnest.torch import resnest as original
from torch import Tensor, nn

from resnest_cli.model.resnest import ResNeSt
from resnest_cli.model.resnest import build as build_network
from resnest_cli.model.variants import VARIANTS, Variant, multiply_adds
from tests.networks import EACH, enliven, photos

OURS = "resnest14t"  # in nobody's table: built of timm's parts
TIMM = [name for name in VARIANTS if timm.is_model(name) or name == OURS]
ORIGINAL = [name for name, variant in VARIANTS.items() if variant.aliases and name != OURS]

References = dict[str, nn.Module]


def original_function(variant: Variant) -> Callable[..., nn.Module]:
    alias = variant.aliases[0]
    return getattr(original, alias, None) or getattr(ablation, alias)


def timm_network(variant: Variant) -> nn.Module:
    if variant.id != OURS:
        return timm.create_model(variant.id)
    attention = {"radix": variant.radix, "avd": True, "avd_first": variant.avd_first}
    return timm.models.resnet.ResNet(
        block=timm.models.resnest.ResNestBottleneck, layers=variant.blocks, channels=variant.widths,
        num_classes=variant.num_classes, stem_type="deep", stem_width=variant.stem_width,
        avg_down=True, base_width=variant.base_width, cardinality=variant.cardinality,
        block_args=attention,
    )  # fmt: skip


def build(name: str, **more: Any) -> ResNeSt:
    return build_network(name, num_classes=VARIANTS[name].num_classes, **more)


def references(variant: Variant, **options: Any) -> References:
    found: References = {}
    if variant.id in TIMM:
        found["timm"] = timm_network(variant)
    if variant.id in ORIGINAL:
        found["original"] = original_function(variant)(**options)
    return found


def original_maps(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The maps of the stages; the original has no function for them."""
    maps = [network.relu(network.bn1(network.conv1(x)))]
    out = network.maxpool(maps[0])
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        out = stage(out)
        maps.append(out)
    return maps


def everything(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Maps, pooled features, logits, and the gradient of a fixed sum of them, by name."""
    network.zero_grad()
    if isinstance(network, ResNeSt):
        maps = network.forward_intermediates(x)
        logits, pooled = (
            network.forward_head(maps[4]),
            network.forward_head(maps[4], pre_logits=True),
        )
    elif hasattr(network, "forward_intermediates"):
        _, maps = network.forward_intermediates(x)
        logits, pooled = (
            network.forward_head(maps[4]),
            network.forward_head(maps[4], pre_logits=True),
        )
    else:
        maps = original_maps(network, x)
        pooled = network.avgpool(maps[4])
        logits = network.fc(pooled)
    weights = torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype)
    (logits * weights).mean().backward()
    found = {f"map {i}": m for i, m in enumerate(maps)} | {"pooled": pooled, "logits": logits}
    found |= {
        f"gradient of {n}": p.grad for n, p in network.named_parameters() if p.grad is not None
    }
    found |= {f"buffer {n}": b.clone() for n, b in network.named_buffers()}
    return {name: tensor.detach() for name, tensor in found.items()}


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor], relative: bool) -> float:
    """Largest difference of any tensor, absolute or by the reference's largest value."""
    assert sorted(ours) == sorted(theirs)
    assert all(ours[name].shape == theirs[name].shape for name in ours)
    return max(
        float((ours[name] - theirs[name]).abs().max())
        / (float(theirs[name].abs().max()) if relative else 1.0)
        for name in ours
    )


def test_the_references_cover_the_table() -> None:
    assert len(VARIANTS) == 14
    assert len(TIMM) == 9
    assert len(ORIGINAL) == 11
    assert set(TIMM) | set(ORIGINAL) == set(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict_has_the_references_keys_and_shapes(name: str) -> None:
    with torch.device("meta"):
        theirs = references(VARIANTS[name])
    ours = build(name, init=False).state_dict()
    for network in theirs.values():
        assert {key: value.shape for key, value in network.state_dict().items()} == {
            key: value.shape for key, value in ours.items()
        }


@pytest.mark.parametrize("name", EACH)
def test_float64_forward_and_gradients_equal_the_references(name: str) -> None:
    ours = enliven(build(name).double())
    theirs = {key: network.double() for key, network in references(VARIANTS[name]).items()}
    x = photos(6, 64)
    for network in theirs.values():
        network.load_state_dict(ours.state_dict())
    for mode in ("eval", "train"):
        mine = everything(ours.train(mode == "train"), x)
        assert len(mine) > 100
        for key, network in theirs.items():
            found = distance(mine, everything(network.train(mode == "train"), x), relative=False)
            print(f"{name} against {key}, {mode}, float64: largest difference {found:.1e}")
            assert found < 1e-9


@pytest.mark.parametrize("name", ["resnest14d", "resnest50d_4s2x40d"])
def test_float64_training_with_channels_last_equals_the_references(name: str) -> None:
    """Where small maps go through a matrix product."""
    ours = enliven(build(name).double()).to(memory_format=torch.channels_last).train()
    x = photos(6, 64)
    for key, theirs in references(VARIANTS[name]).items():
        theirs.double().load_state_dict(ours.state_dict())
        mine = everything(ours, x.contiguous(memory_format=torch.channels_last))
        found = distance(mine, everything(theirs.train(), x), relative=False)
        print(f"{name} against {key}, channels last, float64: largest difference {found:.1e}")
        assert found < 1e-9


@pytest.mark.parametrize("name", EACH)
def test_float32_evaluation_equals_the_references(name: str) -> None:
    ours = enliven(build(name)).eval()
    x = photos(2, 64, torch.float32)
    names = ["map 4", "pooled", "logits"]
    mine = everything(ours, x)
    for key, network in references(VARIANTS[name]).items():
        network.load_state_dict(ours.state_dict())
        reference = everything(network.eval(), x)
        found = distance(
            {n: mine[n] for n in names}, {n: reference[n] for n in names}, relative=True
        )
        print(f"{name} against {key}, eval, float32: {found:.1e} of the largest value")
        assert found < 1e-5


@pytest.mark.parametrize(("stride", "options"), [(8, {"dilated": True}), (16, {"dilation": 2})])
@pytest.mark.parametrize("name", ["resnest50d", "resnest50d_4s2x40d"])
def test_dilated_networks_equal_the_original(name: str, stride: int, options: dict) -> None:
    ours = enliven(build(name, output_stride=stride).double())
    theirs = original_function(VARIANTS[name])(**options).double()
    theirs.load_state_dict(ours.state_dict())
    x = photos(2, 64)
    mine = everything(ours.eval(), x)
    assert mine["map 4"].shape[-1] == 64 // stride
    assert distance(mine, everything(theirs.eval(), x), relative=False) < 1e-9


def counted(network: nn.Module, size: int) -> int:
    """Multiply-adds of convolutions and linear layers for one photo, counted on meta tensors."""
    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network.eval()(torch.empty(1, 3, size, size, device="meta"))
    return total


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_and_multiply_adds_are_the_references_and_the_tables(name: str) -> None:
    variant = VARIANTS[name]
    with torch.device("meta"):
        theirs = references(variant)
    networks = {"ours": build(name, init=False)} | theirs
    for key, network in networks.items():
        parameters = sum(parameter.numel() for parameter in network.parameters())
        macs = counted(network, variant.preprocessing.size)
        print(f"{name} {key}: {parameters:,} parameters, {macs:,} multiply-adds")
        assert parameters == variant.parameters
        assert round(macs / 1e9, 2) == variant.gmacs
        assert sum(multiply_adds(variant, variant.preprocessing.size).values()) == macs
