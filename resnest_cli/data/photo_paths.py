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
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from resnest_cli.data.labelled_photos import Reading
from resnest_cli.data.table_file import WINDOWS, Table
from resnest_cli.errors import UsageError
from resnest_cli.images.sources import EXTENSIONS, is_photo
from resnest_cli.paths import is_file_url, is_folder, local_path
from resnest_cli.text import one_line

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # a drive has one letter
_ABSOLUTE = re.compile(r"[a-z]:[\\/]|\\\\|/", re.IGNORECASE)  # on any machine
_SEPARATORS = re.compile(r"[\\/]+")
_TRIED = 20  # photos, to find out how many folders to leave out
_FOLDERS = 200  # looked into for a hint


class Candidate(NamedTuple):
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

    def place(self, name: str) -> Candidate:
        path = os.path.join(self.folder, name)  # noqa: PTH118
        return Candidate(path, os.path.join(self.prefix, name), _is_there(path))  # noqa: PTH118

    def find(self, text: str, windows: bool) -> Candidate:
        """The first spelling of a path that exists; the usual one where none does."""
        places = map(self.place, dict.fromkeys(_spellings(text, windows)))
        return next((p for p in places if p.is_there), None) or self.place(_usual(text))


def find_photos(table: Table, column: int, reading: Reading) -> list[Candidate]:
    """A place for each row, whether a photo is there or not.

    Raises UsageError where more than half of them are not there, or a path is an address.
    """
    file, texts = table.file, _local(table, column)
    if extension := _extension(reading.extension):
        texts = [text if is_photo(text.strip()) else text.strip() + extension for text in texts]
    base = _Base(str(file.parent), "")
    if (folder := reading.base_folder) is not None:
        base = _Base(base_place(folder, file), "")
        if not is_folder(base.folder):
            beside = "" if os.path.isabs(folder) else f", nor beside {file}"  # noqa: PTH117
            raise UsageError(f"--base-folder {folder}: there is no such folder here{beside}.")
        texts = _moved(texts, base, table.notes)
    places = [base.find(text, table.windows) for text in texts]
    if folder is None and not any(place.is_there for place in places):
        try:
            prefix = os.path.relpath(os.curdir, file.parent).replace(os.sep, "/")
        except ValueError:  # another drive
            prefix = os.path.abspath(os.curdir).replace(os.sep, "/")  # noqa: PTH100
        here = _Base("", "" if prefix == os.curdir else prefix)
        others = [here.find(text, table.windows) for text in texts]
        if any(place.is_there for place in others):
            places = others
            table.notes.append(
                f"{file}: its paths are relative to the working folder, not to its own"
            )
    if missing := [place for place in places if not place.is_there]:
        names = ", ".join(one_line(place.path) for place in missing[:3])
        more = ", ..." if len(missing) > 3 else ""
        text = (
            f"{file}: {len(missing)} of {len(places)} photos are not there. Looked for {names}"
            f"{more}.{_hint(file, missing[0], reading)}"
        )
        if 2 * len(missing) > len(places):
            raise UsageError(text)
        table.notes.append(text)
    return places


def _local(table: Table, column: int) -> list[str]:
    """The texts of a column; of an address with file: its path."""
    far = [row for row in table.rows if _ADDRESS.match(local_path(row.cells[column].strip()))]
    if far:
        raise UsageError(
            f"{table.file}: {len(far)} of {len(table.rows)} paths are addresses, {table.unit} "
            f"{far[0].number} first: {one_line(far[0].cells[column])[:80]}. Photos are read from "
            "local files here: download them first."
        )
    texts = [row.cells[column] for row in table.rows]
    return [local_path(t.strip()) if is_file_url(t.strip()) else t for t in texts]


def _extension(text: str | None) -> str:
    extension = "." + text.strip().removeprefix(".") if text is not None else ""
    if extension and extension.lower() not in EXTENSIONS:
        raise UsageError(
            f"--extension {text}: no photo has it. There are {', '.join(sorted(EXTENSIONS))}."
        )
    return extension


def base_place(folder: str, table: Path) -> str:
    """The folder of `--base-folder`: from the working folder, else from the table's."""
    beside = os.path.join(table.parent, folder)  # noqa: PTH118
    return folder if is_folder(folder) or not is_folder(beside) else beside


def _spellings(text: str, windows: bool) -> Iterator[str]:
    yield text
    usual = _usual(text)
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


def _hint(file: Path, place: Candidate, reading: Reading) -> str:
    """What may help: another folder, an extension, or what is there under nearly this name."""
    if is_folder(place.path):
        return " That is a folder. Do the names of photos stand in another column? --path-column."
    if _ABSOLUTE.match(place.name) and reading.base_folder is None:
        return " Are these paths of another machine? --base-folder DIR says where they are here."
    has_one = is_photo(place.path)
    cases = [case for e in sorted(EXTENSIONS) for case in (e, e.upper())]
    folders = [] if reading.base_folder is not None else _folders(file.parent)
    for extension in ["", *([] if has_one else cases)]:
        bases = {"": place.path} | {f: os.path.join(file.parent, f, place.name) for f in folders}  # noqa: PTH118
        found = [folder for folder, path in bases.items() if _is_there(path + extension)]
        if len(found) == 1:
            flags = [f"--base-folder {file.parent / found[0]}"] if found[0] else []
            flags += [f"--extension {extension}"] if extension else []
            return f" Did you mean {' '.join(flags)}?"
    if near := _in_other_case(place.path):
        return f" There is {near}: upper and lower case differ."
    if reading.base_folder is None:
        return (
            " Paths are relative to the table's folder; --base-folder DIR names another, "
            "--extension .jpg adds what names lack."
        )
    return "" if has_one else " --extension .jpg adds what names lack."


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
