"""What stands in a table's column of paths -> the files, wherever they lie on this machine.

Paths are relative to the table's folder; where none of them is there, but some are from the working
folder, they are relative to that one, which is said. With `--base-folder` all are looked for in
that folder: absolute ones, such as `C:\\data\\cat\\1.jpg` of another machine, without the leading
folders that all of them share, as far as it takes. `--extension` is added to names that have none.
A path is taken as it is written. Where no such file exists, the one that exists is it of: without
spaces around it; with backslashes as separators; in Unicode's other forms; and, of lines that were
read as Windows-1252, with the bytes that stand there.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from resnest_cli.data.encoding import WINDOWS
from resnest_cli.data.listing import Reading
from resnest_cli.data.table_file import is_photo
from resnest_cli.errors import UsageError, one_line
from resnest_cli.images.sources import EXTENSIONS
from resnest_cli.paths import local_path

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # a drive has one letter
_ABSOLUTE = re.compile(r"[a-z]:[\\/]|\\\\|/", re.IGNORECASE)  # on any machine
_SEPARATORS = re.compile(r"[\\/]+")
_TRIED = 20  # photos, to find out how many folders to leave out
_FOLDERS = 200  # looked into for a hint


class Cell(NamedTuple):
    """What stands in the column of paths, and in which line."""

    number: int
    text: str


class Place(NamedTuple):
    """Where a photo lies, and what it is called: relative to the folder of `--base-folder`, else to
    the table's, or absolute.
    """

    path: str
    name: str
    is_there: bool


class Base(NamedTuple):
    """A folder that paths are relative to; `prefix` leads there from what names are relative to."""

    folder: str
    prefix: str


class Found(NamedTuple):
    """A place for each cell, whether a photo is there or not; what the user should know."""

    places: list[Place]
    notes: list[str]


def find_photos(
    table: Path, unit: str, cells: Sequence[Cell], reading: Reading, *, windows: bool = False
) -> Found:
    """Looks for all photos. `unit` is what cells are counted in, `windows` as of `encoding.Text`.

    Raises:
        UsageError: more than half of them are not there; a path is an address; no such base folder,
            or an extension that no photo has.
    """
    extension = _extension(reading.extension)
    texts = [_local(table, unit, cell, cells) for cell in cells]
    if extension:
        texts = [text if is_photo(text.strip()) else text.strip() + extension for text in texts]
    notes: list[str] = []
    if reading.base_folder is not None:
        base = _base(reading.base_folder, table)
        texts = _moved(texts, base, notes)
    else:
        base = Base(str(table.parent), "")
    places = [_place(text, base, windows) for text in texts]
    missing = [place for place in places if not place.is_there]
    if missing and len(missing) == len(places) and reading.base_folder is None:
        here = Base("", _from(table.parent, ""))
        others = [_place(text, here, windows) for text in texts]
        if any(place.is_there for place in others):
            places, missing = others, [place for place in others if not place.is_there]
            notes.append(f"{table}: its paths are relative to the working folder, not to its own")
    if missing:
        text = _not_there(table, missing, len(places), reading)
        if 2 * len(missing) > len(places):
            raise UsageError(text)
        notes.append(text)
    return Found(places, notes)


def _extension(text: str | None) -> str:
    if text is None:
        return ""
    extension = "." + text.strip().removeprefix(".")
    if extension.lower() not in EXTENSIONS:
        raise UsageError(
            f"--extension {text}: no photo has it. There are {', '.join(sorted(EXTENSIONS))}."
        )
    return extension


def _local(table: Path, unit: str, cell: Cell, cells: Sequence[Cell]) -> str:
    """The text of a cell; of an address with file: its path."""
    text = cell.text.strip()
    if (local := local_path(text)) != text:
        return local
    if not _ADDRESS.match(text):
        return cell.text
    count = sum(_ADDRESS.match(other.text.strip()) is not None for other in cells)
    raise UsageError(
        f"{table}: {count} of {len(cells)} paths are addresses, {unit} {cell.number} first: "
        f"{one_line(text)[:80]}. Photos are read from local files here: download them first."
    )


def base_place(folder: str, table: Path) -> str:
    """The folder of `--base-folder`: from the working folder, else from the table's."""
    beside = os.path.join(table.parent, folder)  # noqa: PTH118
    here = os.path.isdir(folder) or not os.path.isdir(beside)  # noqa: PTH112
    return folder if here else beside


def _base(folder: str, table: Path) -> Base:
    path = base_place(folder, table)
    if not os.path.isdir(path):  # noqa: PTH112
        raise UsageError(
            f"--base-folder {folder}: there is no such folder here"
            f"{'' if os.path.isabs(folder) else f', nor beside {table}'}."  # noqa: PTH117
        )
    return Base(path, "")


def _from(start: Path, folder: str) -> str:
    """How a folder is reached from another; absolute where it cannot be."""
    try:
        found = os.path.relpath(folder or os.curdir, start)
    except ValueError:  # another drive
        found = os.path.abspath(folder or os.curdir)  # noqa: PTH100
    return "" if found == os.curdir else found.replace(os.sep, "/")


def _place(text: str, base: Base, windows: bool) -> Place:
    """The first spelling of a path that exists; the last of the usual ones where none does."""
    places = (_joined(spelling, base) for spelling in _spellings(text, windows))
    found = next((place for place in places if place.is_there), None)
    return found or _joined(_usual(text), base)


def _joined(name: str, base: Base) -> Place:
    path = os.path.join(base.folder, name)  # noqa: PTH118
    return Place(path, os.path.join(base.prefix, name), _is_there(path))  # noqa: PTH118


def _spellings(text: str, windows: bool) -> Iterator[str]:
    yield text
    usual = _usual(text)
    if usual != text:
        yield usual
    if not text.isascii():
        yield unicodedata.normalize("NFC", usual)
        yield unicodedata.normalize("NFD", usual)
        if windows:
            yield os.fsdecode(usual.encode(WINDOWS, "replace"))


def as_found(folder: str, name: str) -> str:
    """The path of a photo in a folder: where it is not there, in Unicode's other form, if that is.

    Copies to and from a Mac may change the form of names.
    """
    path = os.path.join(folder, name)  # noqa: PTH118
    if name.isascii() or os.path.lexists(path):
        return path
    forms = [os.path.join(folder, unicodedata.normalize(f, name)) for f in ("NFC", "NFD")]  # noqa: PTH118
    return next(filter(os.path.lexists, forms), path)


def _usual(text: str) -> str:
    return text.strip().replace("\\", "/")


def _is_there(path: str) -> bool:
    """Whether a photo may be there; whether it is one, decoding says."""
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True


def _moved(texts: list[str], base: Base, notes: list[str]) -> list[str]:
    """Absolute paths as they are below the base folder."""
    parts = {
        place: [part for part in _SEPARATORS.split(text.strip()) if part]
        for place, text in enumerate(texts)
        if _ABSOLUTE.match(text.strip())
    }
    if not parts:
        return texts
    levels = zip(*(names[:-1] for names in parts.values()), strict=False)
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    some = list(parts.values())[:_TRIED]

    def is_found(cut: int) -> bool:
        return any(_joined("/".join(names[cut:]), base).is_there for names in some)

    cut = next(filter(is_found, range(shared + 1)), shared)
    left_out = "/".join(some[0][:cut])
    notes.append(f"{base.folder}: stands for {left_out}, where the table says that photos are")
    return ["/".join(parts[n][cut:]) if n in parts else text for n, text in enumerate(texts)]


def _not_there(table: Path, missing: list[Place], total: int, reading: Reading) -> str:
    names = ", ".join(one_line(place.path) for place in missing[:3])
    more = ", ..." if len(missing) > 3 else ""
    return (
        f"{table}: {len(missing)} of {total} photos are not there. Looked for {names}{more}."
        f"{_hint(table, missing[0], reading)}"
    )


def _hint(table: Path, place: Place, reading: Reading) -> str:
    """What may help: another folder, an extension, or what is there under nearly this name."""
    if os.path.isdir(place.path):  # noqa: PTH112
        return " That is a folder. Do the names of photos stand in another column? --path-column."
    if _ABSOLUTE.match(place.name) and reading.base_folder is None:
        return " Are these paths of another machine? --base-folder DIR says where they are here."
    extensions = [""] if is_photo(place.path) else ["", *_endings()]
    folders = [""] if reading.base_folder is not None else ["", *_folders(table.parent)]
    for extension in extensions:
        inside = [
            folder for folder in folders if _is_there(_inside(table, folder, place, extension))
        ]
        if len(inside) == 1:
            flags = f"--base-folder {table.parent / inside[0]} " if inside[0] else ""
            flags += f"--extension {extension}" if extension else ""
            return f" Did you mean {flags.strip()}?"
    near = _in_other_case(place.path)
    if near:
        return f" There is {near}: upper and lower case differ."
    if reading.base_folder is None:
        return (
            " Paths are relative to the table's folder; --base-folder DIR names another, "
            "--extension .jpg adds what names lack."
        )
    return " --extension .jpg adds what names lack." if len(extensions) > 1 else ""


def _inside(table: Path, folder: str, place: Place, extension: str) -> str:
    path = os.path.join(table.parent, folder, place.name) if folder else place.path  # noqa: PTH118
    return path + extension


def _endings() -> Iterator[str]:
    usual = [".jpg", ".jpeg", ".png"]
    for extension in [*usual, *sorted(EXTENSIONS - set(usual))]:
        yield extension
        yield extension.upper()


def _folders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")[:_FOLDERS]
    except OSError:
        return []


def _in_other_case(path: str) -> str | None:
    folder, name = os.path.split(path)
    if not name:
        return None
    try:
        names = os.listdir(folder or os.curdir)  # noqa: PTH208
    except OSError:
        other = _in_other_case(folder)
        return _in_other_case(os.path.join(other, name)) if other else None  # noqa: PTH118
    same = next((other for other in names if other.casefold() == name.casefold()), None)
    return os.path.join(folder, same) if same is not None else None  # noqa: PTH118
