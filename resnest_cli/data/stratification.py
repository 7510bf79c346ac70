"""Which photos validate where each may have several labels: iterative stratification.

"On the Stratification of Multi-Label Data", Sechidis, Tsoumakas and Vlahavas (ECML PKDD 2011): the
rarest label is dealt out first, each of its photos to the side that still lacks most of it, then
the rarest of what is left. Here groups are dealt out, photos with the same bytes, so that none is
on both sides; and the side that trains has a photo of every label.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Group(NamedTuple):
    """Photos that stay together: how many, and how many of them have each label."""

    photos: int
    labels: Mapping[str, int]


def validating(groups: Sequence[Group], share: float) -> set[int]:
    """The places of the groups that validate, about a `share` of the photos of each label.

    Of a label with two photos or more at least one validates where its groups allow it. Of two
    groups that are alike the first one trains; the caller draws their order.
    """
    photos = sum(group.photos for group in groups)
    names = sorted({name for group in groups for name in group.labels})
    number = {name: place for place, name in enumerate(names)}
    counts = np.zeros(len(names), np.int64)
    members: list[list[int]] = [[] for _ in names]
    for place, group in enumerate(groups):
        for name, count in group.labels.items():
            counts[number[name]] += count
            members[number[name]].append(place)
    alone = np.array([len(found) == 1 for found in members], np.bool_)
    wanted = np.minimum(np.maximum(1, np.rint(share * counts)), counts - 1)
    deal = _Deal(groups, number, counts, np.where(alone, 0, wanted), share * photos, photos)
    left = np.array([len(found) for found in members])
    while (left > 0).any():
        rarest = int(np.where(left > 0, deal.left, np.iinfo(np.int64).max).argmin())
        for place in members[rarest]:
            if place not in deal.dealt:
                deal.out(place, rarest)
                for name in groups[place].labels:
                    left[number[name]] -= 1
    for place in range(len(groups)):
        if place not in deal.dealt:  # without any label
            deal.out(place, None)
    for found in members:  # a training photo for every label
        if all(place in deal.chosen for place in found):
            deal.chosen.discard(found[0])
    return deal.chosen


class _Deal:
    """What each side still wants, of each label and of all photos."""

    def __init__(
        self,
        groups: Sequence[Group],
        number: Mapping[str, int],
        counts: NDArray[np.int64],
        wanted: NDArray[np.float64],
        photos_wanted: float,
        photos: int,
    ) -> None:
        self._groups, self._number = groups, number
        self.left = counts.copy()
        self._val, self._train = wanted.copy(), counts - wanted
        self._photos_val, self._photos_train = photos_wanted, photos - photos_wanted
        self.dealt: set[int] = set()
        self.chosen: set[int] = set()

    def out(self, place: int, label: int | None) -> None:
        """Gives a group to the side that lacks most of the label, or else of photos."""
        lacks = (self._photos_val, self._photos_train)
        if label is not None and self._val[label] != self._train[label]:
            lacks = (self._val[label], self._train[label])
        validates = lacks[0] > lacks[1]
        self.dealt.add(place)
        group = self._groups[place]
        if validates:
            self.chosen.add(place)
            self._photos_val -= group.photos
        else:
            self._photos_train -= group.photos
        side = self._val if validates else self._train
        for name, count in group.labels.items():
            side[self._number[name]] -= count
            self.left[self._number[name]] -= count
