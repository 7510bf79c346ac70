"""A run's `split.csv`: which photo trained, which validated, and which was left out.

A resumed run reads it instead of looking at the data again; other commands take it as data. Column
`sha256` has the first bytes of a file's SHA-256, in hex; earlier versions wrote none. Paths are
relative to the data of the run, which `args.toml` beside the file names. Where a photo may have
several labels, the columns are called labels and class_names, and have `label_sets.JOINT` between
them.
"""

import csv
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, cast

from resnest_cli import files
from resnest_cli.data.labelled_photos import (
    AS_FOUND,
    SIDES,
    LabelledData,
    LabelledPhoto,
    Reading,
    Side,
)
from resnest_cli.data.photo_paths import as_found
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.text import Cell, count, csv_rows, read_csv_rows

_COLUMNS = ["path", "label", "class_name", "split", "error", "sha256"]
_LABEL_SETS = ["path", "labels", "class_names", "split", "error", "sha256"]
_FOLD = "fold"  # a last column, of a run with --folds; it counts from 1, and 0 is in none
_KNOWN = [
    _COLUMNS[:-1],
    *(columns for kind in (_COLUMNS, _LABEL_SETS) for columns in (kind, [*kind, _FOLD])),
]
# In the column split: not readable; the same file as one that trains; left out with --exclude.
LEFT_OUT = ("bad", "same", "excluded")
UNLABELLED_SIDE = "unlabelled"  # trains, without a label


class SplitRow(NamedTuple):
    """A photo of a run. `split` is its side, or why it has none; `error` says more.

    Of several labels, `label` and `class_name` are the texts of all.
    """

    name: str
    label: str
    class_name: str
    split: str
    error: str = ""
    digest: bytes = b""
    fold: int = 0


def write_rows(path: Path, rows: Iterable[SplitRow], *, multi_label: bool = False) -> None:
    """Writes the file, atomically; names that are not UTF-8 keep their bytes."""
    rows = list(rows)
    columns = _LABEL_SETS if multi_label else _COLUMNS
    cells: list[list[Cell]] = [[*row[:5], row.digest.hex()] for row in rows]
    if any(row.fold for row in rows):
        columns = [*columns, _FOLD]
        cells = [[*line, row.fold] for line, row in zip(cells, rows, strict=True)]
    with files.writing(path):
        files.write_text(path, csv_rows([columns, *cells]))


def read_rows(path: Path, then: str = "") -> list[SplitRow]:
    """The rows that `write_rows` wrote; `then` ends the message of an error."""
    rows = []
    with files.reading(path, damage=(csv.Error, ValueError), then=then):  # noqa: SIM117 - the file's
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = read_csv_rows(file)
            if (columns := next(reader, [])) not in _KNOWN:
                raise ValueError("it has other columns")
            for number, row in enumerate(reader, 2):
                splits = (*SIDES, *LEFT_OUT, UNLABELLED_SIDE)
                if len(row) not in {len(columns), 5} or row[3] not in splits:
                    raise ValueError(f"row {number} is damaged: none of {', '.join(splits)}")
                name, label, class_name, split, error, *digest = row[:6]
                known, fold = bytes.fromhex("".join(digest)), int("".join(row[6:]) or 0)
                rows.append(SplitRow(name, label, class_name, split, error, known, fold))
    return rows


def is_run_split(path: Path) -> bool:
    """Whether a file has the columns of a run's `split.csv`; False where it cannot be read."""
    return _columns(path) in _KNOWN


def has_label_sets(path: Path) -> bool:
    """Whether it is that of a run whose photos may have several labels."""
    return _columns(path)[:2] == _LABEL_SETS[:2]


def _columns(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            head = file.readline(200).decode("utf-8", "replace")
    except OSError:
        return []
    return [name.strip('"') for name in head.strip().split(",")]


def list_run_split(path: Path, reading: Reading = AS_FOUND) -> LabelledData:
    """The photos of a run, each on the side that it had in training, without those left out.

    `reading.base_folder` says where they are, if it is not where they were. Their names are
    absolute paths, unless they lie in that folder, or in that of the file.
    """
    says_itself = "the split of a run, which says it itself"
    reading.check_only({"base_folder", "multi_label"}, str(path), says_itself)
    if reading.multi_label not in {None, several := has_label_sets(path)}:
        flag, has = (
            ("--no-multi-label", "may have") if several else ("--multi-label", "do not have")
        )
        raise UsageError(f"{flag}: {path} is {says_itself}: its photos {has} several labels.")
    rows = read_rows(path)
    used = [row for row in rows if row.split in SIDES]
    if not used:
        raise UsageError(f"{path}: lists no photo.")
    relative = [row.name for row in used if not Path(row.name).is_absolute()]
    base = _base(path, relative, reading.base_folder) if relative else Path()
    named_from = {path.parent, reading.base_folder and Path(reading.base_folder)}
    photos = [
        LabelledPhoto(
            path=as_found(str(base), row.name),
            name=row.name if base in named_from else str((base / row.name).absolute()),
            label=row.label,
            side=cast("Side", row.split),
        )
        for row in used
    ]
    if not any(Path(photo.path).exists() for photo in photos):
        raise UsageError(
            f"{path}: none of its {count(len(photos), 'photo')} is there; the first would be "
            f"{photos[0].path}. --base-folder says where the data are now."
        )
    own_split = any(photo.side == "val" for photo in photos)
    found = LabelledData(photos, own_split, multi_label=several)
    out = sum(row.split in LEFT_OUT for row in rows)
    if out:
        found.notes.append(f"{path}: {count(out, 'photo')} that training left out not taken")
    return found


def _base(path: Path, relative: Iterable[str], given: str | None) -> Path:
    """What the paths are relative to: what the user says, else the data that the run names."""
    if given is not None:
        return Path(given)
    args = path.with_name("args.toml")
    if not args.exists():
        if any((path.parent / name).exists() for name in relative):
            return path.parent
        raise UsageError(
            f"{path}: its paths are relative to a run's data, which args.toml beside it names; "
            "there is none. Copy it, too, or give the data's folder with --base-folder."
        )
    try:
        settings = tomllib.loads(args.read_text(encoding="utf-8", errors="surrogateescape"))
        places = (settings.get("base_folder"), settings.get("data"), settings.get("unlabelled"))
        data = Path(str(next(filter(None, places))))
    except (OSError, ValueError, StopIteration, RecursionError) as error:
        raise ResnestError(
            f"{args}: does not name the data of the run ({error!r:.200})."
        ) from error
    if not data.exists():
        raise UsageError(
            f"{path}: its paths are relative to {data}, as args.toml beside it says, which is not "
            "there. Run in the folder in which training was started, or give the data's folder "
            "with --base-folder."
        )
    return data if data.is_dir() else data.parent
