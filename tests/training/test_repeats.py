"""Repeated augmentation: the indices of timm's sampler, and another variation each time."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from timm.data.distributed_sampler import RepeatAugSampler

from resnest_cli.model.variants import Preprocessing
from resnest_cli.training.augment import Augment
from resnest_cli.training.config import Config
from resnest_cli.training.dataset import Sample
from resnest_cli.training.loader import TrainBatches, epoch_keys, epoch_order, repeated
from tests.conftest import make_photo


@pytest.mark.parametrize("count", [7, 255, 256, 512])
@pytest.mark.parametrize("repeats", [1, 2, 3, 5])
def test_indices_are_timms_of_one_process(count: int, repeats: int) -> None:
    sampler = RepeatAugSampler(range(count), num_replicas=1, rank=0, num_repeats=repeats)
    sampler.set_epoch(4)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(4)).tolist()
    assert repeated(order, repeats) == list(sampler)


def test_timm_leaves_out_what_exceeds_a_multiple_of_256() -> None:
    sampler = RepeatAugSampler(range(300), num_replicas=1, rank=0, num_repeats=3)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0)).tolist()
    assert repeated(order, 3)[:256] == list(sampler)
    assert len(repeated(order, 3)) == 300


@pytest.mark.parametrize("balanced", [False, True])
def test_keys_of_an_epoch(balanced: bool) -> None:
    labels = [0] * 20 + [1] * 4
    keys = epoch_keys(labels, seed=1, epoch=2, balanced=balanced, aug_repeats=3)
    assert len(keys) == len(set(keys)) == 24
    order = epoch_order(labels, seed=1, epoch=2, balanced=balanced)
    assert [index for _, index, _ in keys[::3]] == order[:8]
    if not balanced:
        assert set(Counter(index for _, index, _ in keys).values()) == {3}
        assert [again for _, _, again in keys[:6]] == [0, 1, 2, 0, 1, 2]


def test_each_time_a_photo_is_varied_anew(tmp_path: Path) -> None:
    samples = [
        Sample(str(make_photo(tmp_path / f"{index}.png", seed=index)), f"{index}", 0)
        for index in range(6)
    ]
    config = Config(command="train", data="d", model="m", recipe="quick", scale=0.3)
    batches = TrainBatches(
        samples, Augment(config, Preprocessing(32)), size=32, batch_size=3, workers=0, seed=0,
        aug_repeats=3,
    )  # fmt: skip
    for batch in batches.epoch(0):
        assert len(set(batch.indices)) == 1
        assert len({photo.numpy().tobytes() for photo in batch.photos}) == 3
