"""Which photos belong together, and in which of K folds they lie.

Each fold is held out once while the others train. Iterative stratification deals the folds out
("On the Stratification of Multi-Label Data", Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011): the
rarest label first, each of its groups to the fold that still lacks most of it, then of all photos;
of one label for each photo this is the usual stratified K-fold. Larger groups come first, as later
ones have to make up for them.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from resnest_cli.data.labelled_photos import LabelledPhoto
from resnest_cli.data.seeds import drawn
from resnest_cli.data.stratification import Group

ALWAYS = 0  # in place of a fold, which count from 1: it trains in all of them


def kept_together(photos: Sequence[LabelledPhoto], seed: int) -> list[list[LabelledPhoto]]:
    """Photos with the same bytes or of the same group, in an order that the seed draws."""
    parents = list(range(len(photos)))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = place = parents[parents[place]]
        return place

    first: dict[object, int] = {}
    for place, photo in enumerate(photos):
        for key in (photo.digest, photo.group):
            if key:
                parents[root(place)] = root(first.setdefault(key, place))
    groups: dict[int, list[LabelledPhoto]] = defaultdict(list)
    for place, photo in enumerate(photos):
        groups[root(place)].append(photo)
    return sorted(groups.values(), key=lambda group: drawn(seed, "split", group[0].name))


def folds_of(groups: Sequence[Group], count: int) -> list[int]:
    """The fold of each group, from 1 to `count`, or `ALWAYS`.

    A group that alone has some label is in no fold, nor is the first of a label whose groups would
    all lie in one: whichever fold is held out, the others have a photo of every label.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        for name in group.labels:
            members[name].append(place)
    deal = _Deal(groups, sorted(members), count)
    alone = {found[0] for found in members.values() if len(found) == 1}
    for place in sorted(alone):
        deal.leave_out(place)
    while (label := deal.rarest()) is not None:
        waiting = [place for place in members[label] if place not in deal.dealt]
        for place in sorted(waiting, key=lambda place: -groups[place].photos):
            deal.out(place, label)
    for place in range(len(groups)):
        if place not in deal.dealt:  # without any label
            deal.out(place, None)
    dealt = [deal.dealt[place] for place in range(len(groups))]
    for found in members.values():
        if len({dealt[place] for place in found}) == 1:
            dealt[found[0]] = ALWAYS
    return dealt


class _Deal:
    """What each fold still lacks, of each label and of all photos; `dealt` is place -> fold."""

    def __init__(self, groups: Sequence[Group], labels: Sequence[str], count: int) -> None:
        self._groups, self._labels, self._count = groups, labels, count
        self._number = {name: place for place, name in enumerate(labels)}
        self._left = np.zeros(len(labels), np.int64)  # photos that are not dealt yet
        for group in groups:
            for name, photos in group.labels.items():
                self._left[self._number[name]] += photos
        # Times `count`, so that all of it are whole numbers.
        self._lacking = np.tile(self._left, (count, 1))
        self._room = np.full(count, sum(group.photos for group in groups), np.int64)
        self.dealt: dict[int, int] = {}

    def rarest(self) -> str | None:
        """The label of which the fewest photos are left, but some."""
        if not (self._left > 0).any():
            return None
        return self._labels[
            int(np.where(self._left > 0, self._left, self._left.max() + 1).argmin())
        ]

    def leave_out(self, place: int) -> None:
        """Gives a group to no fold."""
        self.dealt[place] = ALWAYS
        for name, photos in self._groups[place].labels.items():
            self._left[self._number[name]] -= photos

    def out(self, place: int, label: str | None) -> None:
        """Gives a group to the fold that lacks most of the label, and of such ones of photos."""
        group = self._groups[place]
        lacks = self._room if label is None else self._lacking[:, self._number[label]]
        fold = int(np.lexsort((-self._room, -lacks))[0])  # stable: of equal ones the first
        self.leave_out(place)
        self.dealt[place] = fold + 1
        self._room[fold] -= self._count * group.photos
        for name, photos in group.labels.items():
            self._lacking[fold, self._number[name]] -= self._count * photos
