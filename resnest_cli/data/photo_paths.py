"""What stands in a table's column of paths -> the files, wherever they lie on this machine.

Paths are relative to the table's folder; where none of them is there, but some are from the working
folder, they are relative to that one, and a note says so. With `--base-folder` all are looked for
in that folder: absolute ones, such as `C:\\data\\cat\\1.jpg` of another machine, without the
leading folders that all of them share, as far as it takes. `--extension` is added to names that
have none. A path is taken as it is written. Where no such file exists, the one that exists is it
of: without spaces around it; with backslashes as separators; in Unicode's other forms; and, of
lines that were read as Windows-1252, with the bytes that stand there.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from resnest_cli.data.labelled_photos import Reading, is_photo
from resnest_cli.data.table_file import WINDOWS
from resnest_cli.errors import UsageError
from resnest_cli.images.sources import EXTENSIONS
from resnest_cli.paths import local_path
from resnest_cli.text import one_line

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # a drive has one letter
_ABSOLUTE = re.compile(r"[a-z]:[\\/]|\\\\|/", re.IGNORECASE)  # on any machine
_SEPARATORS = re.compile(r"[\\/]+")
_TRIED = 20  # photos, to find out how many folders to leave out
_FOLDERS = 200  # looked into for a hint


class Place(NamedTuple):
    """Where a photo lies, and what it is called: relative to the folder of `--base-folder`, else to
    the table's, or absolute.
    """

    path: str
    name: str
    is_there: bool


class _Base(NamedTuple):
    """A folder that paths are relative to; `prefix` leads there from what names are relative to."""

    folder: str
    prefix: str

    def place(self, name: str) -> Place:
        path = os.path.join(self.folder, name)  # noqa: PTH118
        return Place(path, os.path.join(self.prefix, name), _is_there(path))  # noqa: PTH118

    def find(self, text: str, windows: bool) -> Place:
        """The first spelling of a path that exists; the usual one where none does."""
        places = map(self.place, _spellings(text, windows))
        return next((p for p in places if p.is_there), None) or self.place(_usual(text))


def find_photos(
    table: Path,
    unit: str,
    cells: Sequence[tuple[int, str]],
    reading: Reading,
    *,
    windows: bool = False,
) -> tuple[list[Place], list[str]]:
    """A place for each cell, whether a photo is there or not; and what the user should know.

    `cells` are lines (or other `unit`) and texts; `windows`: see `table_file.Text`.

    Raises:
        UsageError: more than half of them are not there; a path is an address; no such base folder,
            or an extension that no photo has.
    """
    texts = _local(table, unit, cells)
    if extension := _extension(reading.extension):
        texts = [text if is_photo(text.strip()) else text.strip() + extension for text in texts]
    notes: list[str] = []
    base = _Base(str(table.parent), "")
    if (folder := reading.base_folder) is not None:
        base = _Base(base_place(folder, table), "")
        if not os.path.isdir(base.folder):  # noqa: PTH112
            beside = "" if os.path.isabs(folder) else f", nor beside {table}"  # noqa: PTH117
            raise UsageError(f"--base-folder {folder}: there is no such folder here{beside}.")
        texts = _moved(texts, base, notes)
    places = [base.find(text, windows) for text in texts]
    missing = [place for place in places if not place.is_there]
    if missing and len(missing) == len(places) and reading.base_folder is None:
        try:
            prefix = os.path.relpath(os.curdir, table.parent).replace(os.sep, "/")
        except ValueError:  # another drive
            prefix = os.path.abspath(os.curdir).replace(os.sep, "/")  # noqa: PTH100
        here = _Base("", "" if prefix == os.curdir else prefix)
        others = [here.find(text, windows) for text in texts]
        if any(place.is_there for place in others):
            places, missing = others, [place for place in others if not place.is_there]
            notes.append(f"{table}: its paths are relative to the working folder, not to its own")
    if missing:
        names = ", ".join(one_line(place.path) for place in missing[:3])
        more = ", ..." if len(missing) > 3 else ""
        text = (
            f"{table}: {len(missing)} of {len(places)} photos are not there. Looked for {names}"
            f"{more}.{_hint(table, missing[0], reading)}"
        )
        if 2 * len(missing) > len(places):
            raise UsageError(text)
        notes.append(text)
    return places, notes


def _extension(text: str | None) -> str:
    if text is None:
        return ""
    extension = "." + text.strip().removeprefix(".")
    if extension.lower() not in EXTENSIONS:
        raise UsageError(
            f"--extension {text}: no photo has it. There are {', '.join(sorted(EXTENSIONS))}."
        )
    return extension


def _local(table: Path, unit: str, cells: Sequence[tuple[int, str]]) -> list[str]:
    """The texts of cells; of an address with file: its path."""
    texts, addresses = [], []
    for number, cell in cells:
        text = cell.strip()
        local = local_path(text)
        texts.append(cell if local == text else local)
        if local == text and _ADDRESS.match(text):
            addresses.append((number, text))
    if addresses:
        number, text = addresses[0]
        raise UsageError(
            f"{table}: {len(addresses)} of {len(cells)} paths are addresses, {unit} {number} "
            f"first: {one_line(text)[:80]}. Photos are read from local files here: download them "
            "first."
        )
    return texts


def base_place(folder: str, table: Path) -> str:
    """The folder of `--base-folder`: from the working folder, else from the table's."""
    beside = os.path.join(table.parent, folder)  # noqa: PTH118
    here = os.path.isdir(folder) or not os.path.isdir(beside)  # noqa: PTH112
    return folder if here else beside


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


def _usual(text: str) -> str:
    return text.strip().replace("\\", "/")


def as_found(folder: str, name: str) -> str:
    """The path of a photo in a folder: where it is not there, in Unicode's other form, if that is.

    Copies to and from a Mac may change the form of names.
    """
    path = os.path.join(folder, name)  # noqa: PTH118
    if name.isascii() or os.path.lexists(path):
        return path
    forms = [os.path.join(folder, unicodedata.normalize(f, name)) for f in ("NFC", "NFD")]  # noqa: PTH118
    return next(filter(os.path.lexists, forms), path)


def _is_there(path: str) -> bool:
    """Whether a photo may be there; whether it is one, decoding says."""
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True


def _moved(texts: list[str], base: _Base, notes: list[str]) -> list[str]:
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
    tried = list(parts.values())[:_TRIED]

    def is_found(cut: int) -> bool:
        return any(base.place("/".join(names[cut:])).is_there for names in tried)

    cut = next(filter(is_found, range(shared + 1)), shared)
    left_out = "/".join(tried[0][:cut])
    notes.append(f"{base.folder}: stands for {left_out}, where the table says that photos are")
    return ["/".join(parts[n][cut:]) if n in parts else text for n, text in enumerate(texts)]


def _hint(table: Path, place: Place, reading: Reading) -> str:
    """What may help: another folder, an extension, or what is there under nearly this name."""
    if os.path.isdir(place.path):  # noqa: PTH112
        return " That is a folder. Do the names of photos stand in another column? --path-column."
    if _ABSOLUTE.match(place.name) and reading.base_folder is None:
        return " Are these paths of another machine? --base-folder DIR says where they are here."
    usual = [".jpg", ".jpeg", ".png"]
    endings = [case for e in (*usual, *sorted(EXTENSIONS - set(usual))) for case in (e, e.upper())]
    extensions = [""] if is_photo(place.path) else ["", *endings]
    folders = [""] if reading.base_folder is not None else ["", *_folders(table.parent)]
    for extension in extensions:
        inside = [
            folder
            for folder in folders
            if _is_there(
                (os.path.join(table.parent, folder, place.name) if folder else place.path)  # noqa: PTH118
                + extension
            )
        ]
        if len(inside) == 1:
            flags = f"--base-folder {table.parent / inside[0]} " if inside[0] else ""
            flags += f"--extension {extension}" if extension else ""
            return f" Did you mean {flags.strip()}?"
    if near := _in_other_case(place.path):
        return f" There is {near}: upper and lower case differ."
    if reading.base_folder is None:
        return (
            " Paths are relative to the table's folder; --base-folder DIR names another, "
            "--extension .jpg adds what names lack."
        )
    return " --extension .jpg adds what names lack." if len(extensions) > 1 else ""


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
