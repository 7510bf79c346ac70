"""Progressive sizes: small first, the full size in the last quarter, and what that saves."""

from dataclasses import replace

import pytest

from resnest_cli.training.config import Config
from resnest_cli.training.sizes import largest_size, train_size, work

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
