"""How far a device's answers are from the CPU's in float32; for the tests and the benchmark."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model.variants import Variant, get_variant
from tests.networks import TINY, lively

if TYPE_CHECKING:
    from resnest_cli.options import Amp

NAMES = ("resnest50d", "resnest101e", "resnest50d_4s2x40d")

# Of the largest value. TF32 and bfloat16 keep 10 and 7 bits of a factor, float16 10: each of some
# hundred convolutions rounds its input, by 5e-4, 4e-3 and 5e-4 of it.
TOLERANCES: dict[str, float] = {"float32": 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 8e-2}


def variant_of(name: str, device: str) -> Variant:
    """The variant, or on a CPU the tiny one."""
    return TINY if device == "cpu" else get_variant(name)


def photos_of(variant: Variant, count: int, size: int | None = None) -> np.ndarray:
    """Seeded noise, float32 (count, 3, size, size)."""
    side = size or variant.preprocessing.size
    return np.random.default_rng(0).standard_normal((count, 3, side, side), np.float32)


def allow_tf32(allowed: bool) -> None:
    """In convolutions, where torch allows it by itself, and in matrix products."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def differences(name: str, device: str, count: int = 4) -> dict[str, float]:
    """Of each precision the largest difference of logits, as a share of the largest logit."""
    variant = variant_of(name, device)
    network = lively(variant).eval()
    photos = photos_of(variant, count, 64 if device == "cpu" else None)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(photos)).numpy()
    found: dict[str, float] = {}
    ways: list[tuple[str, Amp, bool]] = [
        ("float32", "off", False), ("tf32", "off", True), ("bfloat16", "bfloat16", True),
    ]  # fmt: skip
    if device != "cpu":
        ways.append(("float16", "float16", True))
    for way, amp, tf32 in ways:
        allow_tf32(tf32)
        logits = TorchEngine(network, device, amp=amp).logits(photos)
        found[way] = float(np.abs(logits - wanted).max() / np.abs(wanted).max())
    allow_tf32(False)
    torch.backends.cudnn.allow_tf32 = True  # as torch starts
    return found
