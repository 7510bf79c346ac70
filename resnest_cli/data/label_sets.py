"""Several labels for one photo: how data write them, and how it is found out that they do.

    path,labels                     a column of labels with | ; or , between them
    beach/1.jpg,"sun|sea"
    beach/2.jpg,                    no label at all

    path,sun,sea                    a column of 0 and 1 for each label
    beach/1.jpg,1,1

    path,label                      a row for each label (with --multi-label)
    beach/1.jpg,sun
    beach/1.jpg,sea

A column of labels is found out by itself where the labels that stand together also stand alone in
other rows: nobody has the classes `cat`, `dog` and `cat|dog`. A hierarchy (`animal|dog`) does not
look like that, and neither do synonyms (`crane, bird`). Of separators the first in `SEPARATORS`
counts that any cell has, so that a comma is a part of a label where bars separate them.

The labels of a photo as one text have `|` between them and are sorted: photos with the same labels
have the same text.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

SEPARATORS = "|;,"
JOINT = SEPARATORS[0]
_YES_NO = {
    "1": True, "1.0": True, "true": True, "yes": True,
    "0": False, "0.0": False, "false": False, "no": False,
}  # fmt: skip


def split_labels(text: str, separator: str = JOINT) -> tuple[str, ...]:
    """The different labels in a text, in their order; none of an empty one."""
    parts = (part.strip() for part in text.split(separator))
    return tuple(dict.fromkeys(part for part in parts if part))


def joined_labels(labels: Iterable[str]) -> str:
    """These labels as one text, each once."""
    return JOINT.join(sorted(set(labels)))


def shown_label(text: str) -> str:
    """A label, or the text of several, for people: a photo may have none."""
    return text or "no label"


class LabelCounts(NamedTuple):
    """How many photos there are, how many without a label, with each, and with each two of them."""

    photos: int
    unlabelled: int
    labels: Counter[str]
    pairs: Counter[tuple[str, str]]


def count_labels(sets: Iterable[Sequence[str]]) -> LabelCounts:
    """Counts the labels of photos, a set for each, in any order."""
    photos, labels, pairs = Counter[bool](), Counter[str](), Counter[tuple[str, str]]()
    for of_photo in sets:
        photos[bool(of_photo)] += 1
        labels.update(of_photo)
        pairs.update(combinations(sorted(of_photo), 2))
    return LabelCounts(photos.total(), photos[False], labels, pairs)


def most_together(sides: Iterable[LabelCounts], most: int = 10) -> list[tuple[str, str]]:
    """The pairs of labels that the photos of all sides have most often."""
    every = sum((side.pairs for side in sides), Counter[tuple[str, str]]())
    return sorted(every, key=lambda pair: (-every[pair], pair))[:most]


def separator_of(texts: Iterable[str]) -> str:
    """What stands between the labels in these texts; `JOINT` where nothing does."""
    found = {sign for text in texts for sign in SEPARATORS if sign in text}
    return next((sign for sign in SEPARATORS if sign in found), JOINT)


def stand_alone(texts: Iterable[str], separator: str | None = None) -> bool:
    """Whether these texts cannot be names of classes: the parts of them are, too.

    The parts between their `separator`, unless another is given. Half of the different joint texts
    must have parts alone that stand in another text by themselves, or at different places in texts
    of several lengths: the levels of a hierarchy, and the columns of a tuple, have fixed places.
    """
    different = {text for text in texts if text}
    separator = separator or separator_of(different)
    every = {text: split_labels(text, separator) for text in different}
    joint = [parts for text, parts in every.items() if len(parts) > 1]
    names = different | _moving(list(every.values()), separator, different)
    known = [parts for parts in joint if names.issuperset(parts)]
    return bool(known) and 2 * len(known) >= len(joint)


def _moving(sets: Sequence[tuple[str, ...]], separator: str, texts: Iterable[str]) -> set[str]:
    """The parts that stand at different places; none where texts look like tuples.

    Those are all of one length, or one has a part twice ("yes|yes").
    """
    twice = any(text.count(separator) + 1 > len(split_labels(text, separator)) for text in texts)
    if twice or len({len(parts) for parts in sets}) < 2:
        return set()
    places: dict[str, set[int]] = {}
    for parts in sets:
        for place, part in enumerate(parts):
            places.setdefault(part, set()).add(place)
    return {part for part, found in places.items() if len(found) > 1}


def mixed_separators(labels: Iterable[str]) -> str | None:
    """The first label that is other ones with another separator between them."""
    known = set(labels)
    return next(
        (
            label
            for label in sorted(known)
            for sign in SEPARATORS
            if len(parts := split_labels(label, sign)) > 1 and known.issuperset(parts)
        ),
        None,
    )


def is_list(texts: Iterable[str]) -> bool:
    """Whether these are lists as Python writes them, such as ['sun', 'sea']."""
    different = set(texts) - {""}
    return bool(different) and all(text[0] == "[" and text[-1] == "]" for text in different)


def no_flags(texts: Iterable[str]) -> list[str]:
    """What a column has beside 0 and 1, or false and true, or no and yes; each once."""
    return [text for text in dict.fromkeys(texts) if text.casefold() not in _YES_NO]


def mostly_flags(texts: Sequence[str]) -> bool:
    """Whether a column is meant as 0 and 1: more than half of its cells that are not blank."""
    flags = sum(text.casefold() in _YES_NO for text in texts)
    return 2 * flags > len(texts) - texts.count("")


def flagged(names: Sequence[str], cells: Sequence[str]) -> tuple[str, ...]:
    """The names whose cells say 1."""
    pairs = zip(names, cells, strict=True)
    return tuple(name for name, cell in pairs if _YES_NO[cell.strip().casefold()])


def refused_name(names: Iterable[str]) -> str | None:
    """The first name that cannot be one of several labels, since it has their separator in it."""
    return next((name for name in names if JOINT in name), None)
