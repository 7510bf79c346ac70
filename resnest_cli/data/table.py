"""A table of photos -> which photo has which label, and who trains. No photo is opened.

    photos.csv: path,label[,split]      paths are relative to the file

Other forms of files are understood, see `table_file`, and many other names of columns. What the
flags name comes first. Then names decide, compared without case, spaces and underscores: the first
group below of which the table has one name; two of one group are an error. A column without a known
name is taken where it is the only one left. A column is a split by its name, or where all of its
values are names of sides, train among them. What is not plain is an error that names the flags.
Rows of a test split are held out.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from resnest_cli.data.label_sets import flagged, mostly_flags, no_flags
from resnest_cli.data.labelled_photos import (
    AS_FOUND,
    LabelledData,
    LabelledPhoto,
    Reading,
    Side,
    named_sides,
    sides_of,
)
from resnest_cli.data.photo_paths import find_photos
from resnest_cli.data.table_file import Table, read_table_file, shown
from resnest_cli.data.table_labels import joined_rows, label_sets, labels_of, may_have_several
from resnest_cli.errors import UsageError
from resnest_cli.images.sources import is_photo
from resnest_cli.text import count, did_you_mean, some

# The names of pandas, fastai, Keras, Hugging Face (file_name), Kaggle and medical data sets.
_PATHS = (
    ("path",),
    ("filepath", "filepaths", "filename", "filenames", "fname", "fpath", "fullpath", "relpath",
     "relativepath", "imagepath", "imagepaths", "imagefile", "imagefilename", "imagename",
     "imageindex", "imgpath", "imgfile", "imgname", "imgfilename", "photopath"),
    ("image", "images", "img", "file", "files", "photo", "picture"),
    ("imageid", "imgid", "photoid", "fileid", "id", "name", "key"),
    ("url", "uri", "imageurl"),
)  # fmt: skip
_LABELS = (
    ("label",),
    ("labels", "class", "classes", "category", "target", "classname", "labelname", "categoryname",
     "classlabel"),
    ("classid", "labelid", "categoryid", "classindex", "targetid", "y"),
)  # fmt: skip
_NAMES = {"path": _PATHS, "label": _LABELS}
_KINDS = (*_NAMES, "split", "group")
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

_NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # a line break is a quote left open


def read_table(path: Path, reading: Reading = AS_FOUND) -> LabelledData:
    """Reads the file; `reading` says what it cannot say."""
    column = reading.path_column or ""
    table = read_table_file(path)
    if column.isdecimal() and table.named and column not in table.columns:
        table = read_table_file(path, unnamed=True)
    if not table.rows:
        raise UsageError(f"{path}: lists no photo. It needs lines path,label[,split].")
    columns = _Columns(table, reading)
    multi_label = may_have_several(
        table, columns.places.get("label"), columns.flags, reading.multi_label
    )
    if not columns.flags:
        _leave_out_unlabelled(table, columns, multi_label)
    _check_rows(table, columns, multi_label)
    places = find_photos(table, columns.places["path"], reading)
    if multi_label:
        labels = label_sets(table, columns.places.get("label"), columns.flags)
    else:
        labels = labels_of(table, columns.places["label"])
    sides: list[Side | None] = [None] * len(places)
    if "split" in columns.places:
        sides = [columns.sides[value] for value in table.values(columns.places["split"])]
    groups: Iterable[str] = [""] * len(places)
    if "group" in columns.places:
        groups = _groups(table, columns.places["group"])
    photos = [
        LabelledPhoto(place.path, place.name, label, side, group=group)
        for place, label, side, group in zip(places, labels, sides, groups, strict=True)
    ]
    if multi_label:
        photos = joined_rows(table, photos)
    else:
        _check_once(table, photos)
    found = LabelledData(photos, "val" in sides, notes=table.notes, multi_label=multi_label)
    _note_test(table, found)
    return found


def _key(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.casefold())


class _Columns:
    """The columns of a table: `places` of the path, the label and the split, if there is one.

    `sides` has the side of each value of the split. `flags` are columns of 0 and 1 that are there
    in place of a label, one for each class.
    """

    def __init__(self, table: Table, reading: Reading) -> None:
        self.table, self.reading, self.file = table, reading, table.file
        self.keys = [_key(name) for name in table.columns]
        self.places: dict[str, int] = {}
        self.sides: Mapping[str, Side] = {}
        self.flags: list[int] = []
        no_split = (reading.split_names or "").strip().lower() == "none"
        if no_split and reading.split_column is not None:
            raise UsageError("--split-names none: then there is no --split-column; leave out one.")
        self._take_named("path", reading.path_column)
        self._take_named("label", reading.label_column)
        self._take_named("split", reading.split_column)
        self._take_named("group", reading.group_column)
        if table.named:
            self._take_known("path")
        elif "path" not in self.places:
            self._take_path_of_photos()
        self._take_known("label")
        if "split" not in self.places and not no_split:
            self._take_split()
        self._take_only_left()
        if "split" in self.places:
            self.sides = self._all_sides(self.places["split"])
        if reading.multi_label and not self.flags:
            self._note_unused_flags()
        names = {kind: table.columns[place] for kind, place in self.places.items()}
        if any(kind != _key(name) for kind, name in names.items()):
            said = ", ".join(f"{names[kind]} ({kind})" for kind in _KINDS if kind in names)
            table.notes.append(f"{self.file}: columns taken: {said}")
        if "split" not in names and not no_split:
            self._note_unused_splits()

    def _take_named(self, kind: str, name: str | None) -> None:
        """Takes the column that a flag names: exactly so, or but for case."""
        if name is None:
            return
        columns = self.table.columns
        places = [place for place, column in enumerate(columns) if column == name] or [
            place for place, key in enumerate(self.keys) if key == _key(name)
        ]
        if len(places) != 1:
            many = f"{len(places)} columns of this name" if places else "no such column"
            hint = did_you_mean(name, columns)
            raise UsageError(
                f"--{kind}-column {name}: {self.file} has {many}; it has {shown(columns)}.{hint}"
            )
        if places[0] in self.places.values():
            raise UsageError(f"--{kind}-column {name}: another flag names this column, too.")
        self._take(kind, places)

    def _take(self, kind: str, places: list[int]) -> None:
        """Takes the only one of these columns."""
        if len(places) != 1:
            raise UsageError(
                f"{self.file}: several columns may be the {kind}: {self._names(places)}. Name one: "
                f"--{kind}-column."
            )
        name = self.table.columns[places[0]]
        if name in self.table.odd:
            joined = f" Lists of labels: df['{name}'].str.join('|')." if kind == "label" else ""
            raise UsageError(
                f"{self.file}: the column {name} ({kind}) holds {self.table.odd[name]}; it must "
                f"have one text in each row. --{kind}-column names another.{joined}"
            )
        self.places[kind] = places[0]

    def _names(self, places: Iterable[int]) -> str:
        return shown(self.table.columns[place] for place in places)

    def _free(self) -> list[int]:
        """Columns of text that are nothing yet."""
        return [
            place
            for place, name in enumerate(self.table.columns)
            if place not in self.places.values() and name not in self.table.odd
        ]

    def _take_known(self, kind: str) -> None:
        """Takes the column of the first group of names that the table has one of."""
        taken = self.places.values()
        for group in _NAMES[kind]:
            found = [p for p, key in enumerate(self.keys) if key in group and p not in taken]
            if found and kind not in self.places:
                self._take(kind, found)

    def _take_path_of_photos(self) -> None:
        """Of columns without names the one whose first cell is a photo's."""
        cells = enumerate(self.table.rows[0].cells)
        self._take("path", [place for place, cell in cells if is_photo(cell.strip())])

    def _left(self) -> list[int]:
        """Columns of text that are nothing yet, no splits and no mere row numbers."""
        return [
            place
            for place in self._free()
            if (key := self.keys[place]) not in _MAYBE_SPLITS
            and not (
                _INDEX.fullmatch(key)
                and all(value.isdecimal() for value in self.table.values(place))
            )
        ]

    def _take_only_left(self) -> None:
        """Takes the only column that is left for the path or the label, if the other is found."""
        missing = [kind for kind in _NAMES if kind not in self.places]
        if not missing:
            return
        left = self._left()
        if len(missing) == len(left) == 1:
            (other,) = _NAMES.keys() - missing
            if not any(self.keys[left[0]] in group for group in _NAMES[other]):
                self._take(missing[0], left)
                return
        if "path" in self.places and self._take_flags(left):
            return
        flags = " and ".join(f"--{kind}-column" for kind in missing)
        first = "" if self.table.named else ", which have no names and are called by their number"
        raise UsageError(
            f"{self.file}: no column is plainly the {' or the '.join(missing)}; it has "
            f"{shown(self.table.columns)}{first}. Name it with {flags}, or call the columns "
            "path,label[,split] in the first line."
        )

    def _take_flags(self, left: list[int]) -> bool:
        """Takes the columns of 0 and 1 in place of a label, if a photo may have several."""
        asked, values = self.reading.multi_label, self.table.values
        flags = [place for place in left if mostly_flags(list(values(place)))]
        if len(flags) < 2 or not (asked or flags == left):
            return False
        names = [self.table.columns[place] for place in flags]
        self._check_flags(flags, names)
        rows = zip(*map(values, flags), strict=True)
        if not asked and (asked is False or all(len(flagged(names, row)) == 1 for row in rows)):
            raise UsageError(
                f"{self.file}: has a column of 0 and 1 for each class ({self._names(left)}). One "
                "column must have the name of the class, in pandas: "
                "df['label'] = df[COLUMNS].idxmax(axis=1). Where a photo may have several: "
                "--multi-label."
            )
        self.flags = flags
        if unused := [place for place in left if place not in flags]:
            self.table.notes.append(
                f"{self.file}: not taken as labels, since they are not all 0 and 1: "
                f"{self._names(unused)}"
            )
        return True

    def _check_flags(self, flags: Sequence[int], names: Sequence[str]) -> None:
        """Raises UsageError for a cell that is not 0 or 1, and for two columns of one name."""
        for place, name in zip(flags, names, strict=True):
            if other := no_flags(self.table.values(place)):
                row = next(r for r in self.table.rows if r.cells[place].strip() == other[0])
                raise UsageError(
                    f"{self.file}: {self.table.unit} {row.number}: the column {name} has "
                    f"{other[0]!r} among its 0 and 1. Write 0 or 1 into each cell of {shown(names)}"
                    "; in pandas, where blanks mean 0: df[COLUMNS].fillna(0).astype(int)."
                )
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(
                f"{self.file}: several columns are called {twice[0]}. Give each class one name."
            )

    def _take_split(self) -> None:
        """Takes the column that says who trains: by its name, or by all of its values."""
        named = [
            place
            for place, key in enumerate(self.keys)
            if key == "split"
            and place not in self.places.values()
            and any(self.table.values(place))
        ]
        if found := named or [place for place in self._free() if self._is_split(place)]:
            self._take("split", found)
        elif self.reading.split_names is not None:
            raise UsageError(
                f"--split-names {self.reading.split_names}: no column of {self.file} has these "
                f"values only; it has {shown(self.table.columns)}. Name it with --split-column."
            )

    def _is_split(self, place: int) -> bool:
        values: set[str] = set()
        for value in self.table.values(place):
            values.add(value)
            if len(values) > _FEW:
                return False
        known = self._meanings(place, values)
        if self.keys[place] in _MAYBE_SPLITS:
            return bool(known)  # and all of them must be; see `_all_sides`
        several = len(set(known.values())) > 1 and "train" in known.values()
        return several and (self._is_yes_no(place) or len(known) == len(values - {""}))

    def _is_yes_no(self, place: int) -> bool:
        return self.keys[place] in _YES_NO and self.reading.split_names is None

    def _meanings(self, place: int, values: Iterable[str]) -> dict[str, Side]:
        """The side of each of these values of a column that means one."""
        if self._is_yes_no(place):
            sides = _YES_NO[self.keys[place]]
            return {v: sides[_TRUTH[v.lower()]] for v in values if v.lower() in _TRUTH}
        if self.reading.split_names is None:
            return sides_of(values)
        named = named_sides(self.reading.split_names)
        return {value: named[value] for value in values if value in named}

    def _all_sides(self, place: int) -> dict[str, Side]:
        values = dict.fromkeys(self.table.values(place))
        values.pop("", None)  # `_check_rows` names their lines
        known = self._meanings(place, values)
        unknown = [value for value in values if value not in known]
        if unknown:
            row = next(row for row in self.table.rows if row.cells[place].strip() == unknown[0])
            raise UsageError(
                f"{self.file}: {self.table.unit} {row.number}: unknown split {unknown[0]!r}; the "
                f"column {self.table.columns[place]} has {some(map(repr, unknown))}, which mean no "
                "side. Use train, val and test, or say which is which: --split-names "
                "TRAIN,VAL[,TEST]."
            )
        return known

    def _note_unused_flags(self) -> None:
        """Notes columns of 0 and 1 that may have been meant as labels, beside a column of these."""
        flags = [place for place in self._left() if not no_flags(self.table.values(place))]
        if len(flags) > 1:
            self.table.notes.append(
                f"{self.file}: the labels are those of the column "
                f"{self.table.columns[self.places['label']]}, not those of {self._names(flags)}"
            )

    def _note_unused_splits(self) -> None:
        """Notes columns that may have been meant as a split, where none was taken."""
        for place, key in enumerate(self.keys):
            values = sorted(set(self.table.values(place)) - {""})
            maybe = key in _MAYBE_SPLITS or key in _YES_NO
            if maybe and place not in self.places.values() and 1 < len(values) <= _FEW:
                self.table.notes.append(
                    f"{self.file}: the column {self.table.columns[place]} ({shown(values)}) is not "
                    "taken as a split; --split-column and --split-names TRAIN,VAL[,TEST] would"
                )


def _leave_out_unlabelled(table: Table, columns: _Columns, multi_label: bool) -> None:
    """Takes away test rows without a label, as competitions have them.

    Where a photo may have several labels it may have none: then only if no test row has one.
    """
    label, split = columns.places["label"], columns.places.get("split")
    if split is None:
        return
    test = {id(row) for row in table.rows if columns.sides.get(row.cells[split].strip()) == "test"}
    labelled = {id(row) for row in table.rows if row.cells[label].strip()}
    if multi_label and test & labelled:
        return
    used = [row for row in table.rows if id(row) not in test or id(row) in labelled]
    if left_out := len(table.rows) - len(used):
        table.notes.append(
            f"{table.file}: {count(left_out, 'photo')} of the test split without a label; not used"
        )
    if used:
        table.rows = used


def _check_rows(table: Table, columns: _Columns, multi_label: bool) -> None:
    """Raises UsageError for the first row without a path, a label, or a split where others have."""
    path, unit, places = table.file, table.unit, columns.places
    kinds = [kind for kind in _NAMES if kind in places]
    for row in table.rows:
        for kind in kinds:
            cell = row.cells[places[kind]].strip()
            if not cell and not (multi_label and kind == "label"):
                several = (
                    ""
                    if kind != "label"
                    else (" If photos may have several labels, or none, give --multi-label.")
                )
                raise UsageError(f"{path}: {unit} {row.number} lacks a {kind}.{several}")
            if _NO_TEXT.search(cell):
                raise UsageError(
                    f"{path}: {unit} {row.number}: {cell[:40]!r} is no path and no label: it has a "
                    "line break or another character that is no text. Is a quote left open?"
                )
    if "split" not in places:
        return
    if without := [row.number for row in table.rows if not row.cells[places["split"]].strip()]:
        raise UsageError(
            f"{path}: {len(without)} of {len(table.rows)} {unit}s have no split, {unit} "
            f"{without[0]} first. Give all of them one (train or val), or none."
        )


def _check_once(table: Table, photos: Sequence[LabelledPhoto]) -> None:
    rows: dict[str, list[int]] = {}
    for row, photo in zip(table.rows, photos, strict=True):
        rows.setdefault(os.path.normpath(photo.path), []).append(row.number)
    twice = [name for name, numbers in rows.items() if len(numbers) > 1]
    if twice:
        first, second = rows[twice[0]][:2]
        raise UsageError(
            f"{table.file}: lists {twice[0]} more than once, in {table.unit}s {first} and {second} "
            f"({len(twice)} such). If these are several labels of one photo, add --multi-label."
        )


def _groups(table: Table, column: int) -> list[str]:
    """The cells of the column that keeps photos together; a note says how many are empty."""
    groups = list(table.values(column))
    if alone := groups.count(""):
        table.notes.append(
            f"{table.file}: {count(alone, 'photo')} with no {table.columns[column]}; each of "
            "them is a group of its own"
        )
    return groups


def _note_test(table: Table, found: LabelledData) -> None:
    """Notes what the user should know of rows that are held out."""
    held_out = len(found.side("test"))
    if not held_out:
        return
    what = count(held_out, "photo")
    table.notes.append(f"{table.file}: {what} of the test split held out of training")
    known = {label for photo in found.photos for label in found.labels_of(photo)}
    learned = {
        label for photo in found.photos if photo.side != "test" for label in found.labels_of(photo)
    }
    if alone := sorted(known - learned):
        table.notes.append(
            f"{table.file}: {some(alone)}: in the test split only, so no class to learn"
        )
