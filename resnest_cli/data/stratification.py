"""Who gets which photos, so that every label is as frequent everywhere: iterative stratification.

"On the Stratification of Multi-Label Data", Sechidis, Tsoumakas and Vlahavas (ECML PKDD 2011): the
rarest label is dealt out first, each of its photos to the side that still lacks most of it, then of
all photos; then the rarest label of what is left. Of one label for each photo this is the usual
stratified split. Here groups are dealt out, photos that stay together, the larger ones first, as
later ones have to make up for them; and every label has a photo that trains.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

ALWAYS = 0  # the side that trains, in place of a fold; folds count from 1


class Group(NamedTuple):
    """Photos that stay together: how many, and how many of them have each label."""

    photos: int
    labels: Mapping[str, int]


def validating(groups: Sequence[Group], share: float) -> set[int]:
    """The places of the groups that validate, about a `share` of the photos of each label.

    Of a label with two photos or more at least one validates where its groups allow it. Of two
    groups that are alike the first one trains; the caller draws their order.
    """
    deal = _Deal(groups)
    wanted = np.minimum(np.maximum(1, np.rint(share * deal.counts)), deal.counts - 1)
    room = np.array([(1 - share) * deal.photos, share * deal.photos])
    sides = deal.sides(np.stack([deal.counts - wanted, wanted]), room)
    return {place for place, side in enumerate(sides) if side != ALWAYS}


def folds_of(groups: Sequence[Group], count: int) -> list[int]:
    """The fold of each group, from 1 to `count`, each of which is held out once; or `ALWAYS`.

    A group that alone has some label is in no fold, nor is the first of a label whose groups would
    all lie in one: whichever fold is held out, the others have a photo of every label.
    """
    deal = _Deal(groups)
    # Times `count`, so that all of it are whole numbers.
    wanted = np.tile(deal.counts.astype(np.float64), (count + 1, 1))
    room = np.full(count + 1, float(deal.photos))
    return deal.sides(wanted, room, unit=count, first=1)


class _Deal:
    """Groups, and of each label how many photos have it."""

    def __init__(self, groups: Sequence[Group]) -> None:
        names = sorted({name for group in groups for name in group.labels})
        number = {name: place for place, name in enumerate(names)}
        self._groups = groups
        self._labels = [{number[n]: photos for n, photos in one.labels.items()} for one in groups]
        self._members: list[list[int]] = [[] for _ in names]
        self.counts = np.zeros(len(names), np.int64)
        self.photos = sum(group.photos for group in groups)
        for place, labels in enumerate(self._labels):
            for label, photos in labels.items():
                self._members[label].append(place)
                self.counts[label] += photos

    def sides(self, lacking: Float, room: Float, *, unit: int = 1, first: int = 0) -> list[int]:
        """The side of each group: `ALWAYS`, or one from `first` on.

        `lacking` (sides, labels) and `room` (sides,) are the photos, times `unit`, that each is to
        get of each label and in all. Both are used up.
        """
        left, found = self.counts.copy(), dict[int, int]()

        def give(place: int, side: int) -> None:
            found[place] = side
            room[side] -= unit * self._groups[place].photos
            for label, photos in self._labels[place].items():
                lacking[side, label] -= unit * photos
                left[label] -= photos

        def deal_out(places: Sequence[int], lacks: Float) -> None:
            for place in places:
                if place not in found:  # of sides that lack as much the first
                    order = np.lexsort((-room[first:], -lacks[first:]))
                    give(place, first + int(order[0]))

        for place in sorted({places[0] for places in self._members if len(places) == 1}):
            give(place, ALWAYS)
        while (left > 0).any():
            rarest = int(np.where(left > 0, left, left.max() + 1).argmin())
            largest = sorted(self._members[rarest], key=lambda place: -self._groups[place].photos)
            deal_out(largest, lacking[:, rarest])
        deal_out(range(len(self._groups)), room)  # those without any label
        for places in self._members:
            if len({found[place] for place in places}) == 1:
                found[places[0]] = ALWAYS
        return [found[place] for place in range(len(self._groups))]
