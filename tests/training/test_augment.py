"""Augmentation, mixing: each setting acts, the seed decides everything, nothing else changes."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from resnest_cli.images.preprocess import preprocess
from resnest_cli.model.variants import Preprocessing
from resnest_cli.training.augment import _MIX, Augment, Mixing
from resnest_cli.training.settings import Config, parse_aa
from tests.conftest import make_photo

SIZE = 48
PREPROCESSING = Preprocessing(SIZE, 1.0, "bilinear")
STILL = Config(
    command="train", data="d", model="m", recipe="quick", scale=1.0, ratio=1.0, hflip=0.0
)


@pytest.fixture
def image(tmp_path: Path) -> Image.Image:
    return Image.open(make_photo(tmp_path / "photo.png", (SIZE, SIZE))).convert("RGB")


def some(config: Config, image: Image.Image, count: int = 12, first: int = 0) -> torch.Tensor:
    augment = Augment(config, PREPROCESSING)
    return torch.stack([augment(image, seed) for seed in range(first, first + count)])


def test_without_any_it_is_what_predict_sees(image: Image.Image) -> None:
    expected = torch.from_numpy(preprocess(image, PREPROCESSING))
    for photo in some(STILL, image):
        assert torch.equal(photo, expected)
    assert expected.shape == (3, SIZE, SIZE)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.3}, {"ratio": 2.0, "scale": 0.9}, {"hflip": 0.5}, {"color_jitter": 0.4},
        {"aa": "auto"}, {"aa": "trivial"}, {"aa": "rand-m9-n2"}, {"reprob": 0.9},
    ],
)  # fmt: skip
def test_each_setting_acts_and_the_seed_decides(image: Image.Image, change: dict) -> None:
    still = torch.from_numpy(preprocess(image, PREPROCESSING))
    config = replace(STILL, **change)
    photos = some(config, image)
    assert photos.dtype == torch.float32
    assert photos.shape == (12, 3, SIZE, SIZE)
    assert any(not torch.equal(photo, still) for photo in photos)
    assert len({photo.numpy().tobytes() for photo in photos}) > 1
    assert torch.equal(photos, some(config, image))
    assert not torch.equal(photos, some(config, image, first=100))


def test_magnitude_and_number_of_operations_act(image: Image.Image) -> None:
    found = [
        some(replace(STILL, aa=aa), image) for aa in ("rand-m2-n1", "rand-m20-n1", "rand-m2-n3")
    ]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_mirrors_half_of_the_photos(image: Image.Image) -> None:
    still = torch.from_numpy(preprocess(image, PREPROCESSING))
    photos = some(replace(STILL, hflip=0.5), image, 200)
    mirrored = sum(torch.equal(photo, still.flip(-1)) for photo in photos)
    assert 70 < mirrored < 130
    assert all(torch.equal(p, still) or torch.equal(p, still.flip(-1)) for p in photos)


def test_the_size_and_the_interpolation_are_the_models(image: Image.Image) -> None:
    one = Augment(replace(STILL, scale=0.5), Preprocessing(32, 1.0, "bilinear"))(image, 1)
    two = Augment(replace(STILL, scale=0.5), Preprocessing(32, 1.0, "bicubic"))(image, 1)
    assert one.shape == (3, 32, 32)
    assert not torch.equal(one, two)


def test_a_size_of_the_moment_has_the_same_crop(image: Image.Image) -> None:
    augment = Augment(replace(STILL, scale=0.5, start_size=24, epochs=8), PREPROCESSING)
    assert augment.size == SIZE
    for epoch, size in ((0, 24), (2, 32), (6, SIZE)):
        own = Augment(replace(STILL, scale=0.5), replace(PREPROCESSING, size=size))
        assert torch.equal(augment(image, 1, epoch), own(image, 1))


def test_torchs_generator_is_left_alone(image: Image.Image) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    some(replace(STILL, scale=0.2, aa="auto", reprob=1.0), image)
    assert torch.equal(torch.rand(3), expected)


def test_pythons_and_numpys_generators_neither_act_nor_move(image: Image.Image) -> None:
    config = replace(STILL, scale=0.2, hflip=0.5, aa="auto", color_jitter=0.4, reprob=1.0)
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        before = random.getstate(), np.random.get_state()[1].tobytes()
        found.append(some(config, image))
        assert (random.getstate(), np.random.get_state()[1].tobytes()) == before
    assert torch.equal(*found)


def test_what_came_before_changes_nothing(image: Image.Image) -> None:
    augment = Augment(replace(STILL, scale=0.2, aa="rand-m9-n2", reprob=0.5), PREPROCESSING)
    forth = [augment(image, seed) for seed in range(12)]
    back = [augment(image, seed) for seed in reversed(range(12))]
    assert all(torch.equal(a, b) for a, b in zip(forth, reversed(back), strict=True))


def test_any_size_and_shape(tmp_path: Path) -> None:
    config = replace(STILL, scale=0.1, ratio=1.5, aa="rand-m9-n2", reprob=0.5)
    augment = Augment(config, PREPROCESSING)
    for size in ((1, 1), (1, 300), (500, 3), (8, 8), (900, 700)):
        pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
        assert torch.isfinite(augment(Image.fromarray(pixels), 3)).all()


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("none", "none"), ("auto", "auto"), ("trivial", "trivial"),
        ("rand", (9, 2)), ("rand-m5", (5, 2)),
        ("rand-n3-m30", (30, 3)), ("rand-m31", None), ("rand-n0", None), ("rand-x1", None),
        ("rand-m", None), ("randm9", None), ("", None), ("original", None),
    ],
)  # fmt: skip
def test_notation(text: str, policy: object) -> None:
    assert parse_aa(text) == policy


def test_policies_differ(image: Image.Image) -> None:
    found = [some(replace(STILL, aa=aa), image) for aa in ("auto", "trivial", "rand-m9-n1")]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def mix(seed: int = 1, smoothing: float = 0.0, **more: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    photos = torch.randn(4, 3, 8, 8, generator=generator)
    config = Config(command="train", data="d", model="m", recipe="q", smoothing=smoothing, **more)  # type: ignore[arg-type]
    return Mixing(config, 5)(photos, torch.tensor([0, 1, 2, 3]), seed)[:2]


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_is_torchvisions(kind: str) -> None:
    photos, targets = mix(**{kind: 0.4})
    torch.manual_seed(1 ^ _MIX)
    torch.randint(1, ())
    theirs = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](alpha=0.4, num_classes=5)
    plain = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = theirs(plain, torch.tensor([0, 1, 2, 3]))
    assert torch.equal(photos, expected[0])
    assert torch.equal(targets, expected[1])
    assert not torch.equal(photos, plain)


def test_mixing_depends_on_the_seed_alone_and_leaves_torchs_generator() -> None:
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    one = mix(seed=3, mixup=0.4, cutmix=1.0)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(one[0], mix(seed=3, mixup=0.4, cutmix=1.0)[0])
    others = [mix(seed=seed, mixup=0.4, cutmix=1.0)[0] for seed in range(4, 20)]
    assert not all(torch.equal(one[0], other) for other in others)


def test_targets_are_smoothed() -> None:
    _, plain = mix(mixup=0.4)
    _, smooth = mix(mixup=0.4, smoothing=0.1)
    torch.testing.assert_close(smooth, plain * 0.9 + 0.02)
    torch.testing.assert_close(smooth.sum(1), torch.ones(4))


def test_mixing_keeps_channels_last_and_takes_one_photo() -> None:
    config = Config(command="train", data="d", model="m", recipe="q", mixup=0.2)
    photos = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    mixed, *_ = Mixing(config, 5)(photos, torch.tensor([0, 1]), 0)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert Mixing(config, 5)(photos[:1], torch.tensor([0]), 0)[1].shape == (1, 5)
    assert not Mixing(STILL, 5).active
    assert Mixing(config, 5).active
