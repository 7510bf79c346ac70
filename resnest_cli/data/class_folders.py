"""A folder of class folders -> which photo has which label. Nothing is opened here.

    data/<class>/...                    classes; the split is made later
    data/train/<class>/..., data/val/   the data's own split, and data/test/, which is held out

Whatever lies in folders inside a class folder belongs to the class. Which folders are sides of a
split is decided by `_sides_among`: by their names, by what the user says, and where neither
decides, it is an error.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from resnest_cli import files
from resnest_cli.data.exclusion import leave_out
from resnest_cli.data.label_sets import JOINT, refused_name
from resnest_cli.data.labelled_photos import (
    AS_FOUND,
    SIDES,
    LabelledData,
    LabelledPhoto,
    Reading,
    Side,
    meaning,
    named_sides,
    sides_of,
)
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images import folders
from resnest_cli.images.sources import is_photo
from resnest_cli.model.labels import canonical
from resnest_cli.text import count, did_you_mean, some

_ASK = (
    "Rename them to train, val and test, or say which is which: --split-names TRAIN,VAL,TEST (or "
    "--split-names none, where they are classes)."
)


def list_data(data: str, reading: Reading = AS_FOUND) -> LabelledData:
    """Finds the photos of a folder or a table; `reading` says what the data cannot say.

    Raises:
        UsageError: no such folder or file, nothing in it that could be classes, folders that could
            be classes or sides of a split, or a list of other photos to exclude.
        ResnestError: a folder or the table cannot be read.
    """
    found = _listed(data, reading)
    leave_out(found, data, reading)
    return found


def _listed(data: str, reading: Reading) -> LabelledData:
    path = Path(data)
    if path.is_file():
        from resnest_cli.data.split_file import is_run_split, list_run_split
        from resnest_cli.data.table import read_table

        return (list_run_split if is_run_split(path) else read_table)(path, reading)
    if not path.is_dir():
        raise UsageError(f"{data}: there is no such folder or CSV file.")
    reading.check_only({"split_names", "multi_label"}, data, "a folder")
    found = _of_folder(path, reading)
    found.multi_label = bool(reading.multi_label)
    if found.multi_label and (wrong := refused_name(photo.label for photo in found.photos)):
        raise UsageError(
            f"{path}: the class folder {wrong} has {JOINT} in its name, which stands between the "
            "labels of a photo in files of a run. Give it another name."
        )
    return found


def _of_folder(path: Path, reading: Reading) -> LabelledData:
    names, _ = _inside(path)
    if sides := _sides_among(path, names, reading.split_names):
        return _split_folders(path, names, sides)
    found = LabelledData([], own_split=False)
    _add_classes(found, path, path, None)
    if not found.photos:
        raise _no_photos(path)
    return found


def _sides_among(path: Path, names: Sequence[str], asked: str | None) -> dict[str, Side]:
    """The side of each folder that is one; none where all are classes; UsageError for either."""
    if asked is not None:
        return _asked_sides(path, names, asked)
    found = sides_of(names)
    if not found:
        _refuse_unknown_sides(path, names)
        mentioned = {name: side for name in names if (side := meaning(name)[0])}
        if "train" in mentioned.values() and len(set(mentioned.values())) > 1:
            raise _either(path, list(mentioned), names)
        return {}
    for side in SIDES:
        same = [name for name, other in found.items() if other == side]
        if len(same) > 1:
            raise UsageError(f"{path}: {some(same)} all mean {side}. {_ASK}")
    classes = [name for name in names if name not in found and _has_photos(path / name)]
    if not classes or ("train" in found.values() and len(found) > 1):
        return found
    if set(found.values()) == {"train"} and not any(meaning(name)[0] for name in classes):
        (train,) = found
        if not _inside(path / train)[0]:
            return {}  # a vehicle among vehicles
    raise _either(path, list(found), classes)


def _either(path: Path, sides: Sequence[str], names: Sequence[str]) -> UsageError:
    others = some(name for name in names if name not in sides)
    beside = f", beside {others}," if others else ""
    return UsageError(f"{path}: {some(sides)}{beside} may be sides of a split or classes. {_ASK}")


def _asked_sides(path: Path, names: Sequence[str], asked: str) -> dict[str, Side]:
    if asked.strip().lower() == "none":
        return {}
    there = {canonical(name): name for name in names}
    found: dict[str, Side] = {}
    for name, side in named_sides(asked).items():
        if canonical(name) not in there:
            raise UsageError(
                f"--split-names {asked}: {path} has no folder {name}, but {some(names)}."
            )
        found[there[canonical(name)]] = side
    return found


def _refuse_unknown_sides(path: Path, names: Sequence[str]) -> None:
    """Raises UsageError for folders that hold sides, or folders of the same names: the classes."""
    inside: dict[str, set[str]] = {}
    for name in names:
        folder = path / name
        inner, loose = _inside(folder)
        sides = sides_of(inner)
        if len(names) > 1 and "train" in sides.values() and len(sides) > 1:
            first = next(iter(sides))
            raise UsageError(
                f"{folder}: holds {some(sides)}. Put the sides of a split outside of the classes: "
                f"{path / first / name}. --split-names none takes all photos of {name}, those of "
                f"{first}, too, for its own, and splits them anew."
            )
        mine = {canonical(folder) for folder in inner}
        if len(mine) < 2 or loose:
            continue
        for other, theirs in inside.items():
            same = sorted(mine & theirs)
            if len(same) > 1:
                raise UsageError(
                    f"{path}: {other} and {name} hold folders of the same names ({some(same)}), as "
                    f"the sides of a split do, but are no names of sides that are known. {_ASK}"
                )
        inside[name] = mine


def _split_folders(path: Path, names: Sequence[str], sides: dict[str, Side]) -> LabelledData:
    found = LabelledData([], own_split=False)
    folder = {side: name for name, side in sides.items()}
    for side in SIDES:
        if side in folder:
            _add_side(found, path, folder[side], side)
    found.own_split = bool(found.side("val"))
    held_out = len(found.side("test"))
    if held_out and "train" in folder:
        train, test = folder["train"], folder["test"]
        note = f"{test}: {count(held_out, 'photo')} held out, for `resnest evaluate --split test`"
        if not found.own_split:
            note += f"; a part of {train} validates (--split-names {train},{test} takes {test})"
        found.notes.append(note)
    if unused := [name for name in names if name not in sides]:
        found.notes.append(f"not used: {some(unused)} (beside {some(sides)})")
    if not found.photos or ("train" in folder and not found.side("train")):
        raise _no_photos(path / folder.get("train", next(iter(sides))))
    return found


def _add_side(found: LabelledData, root: Path, name: str, side: Side) -> None:
    base = _without_wrappers(root / name, side)
    inner, loose = _inside(base)
    if inner:
        before = len(found.photos)
        _add_classes(found, root, base, side)
        if len(found.photos) == before and side != "train":
            found.notes.append(f"{name}: has no photos")
    elif side != "train":
        photos = f"{count(loose, 'photo')} without class folders, so without labels"
        what = photos if loose else "is empty"
        found.notes.append(f"{name}: {what}; not used")
    elif loose:
        raise UsageError(
            f"{root / name}: has {count(loose, 'photo')} in no folder of a class, so nothing says "
            "their classes. Put those of each class into a folder of its own "
            f"({root / name}/<class>/1.jpg), or give a CSV with the columns path,label."
        )


def _without_wrappers(folder: Path, side: Side) -> Path:
    """The folder of class folders: train/ itself, or as archives have it train/train/, too."""
    while True:
        inner, loose = _inside(folder)
        if len(inner) != 1 or loose:
            return folder
        (name,) = inner
        if name != folder.name and meaning(name) not in {(side, ()), (None, ())}:
            return folder
        folder /= name


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


def _inside(folder: Path) -> tuple[list[str], int]:
    """Folders in a folder, sorted as torchvision's ImageFolder sorts them; photos beside them."""
    with files.reading(folder), os.scandir(folder) as entries:
        there = {
            e.name: folders.leads_to_folder(e) for e in entries if not folders.is_hidden(e.name)
        }
    names = sorted(name for name, is_folder in there.items() if is_folder)
    return names, sum(is_photo(name) for name, is_folder in there.items() if not is_folder)


def _has_photos(folder: Path) -> bool:
    return any(not e.error and is_photo(e.name) for e in folders.walk(str(folder)))


def _add_classes(found: LabelledData, root: Path, base: Path, side: Side | None) -> None:
    """Adds the photos of all class folders in `base`; `root` is what their names are relative to.

    Names that differ in Unicode's form alone are one class, which keeps the first one's form.
    """
    labels = {canonical(photo.label): photo.label for photo in found.photos}
    here = set[str]()
    names, loose = _inside(base)
    for name in names:
        label = labels.setdefault(canonical(name), name)
        if canonical(name) in here:
            found.notes.append(f"{base}: two folders are called {label}; they are one class")
        here.add(canonical(name))
        entries = list(folders.walk(str(base / name)))
        if wrong := next((entry for entry in entries if entry.error), None):
            raise ResnestError(f"{wrong.path} {wrong.error}.")
        paths = [entry.path for entry in entries if is_photo(entry.name)]
        found.photos += [
            LabelledPhoto(path, os.path.relpath(path, root).replace(os.sep, "/"), label, side)
            for path in paths
        ]
        where = os.path.relpath(base / name, root)
        if skipped := len(entries) - len(paths):
            found.notes.append(
                f"{where}: {count(skipped, 'file')} without a known image extension skipped"
            )
        if not paths:
            found.empty.append(where)
    if loose:
        found.notes.append(f"{base}: {count(loose, 'photo')} beside the class folders left out")


def check_classes(found: LabelledData, data: str) -> None:
    """Raises UsageError for validation classes that training lacks, or where nothing can train."""
    if not any(photo.side in {None, "train"} for photo in found.photos):
        raise UsageError(
            f"{data}: has {' and '.join(sorted({str(p.side) for p in found.photos}))}, but no "
            "photos to train on beside it."
        )
    there, validating = (
        {label for photo in photos for label in found.labels_of(photo)}
        for photos in (
            [photo for photo in found.photos if photo.side in {None, "train"}],
            found.side("val"),
        )
    )
    known, unknown = sorted(there), sorted(validating - there)
    if unknown:
        hint = did_you_mean(unknown[0], known)
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        what = "Class folders must have the same names" if Path(data).is_dir() else "Give it rows"
        raise UsageError(
            f"{data}: validation has the class {unknown[0]!r}{more}, which training does not "
            f"have.{hint} {what} on both sides."
        )


def check_count(counts: Counter[str], expected: int | None, data: str) -> None:
    """Raises UsageError for another number of classes than the user expects, or fewer than two."""
    if expected is None or expected == len(counts):
        if len(counts) >= 2:
            return
        only = next(iter(counts), "none")
        deeper = Path(data) / only
        while deeper.is_dir() and len(inside := _inside(deeper)[0]) == 1:
            deeper /= inside[0]
        hint = f" Did you mean {deeper}?" if deeper.is_dir() and inside else ""
        raise UsageError(
            f"{data}: one class only ({only}). A classifier needs two or more class folders.{hint}"
        )
    shown = [
        f"  {label}: {count(number, 'photo')}" for label, number in sorted(counts.items())[:20]
    ]
    if len(counts) > 20:
        shown.append(f"  and {len(counts) - 20} more")
    raise UsageError(
        f"--classes {expected}: {data} has {len(counts)} classes with readable photos:\n"
        + "\n".join(shown)
    )
