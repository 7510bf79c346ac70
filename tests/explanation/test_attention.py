"""The attention that is read is the attention that the network applies."""

import numpy as np
import pytest
import torch

from resnest_cli.explanation.attention import watched
from resnest_cli.model.resnest import SplitAttention, build
from tests.networks import TINY, enliven, photos


@pytest.mark.parametrize(
    ("variant", "radix", "groups", "blocks"),
    [("resnest50d_1s4x24d", 1, 4, 16), ("resnest14d", 2, 1, 4), ("resnest50d_4s2x40d", 4, 2, 16)],
)
def test_blocks_of_every_kind(variant: str, radix: int, groups: int, blocks: int) -> None:
    network = enliven(build(variant, num_classes=3)).eval()
    with watched(network) as found, torch.no_grad():
        network(photos(1, 64, torch.float32))
    assert len(found) == blocks
    assert [one.stage for one in found] == sorted(one.stage for one in found)
    assert [one.block for one in found if one.stage == 1] == list(range(1, len(network.layer1) + 1))
    for one in found:
        width = network.stages()[one.stage - 1][0].conv1.out_channels
        assert one.weights.shape == (radix, width)
        assert one.cardinality == groups
        assert sum(one.preferred) == pytest.approx(1)
        if radix > 1:
            np.testing.assert_allclose(one.weights.sum(axis=0), 1, atol=1e-6)
            assert 1 / radix < one.strength <= 1
        else:
            assert one.strength == pytest.approx(one.weights.mean())


def test_it_is_what_the_splits_are_weighted_with() -> None:
    network = enliven(build(TINY, num_classes=3)).eval()
    inside: list[tuple[torch.Tensor, torch.Tensor]] = []
    kept: dict[int, torch.Tensor] = {}
    for module in network.modules():
        if isinstance(module, SplitAttention):
            module.act0.register_forward_hook(
                lambda act, _, out: kept.__setitem__(id(act), out.clone())
            )
            module.register_forward_hook(
                lambda split, _, out: inside.append((kept[id(split.act0)], out))
            )
    with watched(network) as found, torch.no_grad():
        network(photos(1, 64, torch.float32))
    assert len(inside) == len(found) == 5
    for one, (splits, out) in zip(found, inside, strict=True):
        radix, channels = one.weights.shape
        parts = splits[0].view(radix, channels, *splits.shape[2:])
        expected = (parts * torch.from_numpy(one.weights)[..., None, None]).sum(dim=0)
        torch.testing.assert_close(out[0], expected, atol=1e-5, rtol=1e-5)


def test_nothing_is_watched_any_more() -> None:
    network = enliven(build(TINY, num_classes=3)).eval()
    with watched(network) as found:
        pass
    network(photos(1, 64, torch.float32))
    assert found == []
