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
from typing import Any
from urllib.parse import quote_from_bytes

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import atomic_file
from resnest_cli.images.folders import Entry, is_dropping, leads_to_folder, natural
from resnest_cli.images.sources import SourceStats, is_photo
from resnest_cli.paths import is_address, local_path
from resnest_cli.text import one_line

_WILDCARD = re.compile(r"[*?\[]")
NO_MATCH = "is a pattern that matches no file"

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
        return [name for name, is_folder in _entries(system, folder) if not is_folder]
    except FileNotFoundError:
        return []


def _entries(system: System, folder: str) -> list[tuple[str, bool]]:
    """The names in a folder, and whether each is one."""
    if system is _LOCAL:
        with os.scandir(folder) as entries:
            return [(entry.name, leads_to_folder(entry)) for entry in entries]
    from pyarrow import fs

    found = system.get_file_info(fs.FileSelector(folder))
    return [(one.base_name, one.type == fs.FileType.Directory) for one in found]


def _is_folder(system: System, path: str) -> bool:
    if system is _LOCAL:
        return os.path.isdir(path)  # noqa: PTH112 - keeps odd bytes
    from pyarrow import fs

    return bool(system.get_file_info(path).type == fs.FileType.Directory)


def remote_files(address: str, *, recursive: bool, stats: SourceStats) -> Iterator[Entry]:
    """What an address stands for: a file, the photos of a folder, or what a glob matches.

    In the order of `images.folders`; the names of one folder are held at a time. Hidden names,
    droppings of systems and other extensions are passed over, as on this machine.
    """
    if _WILDCARD.search(address):
        yield from _glob(address, recursive, stats)
        return
    try:
        is_folder = _is_folder(*opened(address))
    except OSError as error:
        yield Entry("", address, error=f"cannot be read: {one_line(str(error))}")
        return
    if is_folder:
        yield from _walk(address, recursive, stats)
    else:
        yield Entry("", address)


def _walk(address: str, recursive: bool, stats: SourceStats) -> Iterator[Entry]:
    stack = [_scan(address)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif entry.is_folder:
            if recursive:
                stack.append(_scan(entry.path))
        elif entry.error or is_photo(entry.name):
            yield entry
        else:
            stats.pass_over(entry.name)


def _glob(pattern: str, recursive: bool, stats: SourceStats) -> Iterator[Entry]:
    if "**" in pattern:
        raise UsageError(f"{pattern}: no ** here: name the folder, which is read with all below.")
    wildcard = _WILDCARD.search(pattern)
    assert wildcard is not None
    root = pattern[: pattern.rfind("/", 0, wildcard.start()) + 1]
    rest = pattern[len(root) :]
    if local_path(pattern) != pattern:
        rest = local_path(f"file:///{rest}")
    entry = None
    for entry in _select(root, [part for part in rest.split("/") if part]):
        if entry.is_folder:
            yield from _walk(entry.path, recursive, stats)
        elif entry.error or is_photo(entry.name) or entry.name.endswith(".tar"):
            yield entry
        else:
            stats.pass_over(entry.name)
    if entry is None:
        yield Entry("", pattern, error=NO_MATCH)


def _scan(address: str) -> Iterator[Entry]:
    address = address.rstrip("/")
    try:
        found = _entries(*opened(address))
    except OSError as error:
        reason = f"is a folder that cannot be read: {one_line(str(error))}"
        yield Entry("", address, error=reason)
        return
    escaped = local_path(address) != address  # a file:// address escapes odd characters
    for name, is_folder in sorted(found, key=lambda entry: (natural(entry[0]), entry[0])):
        if name and not name.startswith(".") and not is_dropping(name):
            shown = quote_from_bytes(os.fsencode(name)) if escaped else name
            yield Entry(name, f"{address}/{shown}", is_folder)


def _select(address: str, parts: list[str]) -> Iterator[Entry]:
    part, *rest = parts
    for entry in _scan(address):
        if entry.error:
            yield entry
        elif fnmatch.fnmatchcase(entry.name, part):
            if not rest:
                yield entry
            elif entry.is_folder:
                yield from _select(entry.path, rest)
