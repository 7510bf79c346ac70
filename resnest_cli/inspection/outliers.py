"""Photos unlike all others of their class, by the distance to the nearest of these.

The distance is 1 - the cosine of two photos' features, its mean over the 20 nearest photos of the
class (Ramaswamy, Rastogi and Shim 2000, "Efficient algorithms for mining outliers", has the k-th).
It is compared with the median of the class, in deviations that all classes share: the median
absolute one, times 1.4826, a standard deviation where distances are normal (Leys et al. 2013). A
photo of several classes is judged by the one in which it is least unusual; one of no class is none.
All of it is done in blocks of matrix products.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnest_cli.data.label_sets import shown_label
from resnest_cli.data.labelled_photos import LabelledPhoto
from resnest_cli.inspection.issues import Issue
from resnest_cli.inspection.neighbours import most_alike, of_length_1, parts
from resnest_cli.progress import Progress, silent

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

LIMIT = 3.0  # deviations beyond which a photo is an outlier
NEAREST = 20  # photos of its class that one is compared with
FEWEST = 10  # photos of a class that can have outliers

_MOST_COMPARED = 20_000  # photos of a class that each of its photos is compared with; of more, some
_TO_NORMAL = 1.4826
_TINY = 1e-12


class Distances(NamedTuple):
    """Of N photos: the distance to the nearest of their class, and how unusual that is.

    `distance` float32 (N,) in [0, 2], NaN of a class that has too few photos to say. `typical`
    float32 (N,) is the median of the class. `deviations` float32 (N,), 0 where nothing is known.
    """

    distance: Float32
    typical: Float32
    deviations: Float32


def distances(
    features: Float32,
    members: Sequence[Int64],
    groups: Int64,
    *,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> Distances:
    """How far each photo lies from the nearest ones of its class, copies of it apart.

    Args:
        features: float32 (N, D), pooled; may be a memory map.
        members: of each class the places of its photos, int64, in order.
        groups: int64 (N,), the same number for copies of each other.
        progress: counts photos.
        check: raises to stop.
    """
    found = np.full(len(groups), np.nan, np.float32)
    typical = np.full(len(groups), np.nan, np.float32)
    above = np.full(len(groups), np.inf, np.float32)
    done, total = 0, sum(map(len, members))
    for places in members:
        _, first = np.unique(groups[places], return_index=True)
        others = places[first]  # one of each group
        if len(others) >= FEWEST:
            others = _some(others)
            near, far = of_length_1(features[others]), np.empty(len(groups), np.float32)
            for part in parts(places):
                same = groups[part][:, None] == groups[others]
                far[part] = _mean_distance(of_length_1(features[part]) @ near.T, same)
                check()
                done += len(part)
                progress(done, total, title="Looking for outliers")
            usual = np.median(far[others])
            here = places[far[places] - usual < above[places]]
            found[here], typical[here], above[here] = far[here], usual, far[here] - usual
    _, first = np.unique(groups, return_index=True)
    return Distances(found, typical, _deviations(above, first))


def outlier_issues(
    features: Float32,
    members: Sequence[Int64],
    photos: Sequence[LabelledPhoto],
    *,
    groups: Int64,
    apart_from: Collection[str] = (),
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> list[Issue]:
    """Photos that are unlike all others of their class, each with the photo that is nearest.

    `apart_from` are names of photos whose label looks wrong, which says why they are unlike. For
    the rest see `distances`.
    """
    found = distances(features, members, groups, progress=progress, check=check)
    far = [
        place
        for place in np.flatnonzero(found.deviations > LIMIT).tolist()
        if photos[place].name not in apart_from
    ]
    every = np.arange(len(features))
    nearest = most_alike(features, np.array(far, np.int64), every, groups, check)
    issues = []
    for place, other in zip(far, nearest.tolist(), strict=True):
        photo, deviations = photos[place], float(found.deviations[place])
        issues.append(
            Issue(
                photo.name,
                "outlier",
                1 - LIMIT / deviations,
                partner=photos[other].name,
                detail=(
                    f"{found.distance[place]:.2f} from its class, usual {found.typical[place]:.2f};"
                    f" the nearest photo is of {shown_label(photos[other].label)}"
                ),
                label=photo.label,
                side=photo.side,
            )
        )
    return issues


def _some(places: Int64) -> Int64:
    if len(places) <= _MOST_COMPARED:
        return places
    return np.random.default_rng(0).choice(places, _MOST_COMPARED, replace=False)


def _mean_distance(cosines: Float32, same: NDArray[np.bool_]) -> Float32:
    """Of cosines (B, M): 1 - the mean of the largest of each row, but for those of the `same`."""
    nearest = min(NEAREST, cosines.shape[1] - 1)  # a row is the same as one at most
    cosines[same] = -np.inf
    largest = np.partition(cosines, -nearest, axis=1)[:, -nearest:]
    found: Float32 = 1 - largest.mean(1)
    return found


def _deviations(above: Float32, first: Int64) -> Float32:
    """What each distance is above the median of its class, in deviations of the `first` photos.

    0 where it is infinite: nothing is known.
    """
    known = above[first][np.isfinite(above[first])]
    spread = _TO_NORMAL * float(np.median(np.abs(known))) if known.size else 0.0
    found: Float32 = np.where(np.isfinite(above), above / np.float32(max(spread, _TINY)), 0)
    return found
