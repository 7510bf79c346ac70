"""Photos that could be read when a run began and cannot be any more.

The rule: such a photo is left out wherever its turn comes, and its batch is that much smaller; all
others stay in the batches that they were in. It is listed in `lost.csv`. A step of which a batch
has fewer than two photos left (batch norm cannot learn from one) is passed over on all devices.
From the first lost photo on the run is no longer, bit for bit, the one that its seed stands for.

A run that loses its data ends, see `LostPhotos.check`: with its state saved, so that it can go on
when they are back. What a resumed run finds back counts as there.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from resnest_cli.data.dataset import UNLABELLED, DataSet, Sample
from resnest_cli.data.labelled_photos import Side
from resnest_cli.errors import ResnestError

MOST_IN_A_ROW = 64  # training photos, and none in between; chance alone does not do that


class Lost(NamedTuple):
    """A photo that could not be read: its place among the samples, label and name, and why."""

    place: int
    label: int
    name: str
    error: str


@dataclass(slots=True)
class LostPhoto:
    """The same as it is kept: with its side, and the epoch (from 1) that missed it first.

    `back` says that it was there again when the run was resumed.
    """

    side: Side
    name: str
    label: int
    epoch: int
    error: str
    back: bool = False


class DataLostError(ResnestError):
    """So many photos are gone that the run would no longer learn what it was meant to."""

    def __init__(self, what: str, example: LostPhoto) -> None:
        super().__init__(
            f"{what} cannot be read any more, such as {example.name}: {example.error}. Is the disk "
            "with the data still there? Everything so far is saved: bring them back and go on with "
            "--resume (with --resume DATA where they lie elsewhere now), or start a new run "
            "without them."
        )


class LostPhotos:
    """Those of a run, in the list that the state keeps; the rest as in `step.Task`."""

    def __init__(
        self,
        photos: list[LostPhoto],
        train_counts: Sequence[int],
        val_photos: int,
        unlabelled: int = 0,
    ) -> None:
        self.photos = photos
        self._counts, self._val_photos, self._unlabelled = train_counts, val_photos, unlabelled
        self._known = {_key(photo.side, photo): photo for photo in photos}

    def add(self, side: Side, found: Iterable[Lost], epoch: int) -> list[LostPhoto]:
        """Those that were not known to be lost, and are from now on."""
        new = []
        for lost in found:
            known = self._known.get(_key(side, lost))
            if known is None:
                known = LostPhoto(side, lost.name, lost.label, epoch, lost.error)
                self._known[_key(side, lost)] = known
                self.photos.append(known)
            elif not known.back:
                continue
            known.back = False
            new.append(known)
        return new

    def check(self) -> None:
        """Raises DataLostError where more than half of the training photos or of the validation
        photos cannot be read, or fewer than two classes have any to learn from.
        """
        gone = [photo for photo in self.photos if not photo.back]
        train = sum(self._counts) + self._unlabelled
        totals = {"train": ("training", train), "val": ("validation", self._val_photos)}
        for side, (kind, total) in totals.items():
            lost = [photo for photo in gone if photo.side == side]
            if 2 * len(lost) > total > 0:
                raise DataLostError(f"{len(lost):,} of {total:,} {kind} photos", lost[-1])
        labels = self._lost_labels()
        there = [label for label, count in enumerate(self._counts) if count > labels[label]]
        if labels and not self._unlabelled and len(there) < 2 <= sum(map(bool, self._counts)):
            raise DataLostError("the training photos of all classes but one", gone[-1])

    def emptied(self, new: Sequence[LostPhoto]) -> list[LostPhoto]:
        """Of the new ones those that were the last training photos of their classes."""
        lost = self._lost_labels()
        last = {p.label: p for p in new if p.side == "train" and p.label != UNLABELLED}
        return [p for label, p in sorted(last.items()) if lost[label] >= self._counts[label] > 0]

    def _lost_labels(self) -> Counter[int]:
        return Counter(p.label for p in self.photos if p.side == "train" and not p.back)


def _key(side: Side, photo: Lost | LostPhoto | Sample) -> tuple[Side, str, bool]:
    """What tells a photo from all others; names without a label are relative to another folder."""
    return side, photo.name, photo.label == UNLABELLED


def found_again(photos: Sequence[LostPhoto], dataset: DataSet) -> int:
    """Marks those whose files are there now, broken or not, as back; how many there are."""
    paths = {_key("train", s): s.path for s in dataset.learned}
    paths |= {_key("val", s): s.path for s in dataset.val}
    for photo in photos:
        path = paths.get(_key(photo.side, photo))
        photo.back = path is None or Path(path).exists()  # of a shard: to be seen
    return sum(photo.back for photo in photos)
