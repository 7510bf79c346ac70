"""Heat maps: against autograd by hand, and whether they depend on network and photo.

Split attention: what is read is what the network applies.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.explanation import explainer
from resnest_cli.explanation.explainer import watched
from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model.resnest import ResNeSt, SplitAttention, build
from resnest_cli.model.variants import Variant
from tests.networks import TINY, enliven, photos

DATA = Path(__file__).parents[1] / "data"
SIZE, PATCH = 128, 43  # pixels of the bundled model's photos; of what is hidden, a ninth


def by_hand(
    network: ResNeSt, photo: torch.Tensor, stage: int, index: int, *, by_place: bool = False
) -> torch.Tensor:
    """Grad-CAM (arXiv 1610.02391, equations 1 and 2) of the whole network, or HiResCAM."""
    kept: list[torch.Tensor] = []
    handle = network.stages()[stage - 1][-1].register_forward_hook(lambda *a: kept.append(a[2]))
    logits = network(photo)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, index], kept[0])
    gradient = gradient if by_place else gradient.mean(dim=(2, 3), keepdim=True)
    return (gradient * kept[0]).sum(dim=1).relu()[0].detach()


@pytest.mark.parametrize(
    ("variant", "stage"),
    [*((TINY, stage) for stage in (1, 2, 3, 4)), ("resnest14d", 3), ("resnest50d_1s4x24d", 4)],
)
def test_equals_autograd_by_hand(variant: Variant | str, stage: int) -> None:
    network = enliven(build(variant, num_classes=12)).eval()
    photo = photos(1, 96, torch.float32)
    logits, maps = explainer.run(network, photo, stage)
    assert torch.equal(logits, network(photo))
    classes = [11, 0, 3, 4, 5, 6, 7, 8, 9]  # more than are done at once
    found = explainer.grad_cam(network, maps, stage, classes)
    for one, index in zip(found, classes, strict=True):
        expected = by_hand(network, photo, stage, index)
        if expected.any():
            torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)
    assert found.max() > 1e-3  # or all would be equal to nothing
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_where_grad_cam_is_empty_each_place_has_its_own_gradient() -> None:
    """HiResCAM (arXiv 2011.08891, equation 5); in stage 4 it is the same."""
    network = enliven(build(TINY, num_classes=40)).eval()
    photo, empty = photos(1, 96, torch.float32), 0
    for stage in (3, 4):
        _, maps = explainer.run(network, photo, stage)
        found = explainer.grad_cam(network, maps, stage, range(40))
        for index, one in enumerate(found):
            if by_hand(network, photo, stage, index).any():
                continue
            expected = by_hand(network, photo, stage, index, by_place=True)
            torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)
            assert stage == 3 or not one.any()
            empty += bool(one.any())
    assert empty


def test_the_stage_that_suits_the_size() -> None:
    assert [explainer.chosen_stage(size) for size in (48, 96, 97, 224, 416)] == [3, 3, 4, 4, 4]
    network = enliven(build(TINY, num_classes=2)).eval()
    for size in (48, 97, 224):
        _, maps = explainer.run(network, photos(1, size, torch.float32), 4)
        assert maps.shape[2:] == (-(-size // 32),) * 2


def test_upsampled_to_the_photo() -> None:
    maps = torch.tensor([[[0.0, 4.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    large = explainer.upsampled(maps, 8)
    assert large.shape == (2, 8, 8)
    assert large[0].max() == 1
    assert large[0, 0, 7] == 1
    assert large[0, 7, 0] == 0.5
    assert not large[1].any()


# Whether the maps of the learned weights say something; on the real photos and parts of them.


@pytest.fixture(scope="module")
def learned() -> Classifier:
    return Classifier("demo", engine="torch", device="cpu")


@pytest.fixture(scope="module")
def network(learned: Classifier) -> ResNeSt:
    assert isinstance(learned.engine, TorchEngine)
    return learned.engine.network


def crops() -> Iterator[Image.Image]:
    for name in ("cat.jpg", "coffee.jpg"):
        with Image.open(DATA / name) as photo:
            width, height = photo.size
            yield photo.copy()
            for share in (0.9, 0.8, 0.7):
                for across, down in ((0.5, 0.5), (0, 0), (1, 1), (0, 1), (1, 0)):
                    x, y = (1 - share) * width * across, (1 - share) * height * down
                    box = (x, y, x + share * width, y + share * height)
                    left, top, right, bottom = map(round, box)
                    yield photo.crop((left, top, right, bottom))


@pytest.fixture(scope="module")
def inputs(learned: Classifier) -> list[torch.Tensor]:
    """32 photos, (1, 3, 128, 128) each."""
    return [torch.from_numpy(learned.preparation(photo))[None] for photo in crops()]


def best(network: ResNeSt, photo: torch.Tensor) -> tuple[int, float]:
    with torch.no_grad():
        shares = network(photo).softmax(1)[0]
    return int(shares.argmax()), float(shares.max())


def heat_of(network: ResNeSt, photo: torch.Tensor, index: int) -> NDArray[np.float32]:
    stage = explainer.chosen_stage(SIZE)
    _, maps = explainer.run(network, photo, stage)
    found: NDArray[np.float32] = explainer.upsampled(
        explainer.grad_cam(network, maps, stage, [index]), SIZE
    ).numpy()[0]
    return found


def correlation(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    """Spearman's."""
    first, second = (np.argsort(np.argsort(map_.ravel())) for map_ in (one, two))
    return float(np.corrcoef(first, second)[0, 1])


def test_random_weights_give_another_map(network: ResNeSt, inputs: list[torch.Tensor]) -> None:
    """The model parameter randomisation test of arXiv 1810.03292."""
    classes = [best(network, photo)[0] for photo in inputs]
    maps = [heat_of(network, *pair) for pair in zip(inputs, classes, strict=True)]

    def likeness(other: ResNeSt) -> NDArray[np.float64]:
        found = [heat_of(other, *pair) for pair in zip(inputs, classes, strict=True)]
        return np.array([correlation(a, b) for a, b in zip(maps, found, strict=True)])

    nearly = deepcopy(network)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in nearly.parameters():
            parameter.mul_(1 + 0.01 * torch.randn_like(parameter))
    assert likeness(nearly).mean() > 0.9
    found = [likeness(enliven(build("resnest23t"), seed).eval()) for seed in range(3)]
    assert np.mean(found) < 0.3  # sixteen cells agree or disagree by chance


def test_hiding_the_hot_place_matters_more_than_hiding_any(
    network: ResNeSt, inputs: list[torch.Tensor]
) -> None:
    """A patch of the mean colour; over the photos that the model is sure of."""
    drops = []
    for photo in inputs:
        index, before = best(network, photo)
        if before < 0.3:
            continue
        warmth = F.avg_pool2d(torch.from_numpy(heat_of(network, photo, index))[None], PATCH, 1)[0]
        side = SIZE - PATCH + 1
        ends = [divmod(int(place), side) for place in (warmth.argmax(), warmth.argmin())]
        anywhere = [(y, x) for y in range(0, side, 20) for x in range(0, side, 20)]
        hidden = photo.repeat(len(ends) + len(anywhere), 1, 1, 1)
        for one, (y, x) in zip(hidden, [*ends, *anywhere], strict=True):
            one[:, y : y + PATCH, x : x + PATCH] = 0  # the mean: the input is normalised
        with torch.no_grad():
            after = network(hidden).softmax(1)[:, index].numpy()
        drops.append((before - after[0], before - after[1], before - after[2:].mean()))
    hot, cold, mean = np.mean(drops, axis=0)
    print(f"{len(drops)} photos: hot {hot:.3f}, cold {cold:.3f}, anywhere {mean:.3f}")
    assert len(drops) >= 15
    assert hot > 1.2 * mean
    assert cold < 0.8 * mean


def test_the_map_turns_with_the_photo(network: ResNeSt, inputs: list[torch.Tensor]) -> None:
    with_it, without = [], []
    for photo in inputs:
        index, _ = best(network, photo)
        before = heat_of(network, photo, index)
        after = heat_of(network, photo.flip(-1), index)
        with_it.append(correlation(before, after[:, ::-1]))
        without.append(correlation(before, after))
    assert np.mean(with_it) > 0.6
    assert np.mean(with_it) > np.mean(without) + 0.2


# Split attention


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
