"""A table of photos -> which photo has which label, and who trains. No photo is opened.

    photos.csv: path,label[,split]      paths are relative to the file

Many other names of columns are understood, and other forms of files: see `columns`, `photo_paths`
and `table_file`. Rows of a test split are held out.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from resnest_cli.data.columns import Columns, find_columns
from resnest_cli.data.listing import AS_FOUND, Listed, Listing, Reading, Side
from resnest_cli.data.photo_paths import Cell, Place, find_photos
from resnest_cli.data.table_file import Row, Table, read_table_file
from resnest_cli.errors import UsageError
from resnest_cli.model.class_names import canonical

_WHOLE = re.compile(r"(-?\d+)(\.0+)?")
_MISSING = frozenset(("nan", "na", "n/a", "<na>", "#n/a", "null", "none"))
_SEVERAL = re.compile(r"[|;,]")  # what stands between labels of one photo
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # a line break is a quote left open


def read_table(path: Path, reading: Reading = AS_FOUND) -> Listing:
    """Reads the file; `reading` says what it cannot say.

    Raises:
        UsageError: its form, its columns or its splits are not understood; a row lacks what it
            needs; no photo is listed, one twice, or most are not there.
        ResnestError: the file cannot be read.
    """
    column = reading.path_column or ""
    table = read_table_file(path)
    if column.isdecimal() and table.named and column not in table.columns:
        table = read_table_file(path, unnamed=True)
    if not table.rows:
        raise UsageError(f"{path}: lists no photo. It needs lines path,label[,split].")
    columns = find_columns(table, reading, path)
    unlabelled = _leave_out_unlabelled(table, columns)
    _check_rows(table, columns, path)
    cells = [Cell(row.number, row.cells[columns.path]) for row in table.rows]
    found = find_photos(path, table.unit, cells, reading, windows=table.windows)
    _check_once(table, found.places, path)
    notes = [*table.notes, *columns.notes, *found.notes]
    if unlabelled:
        notes.append(f"{path}: {unlabelled} photo(s) of the test split have no label; not used")
    labels = _labels(table, columns.label, notes, path)
    photos = [
        Listed(place.path, place.name, label, _side(row, columns))
        for row, place, label in zip(table.rows, found.places, labels, strict=True)
    ]
    notes += _test_notes(photos, path)
    return Listing(photos, own_split=any(photo.side == "val" for photo in photos), notes=notes)


def _leave_out_unlabelled(table: Table, columns: Columns) -> int:
    """Takes away test rows without a label, as competitions have them; returns how many."""
    used = [
        row
        for row in table.rows
        if row.cells[columns.label].strip()
        or columns.split is None
        or columns.sides.get(row.cells[columns.split].strip()) != "test"
    ]
    left_out = len(table.rows) - len(used)
    if used:
        table.rows = used
    return left_out


def _check_rows(table: Table, columns: Columns, path: Path) -> None:
    """Raises UsageError for the first row without a path, a label, or a split where others have."""
    unit = table.unit
    for row in table.rows:
        for place in (columns.path, columns.label):
            cell = row.cells[place].strip()
            if not cell:
                raise UsageError(f"{path}: {unit} {row.number} lacks a path or a label.")
            if _NO_TEXT.search(cell):
                raise UsageError(
                    f"{path}: {unit} {row.number}: {cell[:40]!r} is no path and no label: it has a "
                    "line break or another character that is no text. Is a quote left open?"
                )
    if columns.split is None:
        return
    without = [row.number for row in table.rows if not row.cells[columns.split].strip()]
    if without:
        raise UsageError(
            f"{path}: {len(without)} of {len(table.rows)} {unit}s have no split, {unit} "
            f"{without[0]} first. Give all of them one (train or val), or none."
        )


def _side(row: Row, columns: Columns) -> Side | None:
    return None if columns.split is None else columns.sides[row.cells[columns.split].strip()]


def _check_once(table: Table, places: Sequence[Place], path: Path) -> None:
    """Raises UsageError for a photo that two rows name."""
    counts = Counter(os.path.normpath(place.path) for place in places)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        both = [
            row.number
            for row, place in zip(table.rows, places, strict=True)
            if os.path.normpath(place.path) == twice[0]
        ]
        raise UsageError(
            f"{path}: lists {twice[0]} more than once, in {table.unit}s {both[0]} and {both[1]} "
            f"({len(twice)} such)."
        )


def _labels(table: Table, column: int, notes: list[str], path: Path) -> list[str]:
    """The labels: 1.0 is 1 where all are whole numbers, and Unicode's two forms of a name are one.

    Spaces around a label would make another class of it.
    """
    labels = list(table.values(column))
    whole = [_WHOLE.fullmatch(label) for label in labels]
    if all(whole) and any(match and match[2] for match in whole):
        labels = [match[1] for match in whole if match]
        notes.append(f"{path}: labels such as 1.0 are read as 1")
    first: dict[str, str] = {}
    labels = [first.setdefault(canonical(label), label) for label in labels]
    by_case: dict[str, list[str]] = {}
    for key, label in first.items():
        by_case.setdefault(key.casefold(), []).append(label)
    notes += _odd_labels(Counter(labels), path)
    alike = next((same for same in by_case.values() if len(same) > 1), None)
    if alike:
        notes.append(f"{path}: classes that differ in case alone are several: {', '.join(alike)}")
    return labels


def _odd_labels(counts: Counter[str], path: Path) -> list[str]:
    """What labels may mean that are taken as names of classes all the same."""
    notes = []
    missing = [label for label in counts if label.casefold() in _MISSING]
    if missing:
        photos = sum(counts[label] for label in missing)
        notes.append(
            f"{path}: {', '.join(missing)} is a class, of {photos} photo(s). If it means that they "
            "have no label, take these rows away"
        )
    parts = {label: [part.strip() for part in _SEVERAL.split(label)] for label in counts}
    words = Counter(part for several in parts.values() for part in set(several))
    joint = [
        label
        for label, several in parts.items()
        if several[1:] and any(words[part] > 1 for part in several)
    ]
    if joint:
        notes.append(
            f"{path}: a photo has one class here, so {joint[0]!r} is a class of its own "
            f"({len(joint)} such label(s))"
        )
    return notes


def _test_notes(photos: Sequence[Listed], path: Path) -> list[str]:
    """What the user should know of rows that are held out."""
    labels = {photo.label for photo in photos if photo.side == "test"}
    if not labels:
        return []
    count = sum(photo.side == "test" for photo in photos)
    notes = [f"{path}: {count} photo(s) of the test split are held out of training"]
    alone = sorted(labels - {photo.label for photo in photos if photo.side != "test"})
    if alone:
        some = ", ".join(alone[:5]) + (f" and {len(alone) - 5} more" if alone[5:] else "")
        notes.append(f"{path}: {some}: in the test split only, so no class to learn")
    return notes
