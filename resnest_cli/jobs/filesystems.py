"""A path or an address -> a pyarrow file system and a path on it; files, folders and globs there.

pyarrow knows file://, s3://, gs://, abfs:// and hdfs://; any other scheme is fsspec's, which says
what must be installed for it.
"""

import fnmatch
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote_from_bytes

from resnest_cli.errors import ErrorKind, ResnestError, UsageError
from resnest_cli.images.folders import is_dropping, natural
from resnest_cli.images.sources import EXTENSIONS, SourceStats
from resnest_cli.paths import is_address, local_path
from resnest_cli.text import one_line

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_WILDCARD = re.compile(r"[*?\[]")
_RENAMES = {"local", "hdfs"}  # a file appears there while it is written; elsewhere when it is whole


def opened(text: str) -> "tuple[FileSystem, str]":
    """The file system of a path or an address, and the path on it."""
    if not is_address(text):
        return _of("file:///")[0], os.path.abspath(text)  # noqa: PTH100 - keeps odd bytes
    path = local_path(text)
    if not is_address(path):
        return _of("file:///")[0], path.rstrip("/") or "/"
    scheme, _, rest = text.partition("://")
    if scheme.lower() == "file":
        raise ResnestError(f"{text}: cannot be reached: a file:// address is of this machine.")
    system, by_address = _of(f"{scheme}://{rest.partition('/')[0]}/")
    return system, rest.rstrip("/") if by_address is None else by_address(text)


@lru_cache(maxsize=64)
def _of(root: str) -> "tuple[FileSystem, Any]":
    """The file system of a root, and, for fsspec, what turns an address into a path."""
    import pyarrow as pa
    from pyarrow import fs

    try:
        return fs.FileSystem.from_uri(root)[0], None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, NotImplementedError) as error:
        if "Unrecognized" not in str(error) and "without" not in str(error):
            raise UsageError(f"{root}: {one_line(str(error))}") from error
    except OSError as error:
        raise ResnestError(f"{root}: cannot be reached: {one_line(str(error))}") from error
    try:
        import fsspec

        system, _ = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{root}: {one_line(str(error))}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), system._strip_protocol


def read(system: "FileSystem", path: str) -> bytes | None:
    """The bytes of a file; None where there is none."""
    try:
        with system.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def put(system: "FileSystem", path: str, data: Any) -> None:
    """Writes a file that is there as a whole or not at all, in place of one of that name."""
    renames = system.type_name in _RENAMES
    place = f"{path}.{secrets.token_hex(4)}.tmp" if renames else path
    try:
        with system.open_output_stream(place, compression=None) as stream:
            stream.write(data)
        if system.type_name == "local":
            with open(place, "rb") as file:  # noqa: PTH123 - keeps odd bytes
                os.fsync(file.fileno())
        if renames:
            system.move(place, path)
    except BaseException:
        if renames:
            with suppress(OSError):
                system.delete_file(place)
        raise


def remove(system: "FileSystem", path: str) -> None:
    """Removes a file, if it is there."""
    with suppress(FileNotFoundError):
        system.delete_file(path)


def names_in(system: "FileSystem", folder: str) -> list[str]:
    """The names of the files of a folder; none where there is no such folder."""
    from pyarrow import fs

    selector = fs.FileSelector(folder, allow_not_found=True)
    return [i.base_name for i in system.get_file_info(selector) if i.type == fs.FileType.File]


class Found(NamedTuple):
    """A file or folder by its address, or why one cannot be read."""

    address: str
    error: str | None = None
    kind: ErrorKind = "unreadable"  # of the error
    name: str = ""
    path: str = ""
    is_folder: bool = False


def is_photo(name: str) -> bool:
    """Whether a name has a known image extension and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122


def remote_files(address: str, *, recursive: bool, stats: SourceStats) -> Iterator[Found]:
    """What an address stands for: a file, the photos of a folder, or what a glob matches.

    In the order of `images.folders`; the names of one folder are held at a time. Hidden names,
    droppings of systems and other extensions are passed over, as on this machine.
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
        elif entry.is_folder:
            if recursive:
                stack.append(_scan(system, entry.path, entry.address))
        elif entry.error or is_photo(entry.name):
            yield entry
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
    system, path = opened(root)
    found = False
    for entry in _select(system, path, root.rstrip("/"), [p for p in rest.split("/") if p]):
        found = True
        if entry.is_folder:
            yield from _walk(system, entry.path, entry.address, recursive, stats)
        elif entry.error or is_photo(entry.name) or entry.name.endswith(".tar"):
            yield entry
        else:
            stats.skipped += 1
    if not found:
        yield Found(pattern, "is a pattern that matches no file", "matched nothing")


def _scan(system: "FileSystem", path: str, address: str) -> Iterator[Found]:
    from pyarrow import fs

    try:
        found = system.get_file_info(fs.FileSelector(path))
    except OSError as error:
        yield Found(address, f"is a folder that cannot be read: {one_line(str(error))}")
        return
    escaped = local_path(address) != address  # a file:// address escapes odd characters
    for info in sorted(found, key=lambda info: (natural(info.base_name), info.base_name)):
        name = info.base_name
        if name and not name.startswith(".") and not is_dropping(name):
            shown = quote_from_bytes(os.fsencode(name)) if escaped else name
            folder = info.type == fs.FileType.Directory
            yield Found(f"{address}/{shown}", name=name, path=info.path, is_folder=folder)


def _select(system: "FileSystem", path: str, address: str, parts: list[str]) -> Iterator[Found]:
    part, *rest = parts
    for entry in _scan(system, path, address):
        if entry.error:
            yield entry
        elif fnmatch.fnmatchcase(entry.name, part):
            if not rest:
                yield entry
            elif entry.is_folder:
                yield from _select(system, entry.path, entry.address, rest)
