"""A table of photos -> which photo has which label. Nothing is opened but the table.

photos.csv: path,label[,split]      paths are relative to the file
"""

import csv
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from resnest_cli.data.listing import AS_FOUND, Listed, Listing, Reading, Side
from resnest_cli.errors import ResnestError, UsageError

VALIDATION = ("val", "valid", "validation", "test")


def read_table(path: Path, reading: Reading = AS_FOUND) -> Listing:  # noqa: ARG001
    """Reads path,label[,split]; the first line names the columns.

    Raises:
        UsageError: a line lacks what it needs, or no photo is listed.
        ResnestError: the file cannot be read.
    """
    photos, lines = [], []
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for number, row in _rows(path, file):
                photos.append(_listed(path, number, row))
                lines.append(number)
    except OSError as error:
        raise ResnestError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if not photos:
        raise UsageError(f"{path}: lists no photo. It needs lines path,label[,split].")
    sides = Counter(photo.side is not None for photo in photos)
    if len(sides) > 1:
        first = next(n for n, photo in zip(lines, photos, strict=True) if photo.side is None)
        raise UsageError(
            f"{path}: {sides[False]} of {len(photos)} lines have no split, line {first} first. "
            "Give all of them one (train or val), or none."
        )
    counts = Counter(photo.path for photo in photos)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        both = [n for n, photo in zip(lines, photos, strict=True) if photo.path == twice[0]]
        raise UsageError(
            f"{path}: lists {twice[0]} more than once, in lines {both[0]} and {both[1]} "
            f"({len(twice)} such)."
        )
    return Listing(photos, own_split=bool(sides[True]) and any(p.side == "val" for p in photos))


def _rows(path: Path, file: "Iterator[str]") -> Iterator[tuple[int, dict[str, str]]]:
    head = next(file, "")
    delimiter = max(",;\t", key=head.count)  # spreadsheets write semicolons in half of the world
    lines = itertools.chain([head], file)
    reader = csv.DictReader(lines, strict=True, delimiter=delimiter, skipinitialspace=True)
    try:
        columns = reader.fieldnames or []
        if not {"path", "label"} <= set(columns):
            raise UsageError(
                f"{path}: the first line must name the columns path,label[,split], not "
                f"{','.join(columns)[:80]!r}."
            )
        for row in reader:
            yield reader.line_num, {key: value or "" for key, value in row.items() if key}
    except csv.Error as error:
        raise UsageError(f"{path}: line {reader.line_num} is not CSV: {error}.") from error


def _listed(manifest: Path, number: int, row: dict[str, str]) -> Listed:
    # Spaces around a label would make another class of it; those of a file name are its own.
    name, label, split = row["path"], row["label"].strip(), row.get("split", "").strip().lower()
    if not name or not label:
        raise UsageError(f"{manifest}: line {number} lacks a path or a label.")
    if split and split not in {"train", *VALIDATION}:
        raise UsageError(f"{manifest}: line {number}: unknown split {split!r}; use train or val.")
    side: Side | None = None if not split else "train" if split == "train" else "val"
    path = name if os.path.isabs(name) else os.path.join(manifest.parent, name)  # noqa: PTH117,PTH118
    return Listed(path, name, label, side)
