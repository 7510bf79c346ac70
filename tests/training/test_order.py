"""What an epoch brings: each photo once, another order each time, any place found at once."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from timm.data.distributed_sampler import RepeatAugSampler

from resnest_cli.data.dataset import Sample
from resnest_cli.model.variants import Preprocessing
from resnest_cli.training.augment import Augment, largest_size, train_size, work
from resnest_cli.training.loader import Batches
from resnest_cli.training.order import (
    MOST_PHOTOS,
    WINDOW_BYTES,
    Draw,
    FolderOrder,
    balanced_order,
    permutation,
    repeated,
    sections,
    stretches,
    window_photos,
)
from resnest_cli.training.settings import Config
from tests.conftest import make_photo

COUNTS = [3, 7, 1, 5]


def test_any_part_of_a_stream_is_found() -> None:
    order = [2, 0, 3, 1]
    every = [(shard, place) for shard in order for place in range(COUNTS[shard])]
    for first in range(17):
        for last in range(first, 17):
            found = stretches(COUNTS, order, first, last)
            places = [(shard, place) for shard, a, b in found for place in range(a, b)]
            assert places == every[first:last]


def test_orders_are_drawn_and_can_be_drawn_again() -> None:
    orders = [tuple(permutation(20, 1, "order", epoch)) for epoch in range(4)]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert permutation(20, 1, "order", 2) == list(orders[2])
    for other in (permutation(20, 2, "order", 2), permutation(20, 1, "window", 2),
                  permutation(20, 1, "order", 2, 100)):  # fmt: skip
        assert other not in map(list, orders)


def test_a_window_fits_into_memory() -> None:
    assert window_photos(10**8, 10**8 * 110_000) == WINDOW_BYTES // 110_000
    assert window_photos(100, 100) == MOST_PHOTOS
    assert window_photos(2, 10**12) == 1


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("photos", [6, 29, 64, 65])
def test_devices_share_a_stream(ranks: int, photos: int) -> None:
    draw = Draw(4, 0, ranks=ranks, accumulated=2)
    found = sections(photos, draw)
    assert found[0][0] == 0
    assert found[-1][1] == photos
    assert all(one[1] == two[0] for one, two in pairwise(found))
    bounds = draw.bounds(photos)
    for rank, (first, last) in enumerate(found):
        assert last - first == sum(b - a for a, b in bounds[rank::ranks])
    halves = sections(photos, replace(draw, aug_repeats=2))
    assert all(
        -(-(last - first) // 2) == end - begin
        for (first, last), (begin, end) in zip(found, halves, strict=True)
    )


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
    keys = FolderOrder(labels, Draw(4, 1, balanced, 3)).keys(2)
    assert len(keys) == len(set(keys)) == 24
    order = balanced_order(labels, 1, 2) if balanced else permutation(24, 1, "order", 2)
    assert [index for _, index, _, _ in keys[::3]] == order[:8]
    if not balanced:
        assert set(Counter(index for _, index, _, _ in keys).values()) == {3}
        assert [again for _, _, again, _ in keys[:6]] == [0, 1, 2, 0, 1, 2]


def test_each_time_a_photo_is_varied_anew(tmp_path: Path) -> None:
    samples = [
        Sample(str(make_photo(tmp_path / f"{index}.png", seed=index)), f"{index}", 0)
        for index in range(6)
    ]
    config = Config(command="train", data="d", model="m", recipe="quick", scale=0.3)
    batches = Batches(samples, Augment(config, Preprocessing(32)), Draw(3, 0, aug_repeats=3))
    for batch in batches.epoch(0):
        assert len(set(batch.indices)) == 1
        assert len({photo.numpy().tobytes() for photo in batch.photos}) == 3


FULL = Config(command="train", data="d", model="m", recipe="tiny", img_size=64, epochs=12)
GROWING = replace(FULL, start_size=32, train_size=48)


def sizes(config: Config) -> list[int]:
    return [train_size(config, epoch) for epoch in range(config.epochs or 0)]


def test_unless_asked_for_there_is_one_size() -> None:
    assert sizes(FULL) == [64] * 12
    assert work(FULL) == 1
    assert sizes(replace(FULL, train_size=48)) == [48] * 12
    assert work(replace(FULL, train_size=32)) == 0.25


def test_it_grows_in_steps_of_eight_and_ends_at_the_training_size() -> None:
    found = sizes(GROWING)
    assert found == sorted(found)
    assert set(found) == {32, 40, 48}
    assert found[0] == 32
    assert found[9:] == [48] * 3
    assert work(GROWING) == pytest.approx(sum(side**2 for side in found) / 12 / 64**2)
    assert sizes(replace(FULL, start_size=30))[-3:] == [64] * 3
    assert sizes(replace(GROWING, epochs=1)) == [32]


def test_a_start_above_the_training_size_does_nothing() -> None:
    assert sizes(replace(GROWING, start_size=64)) == [48] * 12


def test_largest() -> None:
    assert largest_size(GROWING) == 64
    assert largest_size(replace(FULL, train_size=96)) == 96
