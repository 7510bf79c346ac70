"""A path or an address -> a file system and a path on it; files, folders and globs there.

This machine needs no pyarrow. pyarrow knows s3://, gs://, abfs:// and hdfs://; any other scheme is
fsspec's, which says what must be installed for it.
"""

import fnmatch
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

from resnest_cli.errors import ErrorKind, ResnestError, UsageError
from resnest_cli.files import atomic_file
from resnest_cli.images.folders import is_dropping, natural
from resnest_cli.images.sources import EXTENSIONS, SourceStats
from resnest_cli.paths import is_address, local_path
from resnest_cli.text import one_line

_WILDCARD = re.compile(r"[*?\[]")

System = Any  # a file system of pyarrow, or `_LocalSystem`


class _LocalFile(io.FileIO):
    """A file as pyarrow opens one: threads may share its `read_at`; it closes with its last use."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._lock = Lock()

    def size(self) -> int:
        return os.fstat(self.fileno()).st_size

    def read_at(self, count: int, offset: int) -> bytes:
        with self._lock:
            self.seek(offset)
            return self.read(count) or b""

    def __del__(self) -> None:
        self.close()


class _LocalSystem:
    """The files of this machine, by the calls of pyarrow's file systems that are made here."""

    type_name = "local"

    def open_input_file(self, path: str) -> _LocalFile:
        return _LocalFile(path)

    def create_dir(self, path: str, *, recursive: bool) -> None:
        Path(path).mkdir(parents=recursive, exist_ok=True)

    def delete_dir(self, path: str) -> None:
        shutil.rmtree(path)

    def delete_file(self, path: str) -> None:
        Path(path).unlink()


_LOCAL = _LocalSystem()


def opened(text: str) -> tuple[System, str]:
    """The file system of a path or an address, and the path on it."""
    if not is_address(text):
        return _LOCAL, os.path.abspath(text)  # noqa: PTH100 - keeps odd bytes
    path = local_path(text)
    if not is_address(path):
        return _LOCAL, path.rstrip("/") or "/"
    scheme, _, rest = text.partition("://")
    if scheme.lower() == "file":
        raise ResnestError(f"{text}: cannot be reached: a file:// address is of this machine.")
    system, by_address = _of(f"{scheme}://{rest.partition('/')[0]}/")
    return system, rest.rstrip("/") if by_address is None else by_address(text)


@lru_cache(maxsize=64)
def _of(root: str) -> tuple[System, Any]:
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


def read(system: System, path: str) -> bytes | None:
    """The bytes of a file; None where there is none."""
    try:
        with system.open_input_file(path) as file:
            return bytes(file.read())
    except FileNotFoundError:
        return None


def put(system: System, path: str, data: bytes) -> None:
    """Writes a file that is there as a whole or not at all, in place of one of that name."""
    if system is _LOCAL:
        with atomic_file(Path(path)) as file:
            file.write(data)
        return
    renames = system.type_name == "hdfs"  # elsewhere a file appears when it is whole
    place = f"{path}.{secrets.token_hex(4)}.tmp" if renames else path
    try:
        with system.open_output_stream(place, compression=None) as stream:
            stream.write(data)
        if renames:
            system.move(place, path)
    except BaseException:
        if renames:
            with suppress(OSError):
                system.delete_file(place)
        raise


def remove(system: System, path: str) -> None:
    """Removes a file, if it is there."""
    with suppress(FileNotFoundError):
        system.delete_file(path)


def names_in(system: System, folder: str) -> list[str]:
    """The names of the files of a folder; none where there is no such folder."""
    try:
        return [name for name, _, is_folder in _entries(system, folder) if not is_folder]
    except FileNotFoundError:
        return []


def _entries(system: System, folder: str) -> list[tuple[str, str, bool]]:
    """Name and path of what is in a folder, and whether it is one."""
    if system is _LOCAL:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.path, entry.is_dir()) for entry in entries]
    from pyarrow import fs

    found = system.get_file_info(fs.FileSelector(folder))
    return [(one.base_name, one.path, one.type == fs.FileType.Directory) for one in found]


def _is_folder(system: System, path: str) -> bool:
    if system is _LOCAL:
        return os.path.isdir(path)  # noqa: PTH112 - keeps odd bytes
    from pyarrow import fs

    return bool(system.get_file_info(path).type == fs.FileType.Directory)


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
    if _WILDCARD.search(address):
        yield from _glob(address, recursive, stats)
        return
    system, path = opened(address)
    try:
        is_folder = _is_folder(system, path)
    except OSError as error:
        yield Found(address, f"cannot be read: {one_line(str(error))}")
        return
    if is_folder:
        yield from _walk(system, path, address, recursive, stats)
    else:
        yield Found(address)


def _walk(
    system: System, path: str, address: str, recursive: bool, stats: SourceStats
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


def _scan(system: System, path: str, address: str) -> Iterator[Found]:
    try:
        found = _entries(system, path)
    except OSError as error:
        yield Found(address, f"is a folder that cannot be read: {one_line(str(error))}")
        return
    escaped = local_path(address) != address  # a file:// address escapes odd characters
    for name, below, is_folder in sorted(found, key=lambda entry: (natural(entry[0]), entry[0])):
        if name and not name.startswith(".") and not is_dropping(name):
            shown = quote_from_bytes(os.fsencode(name)) if escaped else name
            yield Found(f"{address}/{shown}", name=name, path=below, is_folder=is_folder)


def _select(system: System, path: str, address: str, parts: list[str]) -> Iterator[Found]:
    part, *rest = parts
    for entry in _scan(system, path, address):
        if entry.error:
            yield entry
        elif fnmatch.fnmatchcase(entry.name, part):
            if not rest:
                yield entry
            elif entry.is_folder:
                yield from _select(system, entry.path, entry.address, rest)
