"""Multiply-adds by stage; their sum is held against the references in test_parity.py."""

from resnest_cli.model.cost import multiply_adds
from resnest_cli.model.variants import VARIANTS


def test_any_size_classes_and_channels_by_stage() -> None:
    found = multiply_adds(VARIANTS["resnest14d"], 65, num_classes=7, in_channels=4)
    assert found["stem"] == 9 * 33**2 * (4 * 32 + 32 * 32 + 32 * 64)
    assert found["head"] == 2048 * 7
    # A block of 17 x 17: 1x1, 3x3 in two groups, fc1 and fc2, 1x1, and the shortcut.
    assert found["stage 1"] == 17**2 * (64 * 64 + 9 * 32 * 128 + 2 * 64 * 256) + 64 * 32 + 32 * 128


def test_a_network_without_a_classifier() -> None:
    assert multiply_adds(VARIANTS["resnest14t"], 48, num_classes=0)["head"] == 0
