"""Tests of what runs on an NVIDIA GPU; without one they are skipped.

    pytest -m gpu                                on a machine with a card
    GPU_TESTS_ON=cpu pytest -m gpu               their bodies on the CPU, with tiny networks

The second finds mistakes in the tests themselves before a card is at hand.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ON_CPU = os.environ.get("GPU_TESTS_ON") == "cpu"
DEVICE = "cpu" if ON_CPU else "cuda"
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        # A driver's or a compiler's advice says nothing of us.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if not ON_CPU and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture
def device() -> str:
    return DEVICE


@pytest.fixture
def card(device: str) -> str:
    """For what has no counterpart on a CPU."""
    if device == "cpu":
        pytest.skip("only on an NVIDIA GPU")
    return device


@pytest.fixture(autouse=True)
def settings_kept() -> Iterator[None]:
    """Whatever a test sets of the process is put back."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    deterministic = torch.backends.cudnn.deterministic
    yield
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.deterministic = deterministic
