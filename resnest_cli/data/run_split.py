"""A run's `split.csv` as data: its photos, each on the side that it had in training.

Paths in it are relative to the data of the run, which `args.toml` beside it names. What training
left out, because it could not be read or training had the same photo, is left out here as well.
"""

import csv
import tomllib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import cast, get_args

from resnest_cli.csv_rows import read_csv_rows
from resnest_cli.data.listing import AS_FOUND, Listed, Listing, Reading, Side
from resnest_cli.data.photo_paths import as_found
from resnest_cli.errors import ResnestError, UsageError

COLUMNS = ("path", "label", "class_name", "split", "error")  # and sha256, in later versions
_SIDES, _LEFT_OUT = frozenset(get_args(Side)), frozenset({"bad", "same"})


def is_run_split(path: Path) -> bool:
    """Whether a file has the columns of a run's `split.csv`; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.readline(200).decode("utf-8", "replace")
    except OSError:
        return False
    names = tuple(name.strip('"') for name in head.strip().split(","))
    return names in (COLUMNS, (*COLUMNS, "sha256"))


def read_run_split(path: Path, reading: Reading = AS_FOUND) -> Listing:
    """The photos of a run; `reading.base_folder` says where they are, if it is not where they were.

    Names of photos are absolute paths, unless they lie in that folder, or in that of the file.

    Raises:
        UsageError: nothing says where the photos are, or none is there; another setting of
            `reading`.
        ResnestError: the file is damaged or cannot be read.
    """
    for name, value in asdict(reading).items():
        if value is not None and name != "base_folder":
            raise UsageError(
                f"--{name.replace('_', '-')} is for other tables; {path}, of a run, says it itself."
            )
    rows = _rows(path)
    used = [row for row in rows if row[2] not in _LEFT_OUT]
    if not used:
        raise UsageError(f"{path}: lists no photo.")
    relative = [name for name, _, _ in used if not Path(name).is_absolute()]
    base = _base(path, relative, reading.base_folder) if relative else Path()
    named_from = {path.parent, reading.base_folder and Path(reading.base_folder)}
    photos = [
        Listed(
            path=as_found(str(base), name),
            name=name if base in named_from else str((base / name).absolute()),
            label=label,
            side=cast("Side", side),
        )
        for name, label, side in used
    ]
    if not any(Path(photo.path).exists() for photo in photos):
        raise UsageError(
            f"{path}: none of its {len(photos)} photo(s) is there; the first would be "
            f"{photos[0].path}. --base-folder says where the data are now."
        )
    listing = Listing(photos, own_split=any(photo.side == "val" for photo in photos))
    if len(used) < len(rows):
        listing.notes.append(
            f"{path}: {len(rows) - len(used)} photo(s) that training left out are not taken"
        )
    return listing


def _rows(path: Path) -> list[tuple[str, str, str]]:
    """Name, label and side of each photo."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = read_csv_rows(file)
            next(reader)
            return [_row(path, number, row) for number, row in enumerate(reader, 2)]
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResnestError(f"{path}: cannot be read: {reason}.") from error


def _row(path: Path, number: int, row: list[str]) -> tuple[str, str, str]:
    if len(row) < len(COLUMNS) or row[3] not in _SIDES.union(_LEFT_OUT):
        raise ResnestError(
            f"{path}: row {number} is damaged: a photo of a run is train, val, test, bad or same."
        )
    return row[0], row[1], row[3]


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
        text = args.read_text(encoding="utf-8", errors="surrogateescape")
        settings = tomllib.loads(text)
        data = Path(str(settings.get("base_folder") or settings["data"]))
    except (OSError, ValueError, KeyError, RecursionError) as error:
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
