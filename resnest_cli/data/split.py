"""Who trains and who validates: the data's own split, or one that is drawn.

Files with the same bytes are never on both sides. Which photos are drawn depends on the seed, the
class and the names in it alone.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from resnest_cli.data.label_sets import joined_labels
from resnest_cli.data.labelled_photos import LabelledData, LabelledPhoto, Side
from resnest_cli.data.seeds import drawn
from resnest_cli.data.stratification import ALWAYS, Group, folds_of, validating
from resnest_cli.errors import UsageError
from resnest_cli.text import count, some


def own_sides(
    good: list[LabelledPhoto], notes: list[str]
) -> tuple[list[LabelledPhoto], list[LabelledPhoto], list[LabelledPhoto]]:
    """The data's own split; validation photos that training has, too, are left out.

    The one that trains keeps the labels that it has there: what the validation side says of it must
    not reach training.
    """
    train = [photo for photo in good if photo.side == "train"]
    val = [photo for photo in good if photo.side == "val"]
    twins = {photo.digest: photo for photo in reversed(train)}
    left_out = [
        replace(photo, error=f"is the same file as {twins[photo.digest].name}, which trains")
        for photo in val
        if photo.digest in twins
    ]
    if left_out:
        names = some(photo.name for photo in left_out)
        notes.append(
            f"{count(len(left_out), 'validation photo')} left out, since training has the "
            f"same: {names}"
        )
    if other := [photo.name for photo in left_out if photo.label != twins[photo.digest].label]:
        notes.append(
            f"{len(other)} of these have other labels than in training, and those count: "
            f"{some(other)}"
        )
    for side, photos in (("training", train), ("validation", val)):
        conflicting = _conflicting(photos)
        if shown := [photo.name for photo in photos if photo.digest in conflicting]:
            notes.append(f"the same photo under several classes of {side} (kept): {some(shown)}")
    return train, [photo for photo in val if photo.digest not in twins], left_out


def _conflicting(photos: Iterable[LabelledPhoto]) -> set[bytes]:
    """Digests of photos that lie under several classes."""
    labels_of: dict[bytes, set[str]] = defaultdict(set)
    for photo in photos:
        labels_of[photo.digest].add(photo.label)
    return {digest for digest, labels in labels_of.items() if len(labels) > 1}


def split_by_class(
    good: list[LabelledPhoto], share: float, seed: int, notes: list[str]
) -> tuple[list[LabelledPhoto], list[LabelledPhoto]]:
    """A seeded split by class; photos with the same bytes stay together."""
    if conflicting := _conflicting(good):
        names = some(photo.name for photo in good if photo.digest in conflicting)
        notes.append(
            f"the same photo under several classes (kept, to train on; with --multi-label it has "
            f"the labels of all): {names}"
        )
    by_class: dict[str, dict[bytes, list[LabelledPhoto]]] = defaultdict(lambda: defaultdict(list))
    for photo in good:
        by_class[photo.label][photo.digest].append(photo)
    chosen: set[str] = set()
    for label, same in by_class.items():
        count = sum(map(len, same.values()))
        wanted = min(max(1, round(share * count)), count - 1)
        groups = [group for digest, group in same.items() if digest not in conflicting]
        groups.sort(key=lambda group: drawn(seed, "split", label, group[0].name))
        if len(groups) == len(same) and groups:
            groups.pop()  # something must be left to train on
        for group in groups:
            if len(group) <= wanted:
                chosen |= {photo.path for photo in group}
                wanted -= len(group)
    train = [photo for photo in good if photo.path not in chosen]
    return train, [photo for photo in good if photo.path in chosen]


def split_by_labels(
    good: list[LabelledPhoto],
    found: LabelledData,
    share: float,
    seed: int,
    notes: list[str],
) -> tuple[list[LabelledPhoto], list[LabelledPhoto]]:
    """A seeded split that keeps the frequencies of labels; the same bytes stay together, and so do
    photos of the same group.
    """
    together, groups = _groups(good, found, seed, notes)
    chosen = {p.path for place in validating(groups, share) for p in together[place]}
    train = [photo for photo in good if photo.path not in chosen]
    return train, [photo for photo in good if photo.path in chosen]


def split_in_folds(
    good: list[LabelledPhoto], found: LabelledData, count: int, seed: int, data: str
) -> tuple[list[int], list[str]]:
    """The fold of each photo, see `folds_of`, and notes. UsageError where folds would be empty."""
    notes: list[str] = []
    together, groups = _groups(good, found, seed, notes)
    dealt = folds_of(groups, count)
    fold_of = {p.path: fold for fold, group in zip(dealt, together, strict=True) for p in group}
    folds = [fold_of[photo.path] for photo in good]
    filled = len(set(folds) - {ALWAYS})
    if filled < count:
        what = "photos of classes" if filled < 2 else "photos"
        remedy = f"Use --folds {filled}." if filled > 1 else "Give every class two photos or more."
        raise UsageError(
            f"--folds {count}: {data} has {what} that can be held out for {filled} of {count} "
            f"folds only; copies, and photos of one group, stay together. {remedy}"
        )
    counts = Counter(label for group in groups for label in group.labels)
    if few := sorted(label for label, number in counts.items() if 1 < number < count):
        notes.append(f"too few to be in all {count} folds: {some(few)}")
    if always := folds.count(ALWAYS):
        notes.append(
            "photos that train in all folds and are never asked about, since some class has no "
            f"others to learn from: {always}"
        )
    return folds, notes


def _groups(
    good: list[LabelledPhoto], found: LabelledData, seed: int, notes: list[str]
) -> tuple[list[list[LabelledPhoto]], list[Group]]:
    """Photos that stay together, in an order that the seed draws, and how many labels they have."""
    if conflicting := _conflicting(good):
        names = some(photo.name for photo in good if photo.digest in conflicting)
        notes.append(f"the same photo with different labels (kept, on one side): {names}")
    together = _kept_together(good, seed)
    labels = (Counter(label for p in group for label in found.labels_of(p)) for group in together)
    return together, [Group(len(ps), counts) for ps, counts in zip(together, labels, strict=True)]


def _kept_together(photos: Sequence[LabelledPhoto], seed: int) -> list[list[LabelledPhoto]]:
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


def merged_copies(
    good: Sequence[LabelledPhoto], found: LabelledData, notes: list[str]
) -> list[LabelledPhoto]:
    """One photo for all of the same bytes on a side, with the labels of all."""
    merged: dict[tuple[bytes, Side | None], LabelledPhoto] = {}
    for photo in good:
        first = merged.setdefault((photo.digest, photo.side), photo)
        labels = (*found.labels_of(first), *found.labels_of(photo))
        merged[photo.digest, photo.side] = replace(first, label=joined_labels(labels))
    photos = list(merged.values())
    several = sum(len(found.labels_of(photo)) > 1 for photo in photos)
    notes.append(
        f"{len(good):,} files are {len(photos):,} different photos; {several:,} lie in several "
        "class folders and have the labels of all"
    )
    return photos
