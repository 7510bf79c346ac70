"""Does the exported file say what the model says? Measured on photos, or on seeded noise.

The model is the torch network, whatever made the file: another implementation than the graph's.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import EngineError, ResnestError
from resnest_cli.inference.ranking import softmax

if TYPE_CHECKING:
    from resnest_cli.model.loading import Model

Float32 = NDArray[np.float32]
Run = Callable[[Float32], Float32]  # photos (N, 3, H, W) -> logits (N, classes)

TOLERANCE = 1e-4  # of a probability, for float32
_NOISE = 8
_SEED = 0


@dataclass(frozen=True, slots=True)
class Parity:
    """How two networks agree on so many photos (`noise`: seeded random inputs).

    `difference` is the largest of any class's probability, `agreement` the share of photos with the
    same first class.
    """

    on: str
    photos: int
    difference: float
    agreement: float
    unreadable: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def noise(model: "Model") -> Float32:
    """Seeded normal noise of the model's input size: float32 (8, channels, size, size)."""
    side = model.preprocessing.size
    shape = (_NOISE, model.in_channels, side, side)
    return np.random.default_rng(_SEED).standard_normal(shape, dtype=np.float32)


def parity(
    on: str, batches: Iterable[Float32], original: Run, exported: Run, temperature: float
) -> Parity:
    """Runs both on all batches.

    Raises:
        ResnestError: there is no batch.
        EngineError: the exported network gives no numbers.
    """
    photos = same = 0
    largest = 0.0
    for batch in batches:
        ours, theirs = (softmax(run(batch), temperature) for run in (original, exported))
        if ours.shape != theirs.shape or not np.isfinite(theirs).all():
            raise EngineError("the exported network gives no numbers for some photos.")
        largest = max(largest, float(np.abs(ours - theirs).max()))
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        photos += len(batch)
    if not photos:
        raise ResnestError(f"{on}: no photo in it can be read.")
    return Parity(on, photos, largest, same / photos)
