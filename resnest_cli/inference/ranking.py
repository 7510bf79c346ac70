"""Logits -> probabilities -> ranked classes. Plain numpy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resnest_cli.inference.records import Prediction


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities along the last axis, in float64: (..., classes) -> (..., classes).

    Logits are divided by the `temperature` first (arXiv 1706.04599, section 4.2).
    """
    shifted = logits.astype(np.float64)
    if temperature != 1:
        shifted /= temperature
    shifted -= shifted.max(axis=-1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def rank(
    logits: NDArray[np.float32],
    class_names: Sequence[str],
    topk: int = 5,
    temperature: float = 1.0,
) -> list[tuple[Prediction, ...]]:
    """The `topk` most probable classes of each row of (N, classes), best first.

    Of equal probabilities the lower index comes first, so that a run can be repeated; a `topk`
    above the number of classes gives them all.
    """
    probabilities = softmax(logits, temperature)
    order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :topk]
    return [
        tuple(
            Prediction(place, int(index), class_names[index], float(row[index]))
            for place, index in enumerate(indices, start=1)
        )
        for row, indices in zip(probabilities, order, strict=True)
    ]
