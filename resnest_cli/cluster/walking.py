"""A folder or a glob on a remote file system -> its photos, in the order of `images.folders`.

The names of one folder are held at a time. Hidden names, droppings of systems and other extensions
are passed over, as on this machine. `**` is refused: a folder is read with all that is in it.
"""

import fnmatch
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from resnest_cli.cluster.filesystems import address_of, opened
from resnest_cli.errors import UsageError, one_line
from resnest_cli.images.folders import is_dropping, natural
from resnest_cli.images.sources import EXTENSIONS, SourceStats
from resnest_cli.paths import local_path

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_WILDCARD = re.compile(r"[*?\[]")


class Found(NamedTuple):
    """A file by its address, or why a folder cannot be read."""

    address: str
    error: str | None = None


def is_photo(name: str) -> bool:
    """Whether a name has a known image extension and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122


def remote_files(address: str, *, recursive: bool, stats: SourceStats) -> Iterator[Found]:
    """What an address stands for: a file, the photos of a folder, or what a glob matches.

    Raises:
        UsageError: a glob with `**`.
        ResnestError: the file system cannot be reached.
    """
    from pyarrow import fs

    if _WILDCARD.search(address):
        yield from _glob(address, recursive, stats)
        return
    system, path = opened(address)
    try:
        kind = system.get_file_info(path).type
    except OSError as error:
        yield Found(address, f"cannot be read: {one_line(str(error))}")
        return
    if kind == fs.FileType.Directory:
        yield from _walk(system, path, address, recursive, stats)
    else:
        yield Found(address)


def _walk(
    system: "FileSystem", path: str, address: str, recursive: bool, stats: SourceStats
) -> Iterator[Found]:
    stack = [_scan(system, path, address.rstrip("/"))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif entry.error:
            yield Found(entry.address, entry.error)
        elif entry.is_folder:
            if recursive:
                stack.append(_scan(system, entry.path, entry.address))
        elif is_photo(entry.name):
            yield Found(entry.address)
        else:
            stats.skipped += 1


def _glob(pattern: str, recursive: bool, stats: SourceStats) -> Iterator[Found]:
    if "**" in pattern:
        raise UsageError(f"{pattern}: no ** here: name the folder, which is read with all below.")
    wildcard = _WILDCARD.search(pattern)
    assert wildcard is not None
    root = pattern[: pattern.rfind("/", 0, wildcard.start()) + 1]
    rest = pattern[len(root) :]
    if local_path(pattern) != pattern:
        rest = local_path(f"file:///{rest}")
    parts = [part for part in rest.split("/") if part]
    system, path = opened(root)
    found = False
    for entry in _select(system, path, root.rstrip("/"), parts):
        found = True
        if entry.error:
            yield Found(entry.address, entry.error)
        elif entry.is_folder:
            yield from _walk(system, entry.path, entry.address, recursive, stats)
        elif is_photo(entry.name) or entry.name.endswith(".tar"):
            yield Found(entry.address)
        else:
            stats.skipped += 1
    if not found:
        yield Found(pattern, "is a pattern that matches no file")


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and not is_dropping(name)


class _Entry(NamedTuple):
    name: str
    path: str
    address: str
    is_folder: bool = False
    error: str | None = None


def _scan(system: "FileSystem", path: str, address: str) -> Iterator[_Entry]:
    from pyarrow import fs

    try:
        found = system.get_file_info(fs.FileSelector(path))
    except OSError as error:
        reason = f"is a folder that cannot be read: {one_line(str(error))}"
        yield _Entry("", path, address, error=reason)
        return
    found = [info for info in found if info.base_name and _is_shown(info.base_name)]
    found.sort(key=lambda info: (natural(info.base_name), info.base_name))
    for info in found:
        name = info.base_name
        folder = info.type == fs.FileType.Directory
        yield _Entry(name, info.path, address_of(name, address), folder)


def _select(system: "FileSystem", path: str, address: str, parts: list[str]) -> Iterator[_Entry]:
    part, *rest = parts
    for entry in _scan(system, path, address):
        if entry.error:
            yield entry
        elif fnmatch.fnmatchcase(entry.name, part):
            if not rest:
                yield entry
            elif entry.is_folder:
                yield from _select(system, entry.path, entry.address, rest)
