"""Labels of photos that may have several: which one is probably missing, which probably wrong.

Each class is judged by itself, with or without: a linear classifier on each four of five folds, as
in `labels`, says how probable the class is for the photos of the fifth.

Of rare classes nearly all photos look improbable, so a limit of probability does not do. What
counts is how much likelier the photo is with the class than without it, by Bayes' rule

    likelihood ratio L = (odds of the class, given the photo) / (odds of the class, of all photos)

If a share `WRONG` of the labels were wrong, and as many missing, then the odds that one is wrong
are WRONG / (1 - WRONG) / L, and that one is missing are WRONG / (1 - WRONG) * (odds of the class,
given the photo). Odds more than even make an issue, and the probability is its score. Of errors
planted in collages this ranks better than the probability alone and than the surprise of `labels`,
and names far fewer right labels than the confident joint does, class by class
(`tests/benchmarks/check_label_sets.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.data.labelled_photos import LabelledPhoto
from resnest_cli.inspection.issues import Issue
from resnest_cli.inspection.labels import FOLDS, can_be_judged, fitted, held_out, standardised
from resnest_cli.inspection.neighbours import most_alike, parts
from resnest_cli.progress import Progress, silent

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

WRONG = 0.1  # share of labels that might be wrong: what is named is surer than that
# scikit-learn's C, for rows of length 1: 3, but up to 10 where a class has fewer than 100 photos.
_REGULARISATION, _USUAL_PHOTOS, _LARGEST_C = 3.0, 100, 10.0
_MOST_FITTED = 25_000  # photos that one classifier learns from: there are many of them
_LEAST = 1e-7  # of a probability; less is rounding


def out_of_sample(
    features: Float32,
    members: Sequence[Int64],
    *,
    groups: Int64,
    seed: int = 0,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> Float32:
    """How probable each class is for a photo, by classifiers that saw neither it nor a copy of it.

    As `labels.out_of_sample`, but `members` are of each class the places of its photos, int64, and
    probabilities, float32 (N, K), are each by itself.
    """
    found, done = np.zeros((len(groups), len(members)), np.float32), 0
    rarest, rows = _rarest(len(groups), members), standardised(features)
    for learned, asked in held_out(rarest, groups, seed, _MOST_FITTED):
        learning = rows[learned]
        for label, places in enumerate(members):
            has = np.isin(learned, places)
            if has.all() or not has.any():
                found[asked, label] = has[:1].any()
            elif asked.size:
                strength = min(_REGULARISATION * max(1, _USUAL_PHOTOS / has.sum()), _LARGEST_C)
                model = fitted(learning, has, strength, check)
                found[asked, label] = model.predict_proba(rows[asked])[:, 1]
            done += 1
            progress(done, FOLDS * len(members), title="Judging labels")
    return found


def _rarest(photos: int, members: Sequence[Int64]) -> Int64:
    """The rarest class of each photo, int64 (N,); K of one without any."""
    found = np.full(photos, len(members), np.int64)
    for label in sorted(range(len(members)), key=lambda label: -len(members[label])):
        found[members[label]] = label
    return found


def label_scores(probabilities: Float32, has: Bool) -> NDArray[np.float64]:
    """How probably it is wrong that each photo has a class, or has it not: float64 (N,) in [0, 1].

    Args:
        probabilities: of the class, float32 (N,), out of sample.
        has: whether the photo has it, bool (N,), as given.
    """

    own = _odds(probabilities)
    against = np.where(has, _odds(has.mean(keepdims=True)) / own, own) * WRONG / (1 - WRONG)
    return np.asarray(against / (1 + against), np.float64)


def likelihood_ratios(probabilities: Float32, members: Sequence[Int64]) -> Float32:
    """How much likelier each photo is with a class than without it, float32 (N, K).

    Unlike the probabilities of `out_of_sample`, those of a rare and a common class can be compared.
    """
    usual = np.array([len(places) for places in members]) / max(1, len(probabilities))
    found = np.empty_like(probabilities)
    for part in parts(np.arange(len(found))):
        found[part] = _odds(probabilities[part]) / _odds(usual)
    return found


def _odds(probability: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    clipped = np.clip(probability.astype(np.float64), _LEAST, 1 - _LEAST)
    return clipped / (1 - clipped)


def label_issues(
    probabilities: Float32,
    features: Float32,
    members: Sequence[Int64],
    class_names: Sequence[str],
    photos: Sequence[LabelledPhoto],
    groups: Int64,
) -> Iterator[Issue]:
    """Labels that look wrong, and labels that seem to be missing, with a photo that has them.

    Args:
        probabilities: float32 (N, K), of `out_of_sample`.
        features: float32 (N, D), from which they are.
        members: of each class the places of its photos, int64.
        class_names: of K classes.
        photos: N of them, in the order of rows.
        groups: int64 (N,), the same number for copies of each other.
    """
    every = np.arange(len(photos))
    for label in np.flatnonzero(can_be_judged(members, groups)).tolist():
        name, has = class_names[label], np.isin(every, members[label])
        if len(np.unique(groups[~has])) < FOLDS:
            continue
        scores = label_scores(probabilities[:, label], has)
        missing = np.flatnonzero(~has & (scores > 0.5))
        nearest = most_alike(features, missing, members[label])
        alike = dict(zip(missing.tolist(), nearest.tolist(), strict=True))
        for place in np.flatnonzero(scores > 0.5).tolist():
            photo, other = photos[place], alike.get(place)
            yield Issue(
                photo.name,
                "label" if other is None else "missing",
                float(scores[place]),
                partner="" if other is None else photos[other].name,
                suggestion=f"not {name}" if other is None else name,
                detail=f"{probabilities[place, label]:.1%} {name}, usual {has.mean():.1%}",
                label=photo.label,
                side=photo.side,
            )
