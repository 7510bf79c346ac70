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

from resnest_cli.model.cost import multiply_adds
from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.model.variants import VARIANTS, Variant
from tests.networks import EACH, lively, photos, slow_but

OURS = {"resnest14t", "resnest23t"}  # in nobody's table: built of timm's parts
TIMM = [name for name in VARIANTS if timm.is_model(name) or name in OURS]
ORIGINAL = [name for name, variant in VARIANTS.items() if variant.aliases and name not in OURS]

References = dict[str, nn.Module]


def original_function(variant: Variant) -> Callable[..., nn.Module]:
    alias = variant.aliases[0]
    return getattr(original, alias, None) or getattr(ablation, alias)


def timm_network(variant: Variant) -> nn.Module:
    if variant.id not in OURS:
        return timm.create_model(variant.id)
    attention = {"radix": variant.radix, "avd": True, "avd_first": variant.avd_first}
    return timm.models.resnet.ResNet(
        block=timm.models.resnest.ResNestBottleneck, layers=variant.blocks, channels=variant.widths,
        num_classes=variant.num_classes, stem_type="deep", stem_width=variant.stem_width,
        avg_down=True, base_width=variant.base_width, cardinality=variant.cardinality,
        block_args=attention,
    )  # fmt: skip


def ours_of(name: str, dtype: torch.dtype = torch.float32) -> ResNeSt:
    return lively(name, dtype, num_classes=VARIANTS[name].num_classes)


def references(variant: Variant) -> References:
    """On the meta device: what they would draw is replaced anyway."""
    found: References = {}
    with torch.device("meta"):
        if variant.id in TIMM:
            found["timm"] = timm_network(variant)
        if variant.id in ORIGINAL:
            found["original"] = original_function(variant)()
    return found


def loaded(network: nn.Module, ours: nn.Module) -> nn.Module:
    """A reference, with our weights in our precision."""
    state = ours.state_dict()
    network.to_empty(device="cpu").to(state["fc.weight"].dtype).load_state_dict(state)
    return network


def original_maps(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The maps of the stages; the original has no function for them."""
    maps = [network.relu(network.bn1(network.conv1(x)))]
    out = network.maxpool(maps[0])
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        out = stage(out)
        maps.append(out)
    return maps


def forward(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Maps, pooled features and logits, by name."""
    if hasattr(network, "forward_intermediates"):
        found = network.forward_intermediates(x)
        maps = found if isinstance(network, ResNeSt) else found[1]
        pooled = network.forward_head(maps[4], pre_logits=True)
        logits = network.forward_head(maps[4])
    else:
        maps = original_maps(network, x)
        pooled = network.avgpool(maps[4])
        logits = network.fc(pooled)
    return {f"map {i}": m for i, m in enumerate(maps)} | {"pooled": pooled, "logits": logits}


forwarded = torch.no_grad()(forward)


def everything(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What `forward` gives, and the gradient of a fixed sum of the logits."""
    network.zero_grad()
    found = forward(network, x)
    weights = torch.linspace(-1, 1, found["logits"].shape[1], dtype=x.dtype)
    (found["logits"] * weights).mean().backward()
    assert len(list(network.parameters())) > 40
    found |= {
        f"gradient of {n}": p.grad for n, p in network.named_parameters() if p.grad is not None
    }
    found |= {f"buffer {n}": b.clone() for n, b in network.named_buffers()}
    return {name: tensor.detach() for name, tensor in found.items()}


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor], relative: bool) -> float:
    """Largest difference of any tensor, absolute or by the reference's largest value."""
    assert sorted(ours) == sorted(theirs)
    assert len(ours) >= 3
    assert all(ours[name].shape == theirs[name].shape for name in ours)
    return max(
        float((ours[name] - theirs[name]).abs().max())
        / (float(theirs[name].abs().max()) if relative else 1.0)
        for name in ours
    )


def test_the_references_cover_the_table() -> None:
    assert len(VARIANTS) == 15
    assert len(TIMM) == 10
    assert len(ORIGINAL) == 11
    assert set(TIMM) | set(ORIGINAL) == set(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict_has_the_references_keys_and_shapes(name: str) -> None:
    variant = VARIANTS[name]
    theirs = references(variant)
    ours = build(variant, init=False, num_classes=variant.num_classes).state_dict()
    for network in theirs.values():
        assert {key: value.shape for key, value in network.state_dict().items()} == {
            key: value.shape for key, value in ours.items()
        }


@pytest.mark.parametrize("name", EACH)
def test_float64_forward_and_gradients_equal_the_references(name: str) -> None:
    ours = ours_of(name, torch.float64)
    theirs = {key: loaded(one, ours) for key, one in references(VARIANTS[name]).items()}
    x = photos(3, 64)
    for mode in ("eval", "train"):
        # The gradient in evaluation, as of frozen statistics, is looked at in one of them.
        compared = everything if mode == "train" or name == "resnest14d" else forwarded
        mine = compared(ours.train(mode == "train"), x)
        for key, network in theirs.items():
            found = distance(mine, compared(network.train(mode == "train"), x), relative=False)
            print(f"{name} against {key}, {mode}, float64: largest difference {found:.1e}")
            assert found < 1e-9


@pytest.mark.parametrize("name", ["resnest14d", "resnest50d_4s2x40d"])
def test_float64_training_with_channels_last_equals_the_references(name: str) -> None:
    """Where small maps go through a matrix product."""
    ours = ours_of(name, torch.float64)
    ours = ours.to(memory_format=torch.channels_last).train()
    x = photos(3, 64)
    for key, network in references(VARIANTS[name]).items():
        theirs = loaded(network, ours)
        mine = everything(ours, x.contiguous(memory_format=torch.channels_last))
        found = distance(mine, everything(theirs.train(), x), relative=False)
        print(f"{name} against {key}, channels last, float64: largest difference {found:.1e}")
        assert found < 1e-9


@pytest.mark.parametrize("name", slow_but("resnest14d", "resnest50d_4s2x40d"))
def test_float32_evaluation_equals_the_references(name: str) -> None:
    ours = ours_of(name).eval()
    x = photos(2, 64, torch.float32)
    names = ["map 4", "pooled", "logits"]
    mine = forwarded(ours, x)
    for key, network in references(VARIANTS[name]).items():
        reference = forwarded(loaded(network, ours).eval(), x)
        found = distance(
            {n: mine[n] for n in names}, {n: reference[n] for n in names}, relative=True
        )
        print(f"{name} against {key}, eval, float32: {found:.1e} of the largest value")
        assert found < 1e-5


@pytest.mark.parametrize(
    ("name", "stride", "options"),
    [("resnest50d", 8, {"dilated": True}), ("resnest50d_4s2x40d", 16, {"dilation": 2})],
)
def test_dilated_networks_equal_the_original(name: str, stride: int, options: dict) -> None:
    ours = lively(name, torch.float64, output_stride=stride)
    with torch.device("meta"):
        network = original_function(VARIANTS[name])(**options)
    theirs = loaded(network, ours)
    x = photos(1, 64)
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


@pytest.mark.parametrize("name", EACH)
def test_parameters_and_multiply_adds_are_the_references_and_the_tables(name: str) -> None:
    variant = VARIANTS[name]
    ours = build(variant, init=False, num_classes=variant.num_classes)
    networks = {"ours": ours} | references(variant)
    for key, network in networks.items():
        parameters = sum(parameter.numel() for parameter in network.parameters())
        macs = counted(network, variant.preprocessing.size)
        print(f"{name} {key}: {parameters:,} parameters, {macs:,} multiply-adds")
        assert parameters == variant.parameters
        assert round(macs / 1e9, 2) == variant.gmacs
        assert sum(multiply_adds(variant, variant.preprocessing.size).values()) == macs
