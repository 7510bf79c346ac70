"""What is wrong with whole classes: few photos, imbalance, pairs that cannot be told apart.

A pair is judged by the out-of-sample probabilities of `labels`: of the photos of both classes, how
many have a higher probability of the other one. Each class counts the same, however many photos it
has. Half is chance: then the two are one class, or their labels are mixed.
"""

from collections.abc import Sequence

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
    probabilities: Float32, labels: Int64, class_names: Sequence[str], groups: Int64
) -> list[Issue]:
    """What is wrong with whole classes. `path` and `partner` of the issues are names of classes.

    Args:
        probabilities: float32 (N, K), of `labels.out_of_sample`.
        labels: int64 (N,), indices into `class_names`.
        class_names: of K classes.
        groups: int64 (N,), the same number for copies of each other.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    judged = np.flatnonzero(can_be_judged(labels, groups, len(class_names)))
    return [*_counts(counts, class_names), *_pairs(probabilities, labels, judged, class_names)]


def _counts(counts: Int64, class_names: Sequence[str]) -> list[Issue]:
    """Classes with few photos, or far fewer or more than the others."""
    usual = float(np.median(counts)) if len(counts) else 0.0
    found = []
    for number, name in zip(counts.tolist(), class_names, strict=True):
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


def _pairs(
    probabilities: Float32, labels: Int64, judged: Int64, class_names: Sequence[str]
) -> list[Issue]:
    """Pairs of classes whose photos are taken for each other."""
    taken = taken_for(probabilities, labels, judged)
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


def taken_for(probabilities: Float32, labels: Int64, judged: Int64) -> NDArray[np.float64]:
    """The share of each class's photos that look more like each other one: float64 (J, J).

    `judged` int64 (J,) are the classes that are compared.
    """
    found = np.zeros((len(judged), len(judged)))
    for row, label in enumerate(judged.tolist()):
        places = np.flatnonzero(labels == label)
        for part in parts(places):
            rows = probabilities[part]
            found[row] += (rows[:, judged] > rows[:, [label]]).sum(0)
        found[row] /= max(1, len(places))
    return found
