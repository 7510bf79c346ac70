"""Photos that are the same, or nearly: identical pixels, likely pairs looked at closely, groups.

Of the photos of identical pixels one goes on. Pairs of nearest neighbours (`neighbours`) are laid
over each other (`alignment`); those that are similar enough make groups, as connected components.
How similar that is depends on the data: two photos of sky, or two handwritten sevens, are alike
without being copies. So pairs of one class are drawn at random, most of which are no copies, and
the limit lies far beyond what is usual among them, within `_LEAST` and `_MOST`.

Of a group the photo to keep comes first: one that trains, then the largest, then the one of most
bytes. The others are copies of it. Where the group has several classes (or, where a photo may have
several, different sets of them), photos of the rarer ones are contradictions (all of them where
none is the commonest); where it has several sides of a split, those that do not train are leaks.
One content under many classes is a placeholder, such as "image not found", and neither a copy nor a
contradiction.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnest_cli.cpu import usable_cores
from resnest_cli.data.issue_kinds import Kind
from resnest_cli.data.label_sets import shown_label
from resnest_cli.data.labelled_photos import SIDES, LabelledPhoto
from resnest_cli.inspection.alignment import similarity
from resnest_cli.inspection.issues import Issue
from resnest_cli.inspection.neighbours import candidates
from resnest_cli.inspection.survey import Survey
from resnest_cli.progress import Progress, silent

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Check = Callable[[], None]

_LEAST, _MOST = 0.9, 0.975  # where the limit of similarity lies
_BEYOND = 4.2  # times the way from the median to the 90th percentile of pairs that are no copies
_DRAWN = 2000  # pairs that say what is usual
_PAIRS = 4096  # that a thread looks at before it is asked to stop
_PLACEHOLDER = 4, 3  # photos of one content, and classes that they have, at least


class Copies(NamedTuple):
    """What was found, and the group of each photo, int64 (N,): the same number for copies."""

    issues: list[Issue]
    groups: Int64


def find_copies(survey: Survey, progress: Progress = silent, check: Check = lambda: None) -> Copies:
    """All groups of copies among the readable photos; `check` may raise to stop."""
    order = _preferred(survey)
    same = _identical(survey, order)
    unique = np.flatnonzero(same == np.arange(len(same)))
    pairs, scores = _near(survey, unique, progress, check)
    groups = _components(same, pairs)
    closest = np.zeros(len(same), np.float32)  # of each, among the photos with the same pixels
    np.maximum.at(closest, pairs.ravel(), np.repeat(scores, 2))
    found = _Groups(survey, same, closest)
    issues = []
    for number, members in enumerate(_members(groups, order), start=1):
        issues += found.issues(number, members)
    return Copies(issues, groups)


def _preferred(survey: Survey) -> Int64:
    """Places in the order in which photos would be kept."""
    photos, facts = survey.photos, survey.facts
    side = np.array([SIDES.index(p.side) if p.side else len(SIDES) for p in photos], np.int64)
    pixels = facts["width"].astype(np.int64) * facts["height"]
    names = sorted(range(len(photos)), key=lambda at: (len(photos[at].name), photos[at].name))
    by_name = np.argsort(names)  # shorter ones first: copies are called "1 (copy).jpg"
    return np.lexsort((by_name, -facts["bytes"], -pixels, side))


def _identical(survey: Survey, order: Int64) -> Int64:
    """For each photo the first one in `order` with the same pixels, itself in most cases."""
    first: dict[bytes, int] = {}
    same = np.arange(len(order))
    pixels = survey.facts["pixels"]
    for place in order.tolist():
        same[place] = first.setdefault(pixels[place].tobytes(), place)
    return same


def _near(survey: Survey, places: Int64, progress: Progress, check: Check) -> tuple[Int64, Float32]:
    """Pairs (P, 2) of photos that are nearly the same, and how similar they are, (P,)."""
    thumbnails = survey.facts["thumbnail"]
    pairs = candidates(survey.features, thumbnails, places, progress, check)
    scores = _similarities(thumbnails, pairs, progress, check)
    limit = _limit(survey, places)
    near = scores >= limit
    return pairs[near], scores[near]


def _similarities(
    thumbnails: NDArray[np.uint8], pairs: Int64, progress: Progress, check: Check
) -> Float32:
    """How similar the pairs are, looked at by as many threads as there are cores."""
    parts = [pairs[at : at + _PAIRS] for at in range(0, len(pairs), _PAIRS)]
    found = []
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="copies") as threads:
        try:
            for part in threads.map(lambda part: similarity(thumbnails, part), parts):
                found.append(part)
                done = sum(map(len, found))
                progress(done, len(pairs), title="Comparing pairs")
                check()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return np.concatenate([*found, np.zeros(0, np.float32)])


def _limit(survey: Survey, places: Int64) -> float:
    """The similarity from which two photos count as copies in these data."""
    classes = [np.intersect1d(of_class, places) for of_class in survey.members]
    rows = np.concatenate(classes)
    if len(rows) < 2:
        return _MOST
    draw = np.random.default_rng(0)  # the same pairs each time
    counts = np.array([len(of_class) for of_class in classes])
    begins = np.cumsum(counts) - counts
    chosen = draw.integers(0, len(rows), _DRAWN)
    own = np.searchsorted(begins, chosen, side="right") - 1
    other = begins[own] + draw.integers(0, counts[own])
    pairs = np.stack((rows[chosen], rows[other]), axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    if not len(pairs):
        return _LEAST
    thumbnails = survey.facts["thumbnail"]
    drawn = similarity(thumbnails, np.unique(np.sort(pairs, axis=1), axis=0), likely=-1.0)
    middle, high = np.percentile(np.arctanh(np.clip(drawn, -0.999, 0.999)), (50, 90))
    return float(np.clip(np.tanh(middle + _BEYOND * (high - middle)), _LEAST, _MOST))


def _components(same: Int64, pairs: Int64) -> Int64:
    """The number of each photo's group, int64 (N,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = np.concatenate((np.stack((np.arange(len(same)), same), axis=1), pairs)).T
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(same), len(same)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _members(groups: Int64, order: Int64) -> Iterator[list[int]]:
    """The groups of two or more photos, each in the order of preference."""
    found = defaultdict[int, list[int]](list)
    counts = np.bincount(groups, minlength=len(groups))
    for place in order.tolist():
        if counts[groups[place]] > 1:
            found[int(groups[place])].append(place)
    return iter(found.values())


@dataclass(frozen=True, slots=True)
class _Groups:
    """Turns groups into issues. `same` and `closest` are those of `find_copies`."""

    survey: Survey
    same: Int64
    closest: Float32

    def issues(self, number: int, members: list[int]) -> list[Issue]:
        """All that there is to say of a group, whose members are in the order of preference."""
        classes = Counter(self.survey.labels[members].tolist())
        photos, most = _PLACEHOLDER
        every = min(most, len(self.survey.class_names))
        found = []
        alike = sum(self.same[place] == self.same[members[0]] for place in members)
        if alike >= photos and len(classes) >= max(2, every):
            many = 1 - 1 / len(members)
            apart = "different sets of labels" if self.survey.multi_label else "classes"
            detail = f"{len(members)} photos of {len(classes)} {apart}"
            found += [
                self._issue("placeholder", number, place, members[0], many, detail)
                for place in members
            ]
        else:
            found += [self._copy(number, place, members) for place in members[1:]]
            found += self._contradictions(number, members, classes)
        found += self._leaks(number, members)
        return found

    def _copy(self, number: int, place: int, members: Sequence[int]) -> Issue:
        """One that need not be kept."""
        twin = int(self.same[place])
        if twin != place:
            return self._issue("copy", number, place, twin, 1.0, "the same pixels")
        return self._issue("near-copy", number, place, members[0], self._score(place, members[0]))

    def _contradictions(
        self, number: int, members: list[int], classes: Counter[int]
    ) -> Iterator[Issue]:
        (common, count), *others = classes.most_common()
        if not others:
            return
        settled = count > others[0][1]
        labels = self.survey.labels
        for place in members:
            if settled and labels[place] == common:
                continue
            other = next(
                one for one in members
                if labels[one] != labels[place] and (not settled or labels[one] == common)
            )  # fmt: skip
            detail = f"{self._class(place)} here, {self._class(other)} there"
            score, better = self._score(place, other), self._class(other) if settled else ""
            yield self._issue("contradiction", number, place, other, score, detail, better)

    def _leaks(self, number: int, members: list[int]) -> Iterator[Issue]:
        photos = self.survey.photos
        first = photos[members[0]].side  # which trains, if any does
        for place in members:
            if photos[place].side != first:
                detail = f"{photos[place].side} here, {first} there"
                score = self._score(place, members[0])
                yield self._issue("leak", number, place, members[0], score, detail)

    def _class(self, place: int) -> str:
        return shown_label(self.survey.photos[place].label)

    def _score(self, place: int, other: int) -> float:
        """1 for the same pixels, else the similarity to the nearest photo of the group."""
        if self.same[place] == self.same[other]:
            return 1.0
        return float(min(self.closest[self.same[place]], 1.0))

    def _issue(
        self, kind: Kind, number: int, place: int, other: int, score: float,
        detail: str = "", suggestion: str = "leave out",
    ) -> Issue:  # fmt: skip
        photo: LabelledPhoto = self.survey.photos[place]
        partner = self.survey.photos[other].name if other != place else ""
        return Issue(
            photo.name, kind, score, partner, suggestion, detail, photo.label, photo.side, number
        )
