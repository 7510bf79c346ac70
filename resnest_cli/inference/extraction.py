"""Which numbers of the network are kept for each photo, and how an engine's output becomes them.

Source: timm's feature-extraction guide. The default is `create_model(num_classes=0)`; without
pooling `forward_features`; a stage is one of `features_only` (0 is the stem before its pooling);
the head is the classifier.

Numpy is imported where numbers are handled: a process that only writes them needs none.
"""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal, cast

from resnest_cli.errors import ErrorKind, UsageError
from resnest_cli.inference.ranking import NOT_FINITE, probabilities_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resnest_cli.images.batches import Prepared
    from resnest_cli.inference.engine import Output
    from resnest_cli.model.loading import Model

Pool = Literal["avg", "none"]
Head = Literal["logits", "probabilities"]
Dtype = Literal["float16", "float32"]

BEYOND_FLOAT16 = "has values beyond float16; use --dtype float32"

_TINY = 1e-12  # torch.nn.functional.normalize divides by no less
_LAST = 4  # stage


@dataclass(frozen=True, slots=True)
class Extraction:
    """What is kept of each photo; see the options of `resnest features`.

    `normalize="l2"` divides by the Euclidean norm of the channels, at each position of a map that
    is not pooled, as `torch.nn.functional.normalize` does. `dtype` is what is stored; everything
    before is computed in float32.
    """

    pool: Pool = "avg"
    stage: int | None = None
    head: Head | None = None
    dtype: Dtype = "float32"
    normalize: Literal["l2"] | None = None

    def __post_init__(self) -> None:
        if self.stage is not None and not 0 <= self.stage <= _LAST:
            raise UsageError(f"there is no stage {self.stage}: use 0 to {_LAST}.")
        if self.head and (self.stage is not None or self.pool == "none"):
            raise UsageError("--head goes with neither --stage nor --pool none: it is the last.")

    @property
    def output(self) -> "Output":
        """The engine's output that it is made of."""
        if self.head:
            return "logits"
        if self.stage is None and self.pool == "avg":
            return "features"
        return cast("Output", f"map{_LAST if self.stage is None else self.stage}")

    def row_shape(self, model: "Model", size: int) -> tuple[int, ...]:
        """The shape of one photo's row, for photos of `size` x `size` pixels."""
        if self.head:
            model.need_classifier()
            return (model.num_classes,)
        stage = _LAST if self.stage is None else self.stage
        variant = model.variant
        channels = 4 * variant.widths[stage - 1] if stage else 2 * variant.stem_width
        if self.pool == "avg":
            return (channels,)
        side = -(-size // 2 ** (stage + 1))  # every stage halves, and rounds up
        return channels, side, side

    def row_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a row of this shape."""
        return prod(shape) * (2 if self.dtype == "float16" else 4)

    def rows(
        self, out: "NDArray[np.float32]", model: "Model | None" = None
    ) -> "NDArray[np.float16] | NDArray[np.float32]":
        """An engine's `output` for N photos -> (N, *row_shape), C-contiguous, in `dtype`.

        The model says what probabilities are. What float16 cannot hold becomes infinite.
        """
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at what comes out
            if self.head == "probabilities":
                assert model is not None
                out = probabilities_of(out, model).astype(np.float32)
            elif out.ndim == 4 and self.pool == "avg":
                out = out.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)  # (N, channels)
            if self.normalize == "l2":
                norms = np.sqrt(np.square(out, dtype=np.float64).sum(axis=1, keepdims=True))
                out = (out / np.maximum(norms, _TINY)).astype(np.float32)
            return np.ascontiguousarray(out, self.dtype)


def without_infinite(
    group: "list[Prepared]", rows: "NDArray[Any]", out: "NDArray[np.float32]"
) -> "tuple[list[Prepared], NDArray[Any]]":
    """The group with an error for each photo whose row is not finite, and the rows that are.

    `out` is what the engine gave for them, before it was rounded.
    """
    import numpy as np

    good, before = ([bool(np.isfinite(row).all()) for row in array] for array in (rows, out))
    fine = iter(zip(good, before, strict=True))
    checked = []
    for item in group:
        well, rounded = next(fine) if item.photo is not None else (True, True)
        error = BEYOND_FLOAT16 if rounded else NOT_FINITE
        kind: ErrorKind = "beyond float16" if rounded else "no finite numbers"
        checked.append(item if well else item._replace(photo=None, error=error, kind=kind))
    return checked, rows[good]
