"""The labels of a table's rows: one for each photo, or, where it may have several, a set of them.

What cells may mean that is taken otherwise is noted.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from resnest_cli.data.label_sets import (
    JOINT,
    flagged,
    is_list,
    joined_labels,
    mixed_separators,
    refused_name,
    separator_of,
    split_labels,
    stand_alone,
)
from resnest_cli.data.labelled_photos import LabelledPhoto
from resnest_cli.data.table_file import Table, shown
from resnest_cli.errors import UsageError
from resnest_cli.model.labels import canonical
from resnest_cli.text import count

_WHOLE = re.compile(r"(-?\d+)(\.0+)?")
_MISSING = frozenset(("nan", "na", "n/a", "<na>", "#n/a", "null", "none"))
_SEVERAL = re.compile(r"[|;,]")  # what stands between labels of one photo


def may_have_several(
    table: Table, place: int | None, flags: Sequence[int], asked: bool | None
) -> bool:
    """Whether a photo may have several labels: as was `asked`, or as nothing else can be meant.

    `place` is the column of labels; None where there are `flags`, columns of 0 and 1. What was
    found out is noted.
    """
    if asked is not None:
        return asked
    if place is None:
        how = f"columns of 0 and 1: {shown(table.columns[flag] for flag in flags)}"
    elif stand_alone(table.values(place)):
        how = f"in the column {table.columns[place]}"
    else:
        return False
    table.notes.append(
        f"{table.file}: a photo may have several labels here ({how}); --no-multi-label takes it "
        "otherwise"
    )
    return True


def label_sets(table: Table, place: int | None, flags: Sequence[int]) -> list[str]:
    """The labels of each row, as `label_sets` joins them."""
    file, notes = table.file, table.notes
    if place is None:
        names = [table.columns[flag] for flag in flags]
        rows = ([row.cells[flag] for flag in flags] for row in table.rows)
        sets = [flagged(names, cells) for cells in rows]
    else:
        texts = list(table.values(place))
        _refuse_lists(table, place)
        separator = separator_of(texts)
        sets = [split_labels(text, separator) for text in texts]
        if any(len(labels) > 1 for labels in sets):
            notes.append(f"{file}: labels of one photo have {separator} between them")
        elif stand_alone(texts, " "):
            notes.append(
                f"{file}: spaces are a part of labels; several of one photo need | ; or , between "
                "them"
            )
        if mixed := mixed_separators(label for labels in sets for label in labels):
            raise UsageError(
                f"{file}: {mixed!r} is several labels, but others have {separator} between them. "
                f"Write {separator} everywhere."
            )
    if (wrong := refused_name(label for labels in sets for label in labels)) is not None:
        raise UsageError(
            f"{file}: the label {wrong!r} has {JOINT} in it, which stands between labels in files "
            "of a run. Give it another name."
        )
    first: dict[str, str] = {}
    sets = [tuple(first.setdefault(canonical(label), label) for label in labels) for labels in sets]
    _note_missing(table, Counter(label for labels in sets for label in labels), "empty these cells")
    _note_alike(table, first)
    return [joined_labels(labels) for labels in sets]


def joined_rows(table: Table, photos: Sequence[LabelledPhoto]) -> list[LabelledPhoto]:
    """A photo for each path, with the labels of all of its rows."""
    found: dict[str, LabelledPhoto] = {}
    for row, photo in zip(table.rows, photos, strict=True):
        key = os.path.normpath(photo.path)
        before = found.setdefault(key, photo)
        if before.side != photo.side:
            raise UsageError(
                f"{table.file}: {table.unit} {row.number}: {photo.name} is of {photo.side} here, "
                f"and of {before.side} in an earlier {table.unit}. Give it one split."
            )
        if before.group != photo.group:
            raise UsageError(
                f"{table.file}: {table.unit} {row.number}: {photo.name} is of the group "
                f"{photo.group!r} here, and of {before.group!r} in an earlier {table.unit}. Give "
                "it one group."
            )
        labels = (*split_labels(before.label), *split_labels(photo.label))
        found[key] = replace(before, label=joined_labels(labels))
    if len(found) < len(photos):
        table.notes.append(
            f"{table.file}: {len(photos):,} {table.unit}s are of {len(found):,} photos; the labels "
            "of one photo's belong together"
        )
    if none := sum(not photo.label for photo in found.values()):
        table.notes.append(
            f"{table.file}: {count(none, 'photo')} without a label: no class is in them"
        )
    return list(found.values())


def labels_of(table: Table, column: int) -> list[str]:
    """The labels: 1.0 is 1 where all are whole numbers, and Unicode's two forms of a name are one.

    Notes what those may mean that are taken as names of classes all the same.
    """
    _refuse_lists(table, column)
    path, notes, labels = table.file, table.notes, list(table.values(column))
    whole = [_WHOLE.fullmatch(label) for label in labels]
    if all(whole) and any(match and match[2] for match in whole):
        labels = [match[1] for match in whole if match]
        notes.append(f"{path}: labels such as 1.0 are read as 1")
    first: dict[str, str] = {}
    labels = [first.setdefault(canonical(label), label) for label in labels]
    counts = Counter(labels)
    _note_missing(table, counts, "take these rows away")
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
            f"({count(len(joint), 'such label')}); --multi-label takes them for several labels"
        )
    _note_alike(table, first)
    return labels


def _refuse_lists(table: Table, place: int) -> None:
    """Raises UsageError for lists in place of labels, as pandas writes them into a CSV."""
    if is_list(table.values(place)):
        name = table.columns[place]
        raise UsageError(
            f"{table.file}: the column {name} has lists, such as {next(table.values(place))}. Put "
            f"| between the labels; in pandas, before it is written: df['{name}'].str.join('|')."
        )


def _note_missing(table: Table, counts: Counter[str], then: str) -> None:
    """Notes labels that may mean that there is none; `then` says what to do."""
    missing = [label for label in counts if label.casefold() in _MISSING]
    if missing:
        photos = sum(counts[label] for label in missing)
        table.notes.append(
            f"{table.file}: {', '.join(missing)} is a class, of {count(photos, 'photo')}. If it "
            f"means that they have no label, {then}"
        )


def _note_alike(table: Table, labels: Mapping[str, str]) -> None:
    """Notes labels, by their canonical form, that differ in case alone."""
    by_case: dict[str, list[str]] = {}
    for key, label in labels.items():
        by_case.setdefault(key.casefold(), []).append(label)
    if alike := next((same for same in by_case.values() if len(same) > 1), None):
        table.notes.append(
            f"{table.file}: classes that differ in case alone are several: {', '.join(alike)}"
        )
