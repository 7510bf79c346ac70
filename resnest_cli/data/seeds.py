"""One number for every random choice: a hash of the run's seed and of what is being drawn.

No generator is carried along, so that neither the number of workers nor a resumed run changes what
is drawn.
"""

import hashlib
from typing import Literal

# The purposes keep draws for different things apart.
Purpose = Literal["split", "order", "window", "pack", "sample", "crop", "step", "weights"]


def derived_seed(seed: int, purpose: Purpose, *numbers: int) -> int:
    """A seed in [0, 2**63) for one purpose and its numbers, such as epoch and index."""
    text = ":".join([str(seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def drawn(seed: int, purpose: Purpose, *names: str) -> bytes:
    """What a named thing drew: those that are sorted by it come in a random order."""
    text = "\0".join([str(derived_seed(seed, purpose)), *names])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
