"""What is wrong with whole classes: few photos, imbalance, pairs that cannot be told apart.

A pair is judged by the out-of-sample probabilities of `labels`: of the photos of both classes, how
many have a higher probability of the other one; those that are of both say nothing. Each class
counts the same, however many photos it has. Half is chance: then the two are one class, or their
labels are mixed.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from resnest_cli.inspection.issues import Issue
from resnest_cli.inspection.labels import can_be_judged
from resnest_cli.inspection.neighbours import parts
from resnest_cli.text import count

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

FEW = 20  # photos; fewer are little to learn from
IMBALANCE = 10.0  # times as many as the median class has, or as the smallest of those
ALIKE = 0.25  # share of a pair's photos taken for the other class

_CHANCE = 0.5


def class_issues(
    probabilities: Float32, members: Sequence[Int64], class_names: Sequence[str], groups: Int64
) -> list[Issue]:
    """What is wrong with whole classes. `path` and `partner` of the issues are names of classes.

    Args:
        probabilities: float32 (N, K), of `labels.out_of_sample`.
        members: of each class the places of its photos, int64.
        class_names: of K classes.
        groups: int64 (N,), the same number for copies of each other.
    """
    counts = [len(places) for places in members]
    judged = np.flatnonzero(can_be_judged(members, groups))
    return [
        *_counts(counts, class_names),
        *_same(members, class_names),
        *_pairs(probabilities, members, judged, class_names),
    ]


def _counts(counts: Sequence[int], class_names: Sequence[str]) -> list[Issue]:
    """Classes with few photos, or far fewer or more than the others."""
    usual = float(np.median(counts)) if len(counts) else 0.0
    found = []
    for number, name in zip(counts, class_names, strict=True):
        times = max(number, 1) / max(usual, 1)
        if number < FEW:
            detail, score = f"{count(number, 'readable photo')} only", 1 - number / FEW
        elif max(times, 1 / times) >= IMBALANCE:
            more = "more" if times > 1 else "fewer"
            shown = f"{max(times, 1 / times):.0f} times {more} than usual"
            detail, score = f"{count(number, 'photo')}, {shown}", 1 - 1 / max(times, 1 / times)
        else:
            continue
        found.append(Issue(name, "class", score, detail=detail, label=name))
    return found


def _same(members: Sequence[Int64], class_names: Sequence[str]) -> Iterator[Issue]:
    """Classes of the very same photos, where a photo may have several."""
    first: dict[bytes, str] = {}
    for places, name in zip(members, class_names, strict=True):
        other = first.setdefault(places.tobytes(), name)
        if len(places) and other != name:
            yield Issue(other, "class", 1.0, partner=name, detail="always together", label=other)


def _pairs(
    probabilities: Float32,
    members: Sequence[Int64],
    judged: Int64,
    class_names: Sequence[str],
) -> list[Issue]:
    """Pairs of classes whose photos are taken for each other."""
    taken = taken_for(probabilities, members, judged)
    both = (taken + taken.T) / 2
    found = []
    for one, other in np.argwhere(np.triu(both >= ALIKE, 1)).tolist():
        names = class_names[judged[one]], class_names[judged[other]]
        found.append(
            Issue(
                names[0],
                "class",
                min(1.0, float(both[one, other]) / _CHANCE),
                partner=names[1],
                detail=(
                    f"hard to tell apart: {taken[one, other]:.0%} of {names[0]} look more like "
                    f"{names[1]}, {taken[other, one]:.0%} the other way"
                ),
                label=names[0],
            )
        )
    return found


def taken_for(
    probabilities: Float32, members: Sequence[Int64], judged: Int64
) -> NDArray[np.float64]:
    """The share of each class's photos that look more like each other one: float64 (J, J).

    `judged` int64 (J,) are the classes that are compared. Photos of both do not count.
    """
    found = np.zeros((len(judged), len(judged)))
    has = np.zeros((len(probabilities), len(judged)), np.bool_)
    for row, label in enumerate(judged.tolist()):
        has[members[label], row] = True
    for row, label in enumerate(judged.tolist()):
        compared = np.zeros(len(judged), np.int64)
        for part in parts(members[label]):
            rows, apart = probabilities[part], ~has[part]
            found[row] += ((rows[:, judged] > rows[:, [label]]) & apart).sum(0)
            compared += apart.sum(0)
        found[row] /= np.maximum(1, compared)
    return found
