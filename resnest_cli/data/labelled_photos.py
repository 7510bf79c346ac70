"""Labelled photos before any is opened: their records, and what a data set calls its sides.

People call the sides of a split train, Training, seg_train, train-set, TEST, dev, ... Names are
compared without regard to case and to Unicode's form. A name is one of `_WORDS`, perhaps with
decorations: words that say nothing (`set`, `data`, `images`, ...), or a word that all sides share
(`seg_train`, `seg_test`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Literal

from resnest_cli.data.label_sets import split_labels
from resnest_cli.errors import UsageError
from resnest_cli.model.labels import canonical
from resnest_cli.options import setting

Side = Literal["train", "val", "test"]
SIDES: tuple[Side, ...] = ("train", "val", "test")

_WORDS: Mapping[Side, tuple[str, ...]] = {
    "train": ("train", "training", "trainval", "trn"),
    "val": ("val", "valid", "validation", "validate", "validating", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
_SIDES: Mapping[str, Side] = {word: side for side, words in _WORDS.items() for word in words}
_DECORATIONS = frozenset((
    "set", "sets", "data", "dataset", "datasets", "split", "images", "image", "imgs", "img",
    "photos", "photo", "pictures", "pics", "files", "folder",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class LabelledPhoto:
    """A photo as it was listed: where it lies, its name in the data, its label, its side if any.

    In data with several labels for one photo, `label` is the text of all of them, which may be
    empty; `LabelledData.labels_of` takes it apart. Once it was read, `digest` is the SHA-256 of its
    file, or `error` says why it is not used.
    """

    path: str
    name: str
    label: str
    side: Side | None
    digest: bytes = b""
    error: str = ""


@dataclass(slots=True)
class LabelledData:
    """All photos, and what was seen on the way. `own_split`: the data say which side validates.

    `multi_label`: a photo may have several labels, or none; see `label_sets`.
    """

    photos: list[LabelledPhoto]
    own_split: bool
    empty: list[str] = field(default_factory=list)  # class folders without a photo
    notes: list[str] = field(default_factory=list)
    excluded: list[LabelledPhoto] = field(default_factory=list)  # with `Reading.exclude`
    multi_label: bool = False

    def labels_of(self, photo: LabelledPhoto) -> tuple[str, ...]:
        """The labels of one of the photos."""
        return split_labels(photo.label) if self.multi_label else (photo.label,)

    def need_one_label(self, data: str, what: str) -> None:
        """Raises UsageError where photos may have several labels, which `what` does not know."""
        if self.multi_label:
            raise UsageError(
                f"{data}: its photos have several labels, or none, which {what} does not know yet. "
                "Give data with one label for each photo."
            )

    def side(self, side: Side) -> list[LabelledPhoto]:
        """The photos of one side."""
        return [photo for photo in self.photos if photo.side == side]


_ANY_DATA = ("exclude", "exclude_kinds")  # settings that are for folders, too
_reading = partial(setting, panel="Labelled data")


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read a data set, where it cannot say so itself (None is found out), and what of it.

    `split_names` are the data's own names of train, val and test, with commas between them, or
    "none": no split. Of a table: the columns of paths, labels and splits, the folder that its paths
    are relative to, and the extension of names that have none. `exclude` is a list of issues whose
    photos are left out, see `exclusion`; `exclude_kinds` are those that count, with commas.
    """

    split_names: str | None = _reading(
        None,
        "Unusual names of the splits, as folders or in a column; none: all folders are classes.",
        "TRAIN,VAL[,TEST]",
    )
    path_column: str | None = _reading(
        None, "Of a table: the column of paths, where its name is not a usual one.", "NAME"
    )
    label_column: str | None = _reading(None, "Of a table: the column of labels, likewise.", "NAME")
    split_column: str | None = _reading(
        None, "Of a table: the column of train, val and test, likewise.", "NAME"
    )
    base_folder: str | None = _reading(
        None, "Of a table: the folder with the photos; the table's own, unless said.", "DIR"
    )
    extension: str | None = _reading(
        None, "Of a table: what paths without an extension lack, such as .jpg.", "EXT"
    )
    multi_label: bool | None = _reading(
        None,
        "A photo may have several labels, or none: a table's labels with | ; or , between them, "
        "columns of 0 and 1, or copies of a photo in several class folders. Found out of a table "
        "that cannot mean anything else.",
    )
    exclude: str | None = _reading(
        None, "Leave out the photos that an issues.csv of `resnest check` names.", "FILE"
    )
    exclude_kinds: str | None = _reading(
        None, "Only those with such issues: label,copy (all that FILE has).", "KIND,..."
    )

    def check_only(self, names: Iterable[str], data: str, what: str) -> None:
        """Raises UsageError for a setting without one of these names: data are no plain table."""
        for name, value in asdict(self).items():
            if name not in {*names, *_ANY_DATA} and value is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} is for a table of photos (CSV, JSON lines, "
                    f"Parquet), and {data} is {what}."
                )


AS_FOUND = Reading()


def sides_of(names: Iterable[str]) -> dict[str, Side]:
    """The side of each of these names that means one, by itself or beside the others.

    `seg_train` and `seg_test` are sides beside each other; `speed_test` alone is none.
    """
    meanings = {name: meaning(name) for name in names}
    found = {name: side for name, (side, rest) in meanings.items() if side and not rest}
    by_rest: dict[tuple[str, ...], dict[str, Side]] = {}
    for name, (side, rest) in meanings.items():
        if side and rest:
            by_rest.setdefault(rest, {})[name] = side
    for group in by_rest.values():
        if "train" in group.values() and len(group) > 1:
            found |= group
    return found


def meaning(name: str) -> tuple[Side | None, tuple[str, ...]]:
    """The side that a name's one such word means, and its other words that say something.

    `train_set` is ("train", ()), `speed_test` ("test", ("speed",)), `images` (None, ()).
    """
    # In lower case: train2017, TrainSet and train-set have two words each.
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", canonical(name))
    words = re.findall(r"[^\W\d_]+|\d+", apart.casefold())
    sides = [side for word in words if (side := _side_of_word(word))]
    if len(sides) > 1:
        return None, tuple(words)
    rest = tuple(w for w in words if not _side_of_word(w) and w not in _DECORATIONS)
    return (sides[0] if sides else None), rest


def named_sides(text: str) -> dict[str, Side]:
    """The sides of `--split-names`: the data's names of train, val and test, in this order."""
    names = [name.strip() for name in text.split(",")]
    given = [name for name in names if name]
    if not 1 <= len(names) <= 3 or not names[0] or len(set(given)) < len(given):
        raise UsageError(
            f"--split-names {text}: give the data's names of train, val and test, such as "
            "Fold1,Fold2 or Fold1,Fold2,Fold3; a side that is not there stays empty: Fold1,,Fold3."
        )
    return {name: side for name, side in zip(names, SIDES, strict=False) if name}


def _side_of_word(word: str) -> Side | None:
    if word in _SIDES:
        return _SIDES[word]
    for more in _DECORATIONS:  # as in trainset, testimages and imagestrain
        if word.endswith(more) and (side := _SIDES.get(word.removesuffix(more))):
            return side
        if word.startswith(more) and (side := _SIDES.get(word.removeprefix(more))):
            return side
    return None
