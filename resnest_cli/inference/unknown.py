"""Photos of something else: how far a photo is from what a classifier was trained on.

Source: virtual-logit matching, "ViM: Out-Of-Distribution with Virtual-logit Matching" (Wang et al.,
arXiv 2203.10807). The distance grows with the part of a photo's features that no training photo
has, and falls with the evidence for any of the classes:

    distance = scale * |residual| - log(sum(exp(logits)))

The residual is what is left of the features outside of the subspace of the training photos' main
directions; `scale` is the mean largest logit of the training photos over their mean residual.
Deviations: features are divided by their Euclidean norm first, `RANK` directions make the subspace,
and for `scale` the largest logit is taken from the mean of all, so that it is never negative.

Chosen by measurement (tests/benchmarks/unknown.py: four pairs of sets, resnest14t with a frozen
backbone and learning as a whole; mean AUROC and FPR95 in %): 92.1 and 32.8, against 89.9 and 43.1
of the best Mahalanobis distance, 89.7 and 38.5 of the tenth neighbour among all photos, 85.8 and
50.3 of the energy, 75.1 and 72.1 of the largest probability. Method and rank were chosen on these
pairs but the last. It takes little more room than the directions, 64 KB for 2,048 features whatever
the number of classes.

A threshold is a quantile of the distances of validation photos, which a checkpoint keeps. Of n of
them the share p has the ceil((n + 1) * (1 - p))-th smallest: a photo like them is beyond it with a
probability of at most p (split conformal prediction). For 1 % that takes 99 validation photos.
"""

import base64
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from resnest_cli.errors import CheckpointError, UsageError
from resnest_cli.inference.extraction import Extraction
from resnest_cli.text import count

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from resnest_cli.inference.engine import Output
    from resnest_cli.model.loading import Model

    Float32 = NDArray[np.float32]
    Float64 = NDArray[np.float64]

METHOD = "vim"
RANK = 16  # directions
KEPT = 1000  # distances of validation photos; of more, as many quantiles
SHARES = (0.01, 0.05, 0.1)  # of which training says whether they have a threshold
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class FeaturesAndLogits(Extraction):
    """Both of each photo, in one pass of the network: (features + classes,), features first."""

    @property
    def output(self) -> "Output":
        """The engine's output."""
        return "features+logits"

    def row_shape(self, model: "Model", size: int) -> tuple[int, ...]:  # noqa: ARG002
        """Whatever the size of the photos."""
        model.need_classifier()
        return (model.variant.num_features + model.num_classes,)


@dataclass(frozen=True, slots=True)
class Unknown:
    """What a checkpoint keeps in order to know how far a photo is from its training photos.

    `directions` float16 (rank, num_features) are orthonormal; `distances` float32 (at most `KEPT`,)
    are those of validation photos, sorted; `photos` and `validated` say how many training and
    validation photos all of it is of.
    """

    directions: "NDArray[np.float16]"
    scale: float
    distances: "Float32"
    photos: int
    validated: int

    def distance(self, features: "Float32", logits: "Float32") -> "Float64":
        """Distances (N,) from features (N, num_features) and logits (N, classes)."""
        return self.scale * _residual(features, self.directions) - _evidence(logits)

    def told(
        self, features: "Float32", logits: "Float32", threshold: float
    ) -> list[dict[str, bool | float]]:
        """What the record of each photo says: `distance`, float32, and whether it is `unknown`."""
        found = map(float, self.distance(features, logits).astype("float32"))
        return [{"unknown": distance > threshold, "distance": distance} for distance in found]

    @property
    def least(self) -> float:
        """The smallest share of false alarms that has a threshold."""
        return 1 / (len(self.distances) + 1)

    def threshold(self, share: float) -> float:
        """The distance beyond which a photo is unknown, at this share of false alarms in (0, 1).

        Raises:
            UsageError: there are too few validation photos for so small a share.
        """
        kept = len(self.distances)
        place = math.ceil(round((kept + 1) * (1 - share), 9))
        if place > kept:
            needed = math.ceil(round(1 / share, 9)) - 1
            can = f"the least is {math.ceil(1000 * self.least) / 10:g}%" if kept else "none can"
            more = f"Validate with at least {needed:,} photos."
            if needed > KEPT:
                more = f"No more than {KEPT:,} distances are kept."
            raise UsageError(
                f"--unknown {100 * share:.3g}%: {count(self.validated, 'validation photo')} give "
                f"no threshold for so few false alarms; {can} here. {more}"
            )
        return float(self.distances[max(place, 1) - 1])

    # Its text, as a file's header has it

    @property
    def text(self) -> str:
        """JSON, with the arrays as base64 of little-endian numbers."""
        record = {
            "method": METHOD,
            "rank": len(self.directions),
            "directions": _encoded(self.directions, "<f2"),
            "scale": self.scale,
            "distances": _encoded(self.distances, "<f4"),
            "photos": self.photos,
            "validated": self.validated,
        }
        return json.dumps(record, sort_keys=True)

    @classmethod
    def from_text(cls, text: str, num_features: int) -> Self:
        """The inverse of `text`; ValueError says what is wrong."""
        import numpy as np

        record: dict[str, Any] = json.loads(text)
        if record["method"] != METHOD:
            raise ValueError(f"unknown method {record['method']!r:.40}")
        rank = int(record["rank"])
        directions = _decoded(record["directions"], "<f2").astype(np.float16)
        distances = _decoded(record["distances"], "<f4").astype(np.float32)
        scale = float(record["scale"])
        if rank < 1 or directions.size != rank * num_features:
            raise ValueError(f"directions are not {rank} of {num_features} features")
        whole = np.isfinite(directions).all() and np.isfinite(distances).all()
        if not whole or not math.isfinite(scale) or not (np.diff(distances) >= 0).all():
            raise ValueError("numbers are not finite, or distances not sorted")
        photos, validated = int(record["photos"]), int(record["validated"])
        return cls(directions.reshape(rank, -1), scale, distances, photos, validated)

    @classmethod
    def read(cls, path: "Path", text: str, num_features: int) -> Self:
        """The inverse of `text`, of a file; CheckpointError where it is damaged."""
        try:
            return cls.from_text(text, num_features)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: what it keeps for --unknown is damaged ({error}). Get the file again, or "
                "go on without --unknown."
            ) from error

    @classmethod
    def of(cls, model: "Model") -> Self:
        """What a model's file keeps.

        Raises:
            CheckpointError: it keeps nothing of the kind, or it is damaged.
        """
        if model.thresholds is not None:
            raise CheckpointError(
                f"{model.path} gives photos several labels, or none; how far a photo is from those "
                "that it was trained on is not known of such models. Leave out --unknown."
            )
        if model.unknown is None:
            raise none_kept(model.name)
        return cls.read(model.path, model.unknown, model.variant.num_features)


def none_kept(name: str) -> CheckpointError:
    """The error of a file that says nothing of its training photos' features."""
    return CheckpointError(
        f"{name} does not keep how far photos are from those that it was trained on, which "
        "--unknown needs. `resnest finetune` and `resnest train` keep it in best.safetensors; "
        "published weights, the average of checkpoints and files of earlier versions have none: "
        "fine-tune them on photos of your classes, or use --reject-below."
    )


def fitted(train: "tuple[Float32, Float32]", val: "tuple[Float32, Float32]") -> Unknown:
    """Of features and logits of training photos, at least one, and of validation photos."""
    import numpy as np

    features, logits = train
    unit = _unit(features)
    second = unit.T @ unit / len(unit)  # moment, about zero
    rank = min(RANK, len(second) - 1)
    _, vectors = np.linalg.eigh(second)
    directions = _signed(vectors[:, : -rank - 1 : -1].T).astype(np.float16)
    residual = float(_residual(features, directions).mean())
    margin = float((logits.max(axis=1) - logits.mean(axis=1)).mean())
    scale = margin / max(residual, _TINY)
    found = Unknown(directions, scale, np.empty(0, np.float32), len(features), len(val[0]))
    distances = np.sort(found.distance(*val).astype(np.float32))
    return Unknown(directions, scale, _quantiles(distances), len(features), len(val[0]))


def _quantiles(distances: "Float32") -> "Float32":
    """At most `KEPT` of sorted distances, which stand for them as a sample of that size."""
    import numpy as np

    count = len(distances)
    if count <= KEPT:
        return distances
    places = np.ceil((count + 1) * np.arange(1, KEPT + 1) / (KEPT + 1)).astype(np.int64)
    kept: Float32 = distances[np.minimum(places, count) - 1]
    return kept


def _unit(features: "Float32") -> "Float64":
    import numpy as np

    found = features.astype(np.float64)
    unit: Float64 = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), _TINY)
    return unit


def _residual(features: "Float32", directions: "NDArray[np.float16]") -> "Float64":
    """Length (N,) of what normalised features have outside of the directions, in [0, 1]."""
    import numpy as np

    unit = _unit(features)
    inside = unit @ directions.astype(np.float64).T  # (N, rank)
    left = np.square(unit).sum(axis=1) - np.square(inside).sum(axis=1)
    length: Float64 = np.sqrt(np.maximum(left, 0.0))
    return length


def _evidence(logits: "Float32") -> "Float64":
    """log(sum(exp(logits))) (N,): negative energy."""
    import numpy as np

    found = logits.astype(np.float64)
    most = found.max(axis=1)
    evidence: Float64 = most + np.log(np.exp(found - most[:, None]).sum(axis=1))
    return evidence


def _signed(vectors: "Float64") -> "Float64":
    """Rows with the sign that makes the largest entry positive: LAPACKs differ in it."""
    import numpy as np

    largest = np.abs(vectors).argmax(axis=1)
    signed: Float64 = vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]
    return signed


def _encoded(array: "NDArray[Any]", dtype: str) -> str:
    return base64.b64encode(array.astype(dtype).tobytes()).decode("ascii")


def _decoded(text: str, dtype: str) -> "NDArray[Any]":
    import numpy as np

    return np.frombuffer(base64.b64decode(text, validate=True), dtype)
