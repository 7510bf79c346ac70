"""Class folders, or a CSV manifest -> which photo has which label. Nothing is opened here.

    data/<class>/...                    classes; the split is made later
    data/train/<class>/..., data/val/   the data's own split; valid, validation and test serve too
    photos.csv: path,label[,split]      paths are relative to the file

Whatever lies in folders inside a class folder belongs to the class.
"""

import os
from collections import Counter
from pathlib import Path

from resnest_cli.data.listing import AS_FOUND, Listed, Listing, Reading, Side
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images import folders
from resnest_cli.images.sources import EXTENSIONS
from resnest_cli.model.variants import did_you_mean_among

VALIDATION = ("val", "valid", "validation", "test")


def list_data(data: str, reading: Reading = AS_FOUND) -> Listing:
    """Finds the photos of a folder or a table; `reading` says what the data cannot say.

    Raises:
        UsageError: no such folder or file, or nothing in it that could be classes.
        ResnestError: a folder or the manifest cannot be read.
    """
    path = Path(data)
    if path.is_file():
        from resnest_cli.data.run_split import is_run_split, read_run_split
        from resnest_cli.data.table import read_table

        if is_run_split(path):
            return read_run_split(path, reading)
        return read_table(path, reading)
    if not path.is_dir():
        raise UsageError(f"{data}: there is no such folder or CSV file.")
    found = _subfolders(path)
    sides = [name for name in VALIDATION if name in found]
    # A class may be called train, too: then no validation stands beside it, but other classes.
    if "train" in found and (sides or found == ["train"]):
        return _split_folders(path)
    if sides and set(found) <= set(VALIDATION):
        raise UsageError(f"{data}: has {sides[0]}, but no folder train beside it.")
    lower = {name.lower() for name in found}
    if "train" not in found and "train" in lower and lower <= {"train", *VALIDATION}:
        raise UsageError(f"{data}: has {', '.join(found)}; rename them to train and val.")
    listing = Listing([], own_split=False)
    for name in found:
        _add_class(listing, path, path / name, name, None)
    _note_loose(listing, path)
    if not listing.photos:
        raise UsageError(
            f"{data}: no photos found. Put the photos of each class into a folder of its own: "
            f"{Path(data) / '<class>' / '1.jpg'}"
        )
    return listing


def _split_folders(path: Path) -> Listing:
    found = _subfolders(path)
    val = next((name for name in VALIDATION if name in found), None)
    listing = Listing([], own_split=val is not None)
    sides: list[tuple[str, Side]] = [("train", "train")]
    if val is not None:
        sides.append((val, "val"))
    for folder, side in sides:
        base = path / folder
        for name in _subfolders(base):
            _add_class(listing, path, base / name, name, side if val is not None else None)
        _note_loose(listing, base)
    unused = [name for name in found if name not in {"train", val}]
    if unused:
        listing.notes.append(f"not used: {', '.join(unused)} (beside train in {path})")
    if not any(photo.side != "val" for photo in listing.photos):
        raise UsageError(
            f"{path / 'train'}: no photos found. Put the photos of each class into a folder of its "
            f"own: {path / 'train' / '<class>' / '1.jpg'}"
        )
    return listing


def _subfolders(path: Path) -> list[str]:
    """Names of the visible folders in a folder, sorted as torchvision's ImageFolder sorts them."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.name[0] != "." and _is_folder(e))
    except OSError as error:
        raise ResnestError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def _add_class(listing: Listing, root: Path, folder: Path, label: str, side: Side | None) -> None:
    before, skipped = len(listing.photos), 0
    for entry in folders.walk(str(folder)):
        if entry.error:
            raise ResnestError(f"{entry.path} {entry.error}.")
        if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:  # noqa: PTH122
            skipped += 1
            continue
        name = os.path.relpath(entry.path, root).replace(os.sep, "/")
        listing.photos.append(Listed(entry.path, name, label, side))
    if skipped:
        where = os.path.relpath(folder, root)
        listing.notes.append(f"{where}: {skipped} file(s) without a known image extension skipped")
    if len(listing.photos) == before:
        listing.empty.append(os.path.relpath(folder, root))


def _note_loose(listing: Listing, folder: Path) -> None:
    with os.scandir(folder) as entries:
        loose = sum(
            1
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in EXTENSIONS  # noqa: PTH122
            and not _is_folder(entry)
        )
    if loose:
        listing.notes.append(f"{folder}: {loose} photo(s) beside the class folders left out")


def check_classes(listing: Listing, data: str) -> None:
    """Tells validation classes that training does not know.

    Raises:
        UsageError: names them, and the nearest known ones.
    """
    known = sorted({photo.label for photo in listing.photos if photo.side != "val"})
    unknown = sorted({photo.label for photo in listing.photos} - set(known))
    if unknown:
        hint = did_you_mean_among(unknown[0], known)
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UsageError(
            f"{data}: validation has the class {unknown[0]!r}{more}, which training does not "
            f"have.{hint} Class folders must have the same names on both sides."
        )


def check_count(counts: Counter[str], expected: int | None, data: str) -> None:
    """Tells another number of classes than the user expects, or fewer than two.

    Raises:
        UsageError: lists what was found.
    """
    if expected is None or expected == len(counts):
        if len(counts) >= 2:
            return
        only = next(iter(counts), "none")
        deeper = Path(data) / only
        inside = deeper.is_dir() and len(_subfolders(deeper)) > 1
        hint = f" Did you mean {deeper}?" if inside else ""
        raise UsageError(
            f"{data}: one class only ({only}). A classifier needs two or more class folders.{hint}"
        )
    shown = [f"  {label}: {count} photo(s)" for label, count in sorted(counts.items())[:20]]
    if len(counts) > 20:
        shown.append(f"  and {len(counts) - 20} more")
    raise UsageError(
        f"--classes {expected}: {data} has {len(counts)} classes with readable photos:\n"
        + "\n".join(shown)
    )
