"""A folder of class folders -> which photo has which label. Nothing is opened here.

    data/<class>/...                    classes; the split is made later
    data/train/<class>/..., data/val/   the data's own split, and data/test/, which is held out

Whatever lies in folders inside a class folder belongs to the class. Which folders are sides of a
split is decided by `_sides_among`: by their names (`split_names`), by what the user says, and where
neither tells, by an error.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from resnest_cli.data.listing import AS_FOUND, SIDES, Listed, Listing, Reading, Side
from resnest_cli.data.split_names import (
    is_decoration,
    mentioned_side,
    named_sides,
    side_of,
    sides_of,
)
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images import folders
from resnest_cli.images.sources import EXTENSIONS
from resnest_cli.model.class_names import canonical
from resnest_cli.model.variants import did_you_mean_among

_ASK = (
    "Rename them to train, val and test, or say which is which: --split-names TRAIN,VAL,TEST (or "
    "--split-names none, where they are classes)."
)


def list_data(data: str, reading: Reading = AS_FOUND) -> Listing:
    """Finds the photos of a folder or a table; `reading` says what the data cannot say.

    Raises:
        UsageError: no such folder or file, nothing in it that could be classes, or folders that
            could be classes or sides of a split.
        ResnestError: a folder or the table cannot be read.
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
    reading.check_no_table(data, "a folder")
    found = _subfolders(path)
    sides = _sides_among(path, found, reading.split_names)
    if sides:
        return _split_folders(path, found, sides)
    listing = Listing([], own_split=False)
    _add_classes(listing, path, path, None)
    if not listing.photos:
        raise _no_photos(path)
    return listing


def _sides_among(path: Path, names: Sequence[str], asked: str | None) -> dict[str, Side]:
    """The side of each folder that is one; none where all are classes.

    Raises:
        UsageError: they may be either.
    """
    if asked is not None:
        return _asked_sides(path, names, asked)
    found = sides_of(names)
    if not found:
        _refuse_unknown_sides(path, names)
        mentioned = {name: side for name in names if (side := mentioned_side(name))}
        if "train" in mentioned.values() and len(set(mentioned.values())) > 1:
            raise _either(path, list(mentioned), names)
        return {}
    for side in SIDES:
        same = [name for name, other in found.items() if other == side]
        if len(same) > 1:
            raise UsageError(f"{path}: {_listed(same)} all mean {side}. {_ASK}")
    classes = [name for name in names if name not in found and _has_photos(path / name)]
    if not classes or ("train" in found.values() and len(found) > 1):
        return found
    if set(found.values()) == {"train"} and not any(map(mentioned_side, classes)):
        (train,) = found
        if not _subfolders(path / train):
            return {}  # a vehicle among vehicles
    raise _either(path, list(found), classes)


def _either(path: Path, sides: Sequence[str], names: Sequence[str]) -> UsageError:
    others = _listed([name for name in names if name not in sides])
    beside = f", beside {others}," if others else ""
    return UsageError(
        f"{path}: {_listed(sides)}{beside} may be sides of a split or classes. {_ASK}"
    )


def _asked_sides(path: Path, names: Sequence[str], asked: str) -> dict[str, Side]:
    """The sides of `--split-names`."""
    if asked.strip().lower() == "none":
        return {}
    there = {canonical(name): name for name in names}
    found: dict[str, Side] = {}
    for name, side in named_sides(asked).items():
        if canonical(name) not in there:
            raise UsageError(
                f"--split-names {asked}: {path} has no folder {name}, but {_listed(names)}."
            )
        found[there[canonical(name)]] = side
    return found


def _refuse_unknown_sides(path: Path, names: Sequence[str]) -> None:
    """Tells folders that hold sides, or folders of the same names: the classes, most likely."""
    inside: dict[str, set[str]] = {}
    for name in names:
        folder = path / name
        inner = _subfolders(folder)
        sides = sides_of(inner)
        if len(names) > 1 and "train" in sides.values() and len(sides) > 1:
            first = next(iter(sides))
            raise UsageError(
                f"{folder}: holds {_listed(list(sides))}. Put the sides of a split outside of the "
                f"classes: {path / first / name}. --split-names none takes all photos of {name}, "
                f"those of {first}, too, for its own, and splits them anew."
            )
        mine = {canonical(folder) for folder in inner}
        if len(mine) < 2 or _count_loose(folder):
            continue
        for other, theirs in inside.items():
            same = sorted(mine & theirs)
            if len(same) > 1:
                raise UsageError(
                    f"{path}: {other} and {name} hold folders of the same names ({_listed(same)}), "
                    f"as the sides of a split do, but are no names of sides that are known. {_ASK}"
                )
        inside[name] = mine


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _split_folders(path: Path, found: Sequence[str], sides: dict[str, Side]) -> Listing:
    listing = Listing([], own_split=False)
    for side in SIDES:
        for name in [name for name, other in sides.items() if other == side]:
            _add_side(listing, path, name, side)
    listing.own_split = bool(listing.side("val"))
    _note_held_out(listing, sides)
    unused = [name for name in found if name not in sides]
    if unused:
        listing.notes.append(f"not used: {_listed(unused)} (beside {_listed(list(sides))})")
    if "train" in sides.values() and not listing.side("train"):
        raise _no_photos(path / next(name for name, side in sides.items() if side == "train"))
    if not listing.photos:
        raise _no_photos(path / next(iter(sides)))
    return listing


def _add_side(listing: Listing, root: Path, name: str, side: Side) -> None:
    base = _without_wrappers(root / name, side)
    if _subfolders(base):
        before = len(listing.photos)
        _add_classes(listing, root, base, side)
        if len(listing.photos) == before and side != "train":
            listing.notes.append(f"{name}: has no photos")
        return
    loose = _count_loose(base)
    if side != "train":
        what = f"{loose} photo(s) without class folders, so without labels" if loose else "is empty"
        listing.notes.append(f"{name}: {what}; not used")
    elif loose:
        raise UsageError(
            f"{root / name}: its {loose} photo(s) lie beside each other, so nothing says their "
            f"classes. Put those of each class into a folder of its own ({root / name}/<class>/"
            "1.jpg), or give a CSV with the columns path,label."
        )


def _without_wrappers(folder: Path, side: Side) -> Path:
    """The folder of class folders: train/ itself, or as archives have it train/train/, too."""
    while True:
        inner = _subfolders(folder)
        if len(inner) != 1 or _count_loose(folder):
            return folder
        name = inner[0]
        if not (name == folder.name or side_of(name) == side or is_decoration(name)):
            return folder
        folder /= name


def _note_held_out(listing: Listing, sides: dict[str, Side]) -> None:
    train = next((name for name, side in sides.items() if side == "train"), None)
    test = next((name for name, side in sides.items() if side == "test"), None)
    held_out = len(listing.side("test"))
    if held_out and train:
        note = f"{test}: {held_out} photo(s) held out, for `resnest evaluate --split test`"
        if not listing.own_split:
            note += f"; a part of {train} validates (--split-names {train},{test} takes {test})"
        listing.notes.append(note)


def _no_photos(folder: Path) -> UsageError:
    if (folder / "split.csv").is_file():
        return UsageError(
            f"{folder}: has no photos, but is a run. Did you mean {folder / 'split.csv'}?"
        )
    if any(folder.glob("*.tar")):
        if (folder / "index.json").exists():
            text = "only `resnest train` and `resnest finetune` read; give class folders or a table"
        else:
            text = (
                "have no index.json beside them. To train, name those that train and those that "
                f"validate: --data '{folder / 'train-*.tar'}' --val-data '{folder / 'val-*.tar'}'"
            )
        return UsageError(f"{folder}: has no photos, but tar files, which {text}.")
    return UsageError(
        f"{folder}: no photos found. Put the photos of each class into a folder of its own: "
        f"{folder / '<class>' / '1.jpg'}"
    )


def _subfolders(path: Path) -> list[str]:
    """Names of the visible folders in a folder, sorted as torchvision's ImageFolder sorts them."""
    try:
        with os.scandir(path) as entries:
            return sorted(
                e.name
                for e in entries
                if e.name[0] != "." and not folders.is_dropping(e.name) and _is_folder(e)
            )
    except OSError as error:
        raise ResnestError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def _is_photo(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122


def _has_photos(folder: Path) -> bool:
    return any(not e.error and _is_photo(e.name) for e in folders.walk(str(folder)))


def _add_classes(listing: Listing, root: Path, base: Path, side: Side | None) -> None:
    """Adds the photos of all class folders in `base`; `root` is what their names are relative to.

    Names that differ in Unicode's form alone are one class, which keeps the first one's form.
    """
    labels = {canonical(photo.label): photo.label for photo in listing.photos}
    here: dict[str, str] = {}
    for name in _subfolders(base):
        label = labels.setdefault(canonical(name), name)
        if canonical(name) in here:
            listing.notes.append(f"{base}: two folders are called {label}; they are one class")
        here[canonical(name)] = name
        _add_class(listing, root, base / name, label, side)
    loose = _count_loose(base)
    if loose:
        listing.notes.append(f"{base}: {loose} photo(s) beside the class folders left out")


def _add_class(listing: Listing, root: Path, folder: Path, label: str, side: Side | None) -> None:
    before, skipped = len(listing.photos), 0
    for entry in folders.walk(str(folder)):
        if entry.error:
            raise ResnestError(f"{entry.path} {entry.error}.")
        if not _is_photo(entry.name):
            skipped += 1
            continue
        name = os.path.relpath(entry.path, root).replace(os.sep, "/")
        listing.photos.append(Listed(entry.path, name, label, side))
    if skipped:
        where = os.path.relpath(folder, root)
        listing.notes.append(f"{where}: {skipped} file(s) without a known image extension skipped")
    if len(listing.photos) == before:
        listing.empty.append(os.path.relpath(folder, root))


def _count_loose(folder: Path) -> int:
    """Photos that lie in a folder itself."""
    with os.scandir(folder) as entries:
        return sum(
            1
            for entry in entries
            if _is_photo(entry.name)
            and not folders.is_dropping(entry.name)
            and not _is_folder(entry)
        )


def check_classes(listing: Listing, data: str) -> None:
    """Tells validation classes that training does not know.

    Raises:
        UsageError: names them, and the nearest known ones; or nothing is there to train on.
    """
    if not any(photo.side in {None, "train"} for photo in listing.photos):
        raise UsageError(
            f"{data}: has {' and '.join(sorted({str(p.side) for p in listing.photos}))}, but no "
            "photos to train on beside it."
        )
    known = sorted({photo.label for photo in listing.photos if photo.side in {None, "train"}})
    unknown = sorted({photo.label for photo in listing.side("val")} - set(known))
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
        while deeper.is_dir() and len(inside := _subfolders(deeper)) == 1:
            deeper /= inside[0]
        hint = f" Did you mean {deeper}?" if deeper.is_dir() and inside else ""
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
