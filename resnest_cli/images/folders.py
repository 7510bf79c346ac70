"""A folder or a glob -> its files, lazily and in natural order (img2 before img10).

Only the names in the folders between the root and the current file are held at once: a hundred
million photos need no more memory than the largest folder among them.

Globs know `*`, `?`, `[...]` and `**` (any number of folders, links included). Unlike those of
Python's `glob` their results are ordered, each comes once, and a folder that cannot be read is an
entry with an error. A wildcard matches no leading dot, and no dropping of a system.
"""

import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from resnest_cli.paths import is_folder as is_folder  # noqa: PLC0414 - of use to whoever walks

_WILDCARD = re.compile(r"[*?\[]")
_SEPARATORS = os.sep + (os.altsep or "")

# What systems leave in folders, in lower case. Synology and QNAP, zips from a Mac, Jupyter, waste
# bins and snapshots, Windows, file systems after a check, macOS.
_DROPPINGS = frozenset((
    "@eadir", "@recycle", "@recently-snapshot", "@sharesnap", "@tmp", ".@__thumb", "__macosx",
    ".ipynb_checkpoints", "#recycle", "#snapshot", "$recycle.bin", ".snapshot",
    "~snapshot", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini",
    "lost+found", "found.000", ".ds_store", ".appledouble", ".spotlight-v100", ".fseventsd",
    ".trashes", "network trash folder", "temporary items", "icon\r",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder. `path` begins with the root as given.

    `error` says why a folder cannot be read; it goes on after the path.
    """

    name: str
    path: str
    is_folder: bool = False
    error: str | None = None


def is_dropping(name: str) -> bool:
    """Whether a file or folder of this name is left by a system: no photo and no class.

    Case does not count, since the file systems in question ignore it. A name that begins with
    `._` is a Mac's, beside the file that it belongs to.
    """
    return name.startswith(("._", ".Trash-")) or name.casefold() in _DROPPINGS


def is_hidden(name: str) -> bool:
    """Whether nobody looks for photos under such a name."""
    return name.startswith(".") or is_dropping(name)


def is_glob(text: str) -> bool:
    """Whether this is a pattern. What exists is none, whatever its name."""
    return _WILDCARD.search(text) is not None and not os.path.lexists(text)


def walk(root: str, *, recursive: bool = True, hidden: bool = False) -> Iterator[Entry]:
    """Files in a folder and below it, depth first; no hidden names and droppings unless `hidden`.

    Links between folders are followed, but not one that leads back to a folder it lies in.
    """
    # An explicit stack instead of recursion: folders nest thousands deep.
    stack = [(_identity(root), _scan(root, hidden))]
    while stack:
        entry = next(stack[-1][1], None)
        if entry is None:
            stack.pop()
        elif not entry.is_folder or entry.error:
            yield entry
        elif recursive:
            identity = _identity(entry.path)
            if all(identity != ancestor for ancestor, _ in stack):
                stack.append((identity, _scan(entry.path, hidden)))


def expand(pattern: str) -> Iterator[Entry]:
    """What a glob matches: files, and folders where the pattern has no `**`."""
    wildcard = _WILDCARD.search(pattern)
    start = wildcard.start() if wildcard else len(pattern)
    start = max(pattern.rfind(separator, 0, start) for separator in _SEPARATORS) + 1
    anchor, parts = pattern[:start], re.split(f"[{re.escape(_SEPARATORS)}]+", pattern[start:])
    if anchor and not is_folder(anchor):
        return iter(())
    return _select_deep(anchor, parts) if "**" in parts else _select(anchor, parts)


def _scan(folder: str, hidden: bool = False) -> Iterator[Entry]:
    """What is in one folder, in natural order, or one entry with the reason why nothing is."""
    try:
        with os.scandir(folder or os.curdir) as listing:
            found = [
                (entry.name, leads_to_folder(entry))
                for entry in listing
                if hidden or not is_hidden(entry.name)
            ]
    except OSError as error:
        reason = f"is a folder that cannot be read: {(error.strerror or str(error)).lower()}"
        yield Entry("", folder, is_folder=True, error=reason)
        return
    found.sort()  # decides between names that are alike in natural order, such as a1 and a01
    found.sort(key=lambda item: natural(item[0]))
    for name, leads_on in found:
        yield Entry(name, _join(folder, name), leads_on)


def leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself, of which decoding says what it is
        return False


def natural(name: str) -> str:
    """Sort key: case does not count, and numbers compare by value.

    With the number of digits in front, 2 (`001` `2`) comes before 10 (`002` `10`). One string takes
    less memory than a list of parts, which matters in a folder of a million photos.
    """
    return re.sub("0*([0-9]+)", lambda found: f"{len(found[1]):03}{found[1]}", name.casefold())


def _join(folder: str, name: str) -> str:
    """As `os.path.join`, which would drop the folder before an absolute name."""
    return folder + name if not folder or folder[-1] in _SEPARATORS else folder + os.sep + name


def _identity(folder: str) -> tuple[int, int] | str:
    """The same for all paths of one folder. Some file systems, such as on Windows, lack inodes."""
    try:
        status = os.stat(folder or os.curdir)  # noqa: PTH116 - once per folder of millions
    except OSError:
        return folder
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def _matcher(part: str) -> Callable[[str], bool]:
    """Whether a name matches one part of a glob."""
    match = re.compile(fnmatch.translate(part), re.IGNORECASE if os.name == "nt" else 0).match
    dot = part.startswith(".")

    def matches(name: str) -> bool:
        shown = name == part or not (is_dropping(name) if dot else is_hidden(name))
        return shown and match(name) is not None

    return matches


def _select(folder: str, parts: list[str]) -> Iterator[Entry]:
    """Files and folders below an existing folder that the parts of a glob without `**` match."""
    if not any(parts):  # none left, or a separator at the end
        yield Entry("", folder, is_folder=True)
        return
    part, rest = parts[0], parts[1:]
    if not _WILDCARD.search(part):
        path = _join(folder, part)
        if is_folder(path):
            yield from _select(path, rest)
        elif not rest and os.path.lexists(path):
            yield Entry(part, path)
        return
    matches = _matcher(part)
    for entry in _scan(folder, hidden=part.startswith(".")):
        if entry.error:
            yield entry
        elif matches(entry.name):
            if entry.is_folder:
                yield from _select(entry.path, rest)
            elif not rest:
                yield entry


def _select_deep(anchor: str, parts: list[str]) -> Iterator[Entry]:
    """Files that the parts of a glob with `**` match. One walk over all: nothing comes twice."""
    first = parts.index("**")
    rest = [part for part in parts[first:] if part]
    if rest[-1] == "**":  # `a/**` stands for all files below a
        rest.append("*")
    matchers = [None if part == "**" else _matcher(part) for part in rest]
    hidden = any(part.startswith(".") or is_dropping(part) for part in rest)
    for root in _select(anchor, parts[:first]):
        if root.error:
            yield root
        elif root.is_folder:
            start = len(_join(root.path, ""))
            for entry in walk(root.path, hidden=hidden):
                names = entry.path[start:].replace(os.sep, "/").split("/")
                if entry.error or _fits(names, matchers):
                    yield entry


def _fits(names: list[str], matchers: "list[Callable[[str], bool] | None]") -> bool:
    """Whether the parts of a path match the parts of a glob, where None stands for `**`."""
    at = {0}  # the parts of the glob that may match the next name
    for name in [*names, ""]:
        for index, matches in enumerate(matchers):
            if matches is None and index in at:
                at.add(index + 1)  # it may match no name at all
        if not name:
            break
        after = set()
        for index in at - {len(matchers)}:
            matches = matchers[index]
            if matches is None:
                after |= set() if is_hidden(name) else {index}
            elif matches(name):
                after.add(index + 1)
        at = after
    return len(matchers) in at
