"""Which columns of a table are the photo's path, its label and its side of a split.

What the flags name comes first. Then names decide, compared without case, spaces and underscores:
the first group below of which the table has one name; two of one group are an error. A column
without a known name is taken where it is the only one left. A column is a split by its name, or
where all of its values are names of sides, train among them. What is not plain is an error that
names the flags.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from resnest_cli.data.listing import Reading, Side
from resnest_cli.data.split_names import named_sides, sides_of
from resnest_cli.data.table_file import Table, is_photo, shown
from resnest_cli.errors import UsageError
from resnest_cli.model.variants import did_you_mean_among

# The names of pandas, fastai, Keras, Hugging Face (file_name), Kaggle and medical data sets.
# fmt: off
_PATHS = (
    ("path",),
    ("filepath", "filepaths", "filename", "filenames", "fname", "fpath", "fullpath", "relpath",
     "relativepath", "imagepath", "imagepaths", "imagefile", "imagefilename", "imagename",
     "imageindex", "imgpath", "imgfile", "imgname", "imgfilename", "photopath"),
    ("image", "images", "img", "file", "files", "photo", "picture"),
    ("imageid", "imgid", "photoid", "fileid", "id", "name", "key"),
    ("url", "uri", "imageurl"),
)
_LABELS = (
    ("label",),
    ("labels", "class", "classes", "category", "target", "classname", "labelname", "categoryname",
     "classlabel"),
    ("classid", "labelid", "categoryid", "classindex", "targetid", "y"),
)
# fmt: on
_SPLIT = "split"
_MAYBE_SPLITS = frozenset(
    ("set", "subset", "dataset", "partition", "phase", "usage", "fold", "splits", "datasplit")
)
# Columns of yes and no, fastai's is_valid among them: what yes and no mean.
_YES_NO: Mapping[str, tuple[Side, Side]] = {
    "isvalid": ("val", "train"), "isval": ("val", "train"), "isvalidation": ("val", "train"),
    "istest": ("test", "train"), "istrain": ("train", "val"), "istraining": ("train", "val"),
}  # fmt: skip
_TRUTH = {"true": 0, "1": 0, "1.0": 0, "yes": 0, "false": 1, "0": 1, "0.0": 1, "no": 1}
_INDEX = re.compile(r"|unnamed:[\d.]+|index|indexlevel0")  # pandas' row numbers
_FEW = 20  # different values of a split


@dataclass(frozen=True, slots=True)
class Columns:
    """Places of the columns; the side of each value of the split; what the user should know."""

    path: int
    label: int
    split: int | None
    sides: Mapping[str, Side]
    notes: list[str]


def find_columns(table: Table, reading: Reading, file: Path) -> Columns:
    """Chooses the columns of a table; `file` is named in messages.

    Raises:
        UsageError: one is missing or several fit, or the split has values that are no sides.
    """
    return _Finder(table, reading, file).found()


def _key(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.casefold())


class _Finder:
    def __init__(self, table: Table, reading: Reading, file: Path) -> None:
        self.table, self.reading, self.file = table, reading, file
        self.keys = [_key(name) for name in table.columns]
        self.taken: set[int] = set()
        self.no_split = (reading.split_names or "").strip().lower() == "none"
        if self.no_split and reading.split_column is not None:
            raise UsageError("--split-names none: then there is no --split-column; leave out one.")

    def found(self) -> Columns:
        path = self._named("path", self.reading.path_column)
        label = self._named("label", self.reading.label_column)
        split = self._named("split", self.reading.split_column)
        if path is None:
            path = self._by_name("path", _PATHS) if self.table.named else self._by_photos()
        if label is None:
            label = self._by_name("label", _LABELS)
        if split is None and not self.no_split:
            split = self._split()
        if path is None and label is not None:
            path = self._only_left("path", _LABELS)
        elif label is None and path is not None:
            label = self._only_left("label", _PATHS)
        if path is None or label is None:
            raise self._missing(path, label)
        sides = self._sides(split) if split is not None else {}
        notes = self._notes(path, label, split)
        if split is None and not self.no_split:
            notes += self._unused_splits()
        return Columns(path, label, split, sides, notes)

    def _named(self, kind: str, name: str | None) -> int | None:
        """The column that a flag names: exactly so, or but for case."""
        if name is None:
            return None
        columns = self.table.columns
        places = [place for place, column in enumerate(columns) if column == name] or [
            place for place, key in enumerate(self.keys) if key == _key(name)
        ]
        if len(places) != 1:
            many = f"{len(places)} columns of this name" if places else "no such column"
            hint = did_you_mean_among(name, columns)
            raise UsageError(
                f"--{kind}-column {name}: {self.file} has {many}; it has {shown(columns)}.{hint}"
            )
        if places[0] in self.taken:
            raise UsageError(f"--{kind}-column {name}: another flag names this column, too.")
        return self._take(places[0], kind)

    def _take(self, place: int, kind: str) -> int:
        if self.table.columns[place] in self.table.odd:
            what = self.table.odd[self.table.columns[place]]
            raise UsageError(
                f"{self.file}: the column {self.table.columns[place]} ({kind}) holds {what}; it "
                f"must have one text in each row. --{kind}-column names another."
            )
        self.taken.add(place)
        return place

    def _by_name(self, kind: str, groups: tuple[tuple[str, ...], ...]) -> int | None:
        for group in groups:
            places = [
                place
                for place, key in enumerate(self.keys)
                if key in group and place not in self.taken
            ]
            if len(places) > 1:
                raise self._several(kind, places)
            if places:
                return self._take(places[0], kind)
        return None

    def _several(self, kind: str, places: Iterable[int]) -> UsageError:
        names = shown(self.table.columns[place] for place in places)
        return UsageError(
            f"{self.file}: several columns may be the {kind}: {names}. Name one: --{kind}-column."
        )

    def _by_photos(self) -> int:
        """Of columns without names the one whose first cell is a photo's."""
        cells = self.table.rows[0].cells
        places = [p for p, cell in enumerate(cells) if is_photo(cell.strip())]
        if len(places) != 1:
            raise self._several("path", places)
        return self._take(places[0], "path")

    def _left(self) -> list[int]:
        """Columns of text that are nothing yet, and no mere row numbers."""
        return [
            place
            for place, key in enumerate(self.keys)
            if place not in self.taken
            and self.table.columns[place] not in self.table.odd
            and key not in _MAYBE_SPLITS
            and not (
                _INDEX.fullmatch(key)
                and all(value.isdecimal() for value in self.table.values(place))
            )
        ]

    def _only_left(self, kind: str, other: tuple[tuple[str, ...], ...]) -> int | None:
        left = self._left()
        if len(left) != 1 or any(self.keys[left[0]] in group for group in other):
            return None
        return self._take(left[0], kind)

    def _missing(self, path: int | None, label: int | None) -> UsageError:
        columns = shown(self.table.columns)
        left = self._left()
        if path is not None and len(left) > 1 and all(map(self._is_one_hot, left)):
            return UsageError(
                f"{self.file}: has a column of 0 and 1 for each class "
                f"({shown(self.table.columns[place] for place in left)}). One column must have the "
                "name of the class, in pandas: df['label'] = df[COLUMNS].idxmax(axis=1)"
            )
        kinds = [kind for kind, place in (("path", path), ("label", label)) if place is None]
        flags = " and ".join(f"--{kind}-column" for kind in kinds)
        first = "" if self.table.named else ", which have no names and are called by their number"
        return UsageError(
            f"{self.file}: no column is plainly the {' or the '.join(kinds)}; it has {columns}"
            f"{first}. Name it with {flags}, or call the columns path,label[,split] in the first "
            "line."
        )

    def _is_one_hot(self, place: int) -> bool:
        return all(value in {"0", "1", "0.0", "1.0"} for value in self.table.values(place))

    def _split(self) -> int | None:
        """The column that says who trains: by its name, or by all of its values."""
        strict = [
            place
            for place, key in enumerate(self.keys)
            if key == _SPLIT and place not in self.taken and any(self.table.values(place))
        ]
        if len(strict) > 1:
            raise self._several("split", strict)
        found = strict or [
            place
            for place in range(len(self.keys))
            if place not in self.taken
            and self.table.columns[place] not in self.table.odd
            and self._is_split(place)
        ]
        if len(found) > 1:
            raise self._several("split", found)
        if found:
            return self._take(found[0], "split")
        if self.reading.split_names is not None:
            raise UsageError(
                f"--split-names {self.reading.split_names}: no column of {self.file} has these "
                f"values only; it has {shown(self.table.columns)}. Name it with --split-column."
            )
        return None

    def _is_split(self, place: int) -> bool:
        values: set[str] = set()
        for value in self.table.values(place):
            values.add(value)
            if len(values) > _FEW:
                return False
        if self.keys[place] in _YES_NO and self.reading.split_names is None:
            return {_TRUTH.get(value.lower()) for value in values} >= {0, 1}
        known = self._known(values)
        if self.keys[place] in _MAYBE_SPLITS:
            return bool(known)  # and all of them must be; see `_sides`
        several = len(set(known.values())) > 1 and "train" in known.values()
        return several and len(known) == len(values - {""})

    def _known(self, values: Iterable[str]) -> dict[str, Side]:
        if self.reading.split_names is None:
            return sides_of(values)
        named = named_sides(self.reading.split_names)
        return {value: named[value] for value in values if value in named}

    def _sides(self, place: int) -> dict[str, Side]:
        """The side of each value of a split."""
        values = Counter(self.table.values(place))
        del values[""]  # `table` names their lines
        known: dict[str, Side]
        if self.keys[place] in _YES_NO and self.reading.split_names is None:
            sides = _YES_NO[self.keys[place]]
            known = {v: sides[_TRUTH[v.lower()]] for v in values if v.lower() in _TRUTH}
        else:
            known = self._known(values)
        unknown = [value for value in values if value not in known]
        if unknown:
            row = next(row for row in self.table.rows if row.cells[place].strip() == unknown[0])
            names = ", ".join(repr(value) for value in unknown[:5])
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UsageError(
                f"{self.file}: {self.table.unit} {row.number}: unknown split {unknown[0]!r}; the "
                f"column {self.table.columns[place]} has {names}{more}, which mean no side. Use "
                "train, val and test, or say which is which: --split-names TRAIN,VAL[,TEST]."
            )
        return known

    def _notes(self, path: int, label: int, split: int | None) -> list[str]:
        """What was decided, where the columns are not called as we ask for."""
        columns, expected = self.table.columns, {"path": path, "label": label, "split": split}
        taken = {kind: columns[p] for kind, p in expected.items() if p is not None}
        if all(kind == _key(name) for kind, name in taken.items()):
            return []
        said = ", ".join(f"{name} ({kind})" for kind, name in taken.items())
        return [f"{self.file}: columns taken: {said}"]

    def _unused_splits(self) -> list[str]:
        """Columns that may have been meant as a split, where none was taken."""
        unused = []
        for place, key in enumerate(self.keys):
            values = sorted(set(self.table.values(place)) - {""})
            maybe = key in _MAYBE_SPLITS or key in _YES_NO
            if maybe and place not in self.taken and 1 < len(values) <= _FEW:
                unused.append(
                    f"{self.file}: the column {self.table.columns[place]} ({shown(values)}) is not "
                    "taken as a split; --split-column and --split-names TRAIN,VAL[,TEST] would"
                )
        return unused
