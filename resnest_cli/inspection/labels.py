"""Labels that look wrong, by confident learning on the features.

    features -> standardised, of length 1 -> a linear classifier on each four of five folds
    -> out-of-sample probabilities (N, K) -> how many labels are wrong, and which first

How many: the confident joint of Northcutt, Jiang and Chuang 2021 (arXiv 1911.00068). A photo counts
as of the most probable class of those whose mean probability of their own photos it reaches; what
does not lie on the diagonal, scaled to the photos of each class, is the number of wrong labels.

Which: at most as many of those that are predicted otherwise, ranked by how surprising the given
class is, -log of its probability, beside how surprising the classifier expects a photo's class to
be, its entropy. The paper ranks by the probability of the given class, or by its distance to the
most probable one; of planted errors the first misses those between classes that are alike, and the
second finds fewer of all others (`tests/benchmarks/check_labels.py`). A surprise less than 1.25
times the expected one is none: without that limit a hard data set without errors has many. One of
twice as much always counts: of few photos no class is sure enough for the joint.
"""

import threading
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.data.labelled_photos import LabelledPhoto
from resnest_cli.inspection.issues import Issue
from resnest_cli.inspection.neighbours import most_alike, parts
from resnest_cli.progress import Progress, silent

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

FOLDS = 5
LEAST = 1.25 / 2.25  # of the score of a label that looks wrong: 1.25 times as surprising as usual
SURE = 2 / 3  # of the score of one that counts whatever the joint says: twice as surprising

_MOST_FITTED = 100_000  # photos that one classifier learns from; of more, a sample
_MOST_STEPS = 100  # of L-BFGS; most end after 20 to 50
# scikit-learn's C, for rows of length 1: 1, but more where classes have fewer than 100 photos: it
# weighs the sum over photos, and without that what learns from few is sure of nothing.
_REGULARISATION, _USUAL_PHOTOS, _LARGEST_C = 1.0, 100, 10.0
_LEAST_PROBABILITY = 1e-7  # smaller ones are rounding
_POLL = 0.2  # seconds between two looks at Ctrl-C
_LEAST_DEVIATION = 1e-6  # of a feature, as a share of its mean; less is rounding


def out_of_sample(
    features: Float32,
    labels: Int64,
    classes: int,
    *,
    groups: Int64,
    seed: int = 0,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> Float32:
    """What a classifier that has not seen a photo, nor a copy of it, takes it for.

    Args:
        features: float32 (N, D), pooled; may be a memory map.
        labels: int64 (N,) in [0, classes).
        classes: K.
        groups: int64 (N,), the same number for copies of each other, which stay in one fold.
        seed: of the folds.
        progress: counts folds.
        check: raises to stop; called several times a second.

    Returns:
        Probabilities, float32 (N, K), 0 for a class that a fold's classifier could not learn.
    """
    found = np.zeros((len(labels), classes), np.float32)
    rows = standardised(features)
    for number, (learned, asked) in enumerate(held_out(labels, groups, seed)):
        progress(number, FOLDS, title="Judging labels")
        known = np.unique(labels[learned])
        if len(known) == 1:
            found[asked, known[0]] = 1
        if asked.size and len(known) > 1:
            photos = FOLDS / (FOLDS - 1) * len(learned) / len(known)  # of a class, in all folds
            strength = _REGULARISATION * float(np.clip(_USUAL_PHOTOS / photos, 1, _LARGEST_C))
            model = fitted(rows[learned], labels[learned], strength, check)
            for part in parts(asked):
                found[np.ix_(part, model.classes_)] = model.predict_proba(rows[part])
        progress(number + 1, FOLDS, title="Judging labels")
    return found


def held_out(
    labels: Int64, groups: Int64, seed: int, most_fitted: int = _MOST_FITTED
) -> Iterator[tuple[Int64, Int64]]:
    """The places that each fold's classifier learns from, so many at most, and is asked about."""
    fold = folds(labels, groups, seed)
    for number in range(FOLDS):
        learned, asked = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        yield learned[sample(labels[learned], seed, most_fitted)], asked


def folds(labels: Int64, groups: Int64, seed: int) -> Int64:
    """A fold for each photo, int64 (N,), in [0, FOLDS): every class in all of them, alike.

    A group is dealt out as its first photo's class; the larger of two groups has no say in it.
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    random = np.random.default_rng(seed)
    order = random.permutation(len(first))
    order = order[np.argsort(labels[first[order]], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % FOLDS  # on from class to class: folds of one size
    return fold[group]


def wrong_labels(probabilities: Float32, labels: Int64) -> Int64:
    """The places of photos whose label looks wrong, the worst first.

    Args:
        probabilities: float32 (N, K), out of sample.
        labels: int64 (N,), as given.
    """
    score = label_scores(probabilities, labels)
    best = probabilities.argmax(1)
    order = np.argsort(-score, kind="stable")
    most = max(wrong_count(probabilities, labels), int((score >= SURE).sum()))
    order = order[:most]
    wrong: Int64 = order[(score[order] >= LEAST) & (best[order] != labels[order])]
    return wrong


def wrong_count(probabilities: Float32, labels: Int64) -> int:
    """How many labels are wrong, as the confident joint estimates it."""
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    own = _own(probabilities, labels)
    sums = np.bincount(labels, own, classes)
    thresholds = np.divide(sums, counts, out=np.ones(classes), where=counts > 0)
    joint = np.zeros((classes, classes), np.int64)
    for part in parts(np.arange(len(labels))):
        reached = np.where(probabilities[part] >= thresholds - 1e-6, probabilities[part], -1)
        sure = reached.max(1) >= 0
        np.add.at(joint, (labels[part][sure], reached.argmax(1)[sure]), 1)
    right = np.maximum(joint.diagonal(), 1)
    wrong = joint.sum(1) - joint.diagonal()
    return round(float((counts * wrong / (wrong + right)).sum()))


def label_scores(probabilities: Float32, labels: Int64) -> NDArray[np.float64]:
    """How wrong each label looks, float64 (N,) in [0, 1]: its surprise over that and the entropy.

    1/2 is as surprising as expected.
    """
    scores = np.empty(len(labels))
    own = _own(probabilities, labels).astype(np.float64)
    surprise = -np.log(np.clip(own, _LEAST_PROBABILITY, 1))
    for part in parts(np.arange(len(labels))):
        p = np.maximum(probabilities[part].astype(np.float64), _LEAST_PROBABILITY)
        entropy = -(p * np.log(p)).sum(1)
        scores[part] = surprise[part] / (surprise[part] + np.maximum(entropy, _LEAST_PROBABILITY))
    return np.clip(scores, 0, 1)


def label_issues(
    probabilities: Float32,
    features: Float32,
    labels: Int64,
    class_names: Sequence[str],
    photos: Sequence[LabelledPhoto],
    groups: Int64,
) -> list[Issue]:
    """Photos whose class looks wrong, each with the class that fits better, and a photo of that.

    Args:
        probabilities: float32 (N, K), of `out_of_sample`.
        features: float32 (N, D), from which they are.
        labels: int64 (N,), indices into `class_names`.
        class_names: of K classes.
        photos: N of them, in the order of rows.
        groups: int64 (N,), the same number for copies of each other.
    """
    members = [np.flatnonzero(labels == label) for label in range(len(class_names))]
    judged = np.flatnonzero(can_be_judged(members, groups)[labels])
    if not judged.size:
        return []
    scores = np.zeros(len(labels))
    scores[judged] = label_scores(probabilities[judged], labels[judged])
    wrong = judged[wrong_labels(probabilities[judged], labels[judged])]
    others = probabilities[wrong].argmax(1)
    alike = wrong.copy()
    for label in np.unique(others):
        asked = np.flatnonzero(others == label)
        alike[asked] = most_alike(features, wrong[asked], members[label])
    found = []
    for row, other, partner in zip(wrong.tolist(), others.tolist(), alike.tolist(), strict=True):
        given, fits = probabilities[row, [labels[row], other]].tolist()
        photo = photos[row]
        found.append(
            Issue(
                photo.name,
                "label",
                float(scores[row]),
                partner=photos[partner].name,
                suggestion=class_names[other],
                detail=f"{fits:.0%} {class_names[other]}, {given:.0%} {photo.label}",
                label=photo.label,
                side=photo.side,
            )
        )
    return found


def can_be_judged(members: Sequence[Int64], groups: Int64) -> Bool:
    """Of each class, bool (K,), whether it has enough photos for every fold, copies apart.

    `members` are the places of their photos.
    """
    return np.array([len(np.unique(groups[places])) >= FOLDS for places in members], np.bool_)


def _own(probabilities: Float32, labels: Int64) -> Float32:
    own: Float32 = probabilities[np.arange(len(labels)), labels]
    return own


def standardised(features: Float32) -> Float32:
    """Each column with mean 0 and deviation 1, then each row of length 1: (N, D), a copy."""
    total = np.zeros(features.shape[1])
    squares = np.zeros(features.shape[1])
    places = np.arange(len(features))
    for part in parts(places):
        rows = features[part].astype(np.float64)
        total += rows.sum(0)
        squares += (rows**2).sum(0)
    mean = total / max(1, len(features))
    deviation = np.sqrt(np.maximum(squares / max(1, len(features)) - mean**2, 0))
    constant = deviation <= _LEAST_DEVIATION * np.abs(mean)
    scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation))
    found = np.empty(features.shape, np.float32)
    for part in parts(places):
        rows = (features[part] - mean) * scale
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        found[part] = rows / np.maximum(length, np.finfo(np.float32).tiny)
    return found


def sample(labels: Int64, seed: int, most_fitted: int = _MOST_FITTED) -> Int64:
    """Places of as many photos as one classifier learns from; of more, the largest classes lose."""
    if len(labels) <= most_fitted:
        return np.arange(len(labels))
    counts = np.bincount(labels)
    fitting = range(most_fitted + 1)  # photos of a class
    most = bisect_right(fitting, most_fitted, key=lambda m: int(np.minimum(counts, m).sum())) - 1
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    begin = np.searchsorted(labels[order], labels[order])
    return np.sort(order[np.arange(len(order)) - begin < most])


def fitted(rows: Float32, labels: Int64 | Bool, strength: float, check: Callable[[], None]) -> Any:
    """A linear classifier of these rows; `strength` is scikit-learn's C.

    It learns in a thread, so that `check` is heard.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=_MOST_STEPS)
    errors = list[BaseException]()

    def fit() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the steps were used up: close enough
                model.fit(rows, labels)
        except BaseException as error:  # raised in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=fit, name="labels", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL)
        check()
    if errors:
        raise errors[0]
    return model
