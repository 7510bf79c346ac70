"""The order of a stream: each photo once, another order in each epoch, any place found at once."""

from itertools import pairwise

import pytest

from resnest_cli.training.bounds import rank_bounds
from resnest_cli.training.shard_order import (
    MOST_PHOTOS,
    WINDOW_BYTES,
    Section,
    Stream,
    sections,
    shard_order,
    window_order,
    window_photos,
    windows,
)

COUNTS = [3, 7, 1, 5]


def numbers(stream: Stream, first: int, last: int) -> list[tuple[int, int]]:
    """Shard and place of each photo."""
    return [
        (shard, place)
        for shard, begin, end in stream.stretches(first, last)
        for place in range(begin, end)
    ]


def test_any_part_of_a_stream_is_found() -> None:
    order = [2, 0, 3, 1]
    every = [(shard, place) for shard in order for place in range(COUNTS[shard])]
    stream = Stream(COUNTS, order)
    for first in range(17):
        for last in range(first, 17):
            assert numbers(stream, first, last) == every[first:last]


def test_shards_come_in_another_order_in_each_epoch() -> None:
    orders = [tuple(shard_order(20, seed=1, epoch=epoch)) for epoch in range(4)]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert shard_order(20, seed=1, epoch=2) == list(orders[2])
    assert shard_order(20, seed=2, epoch=2) != list(orders[2])


def test_windows_cover_a_section() -> None:
    section = Section(10, 47, 8)
    found = list(windows(section))
    assert [number for number, _, _ in found] == [0, 1, 2, 3, 4]
    assert found[0][1:] == (10, 18)
    assert found[-1][1:] == (42, 47)
    assert all(one[2] == two[1] for one, two in pairwise(found))
    assert list(windows(section, 16)) == found[2:]
    assert list(windows(section, 17)) == found[2:]
    assert list(windows(Section(5, 5, 8))) == []


def test_a_window_is_shuffled() -> None:
    found = window_order(50, seed=1, epoch=0, first=100)
    assert sorted(found) == list(range(50))
    assert found != list(range(50))
    assert found != window_order(50, seed=1, epoch=1, first=100)
    assert found != window_order(50, seed=1, epoch=0, first=150)


def test_a_window_fits_into_memory() -> None:
    assert window_photos(10**8, 10**8 * 110_000) == WINDOW_BYTES // 110_000
    assert window_photos(100, 100) == MOST_PHOTOS
    assert window_photos(2, 10**12) == 1


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("photos", [6, 29, 64, 65])
def test_devices_share_a_stream(ranks: int, photos: int) -> None:
    found = sections(photos, 4, ranks=ranks, accumulated=2)
    assert found[0][0] == 0
    assert found[-1][1] == photos
    assert all(one[1] == two[0] for one, two in pairwise(found))
    bounds = rank_bounds(photos, 4, ranks=ranks, accumulated=2)
    for rank, (first, last) in enumerate(found):
        assert last - first == sum(b - a for a, b in bounds[rank::ranks])
    halves = sections(photos, 4, ranks=ranks, accumulated=2, aug_repeats=2)
    assert all(
        -(-(last - first) // 2) == end - begin
        for (first, last), (begin, end) in zip(found, halves, strict=True)
    )
