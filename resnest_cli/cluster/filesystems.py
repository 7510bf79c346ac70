"""A path or an address -> a pyarrow file system and a path on it; and files that appear whole.

pyarrow knows file://, s3://, gs://, abfs:// and hdfs://; any other scheme is fsspec's, which says
what must be installed for it.
"""

import os
import re
import secrets
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

from resnest_cli.errors import ResnestError, UsageError, one_line
from resnest_cli.paths import local_path

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_RENAMES = {"local", "hdfs"}  # a file appears there while it is written; elsewhere when it is whole


def is_address(text: str) -> bool:
    """Whether this names a file system; http(s) addresses are photos, not file systems."""
    return _ADDRESS.match(text) is not None and not text.lower().startswith(("http://", "https://"))


def opened(text: str) -> "tuple[FileSystem, str]":
    """The file system of a path or an address, and the path on it.

    Raises:
        UsageError: no such scheme, or what it needs is not installed.
        ResnestError: the file system cannot be reached.
    """
    if not is_address(text):
        return _of("file:///")[0], os.path.abspath(text)  # noqa: PTH100 - keeps odd bytes
    path = local_path(text)
    if not is_address(path):
        return _of("file:///")[0], path.rstrip("/") or "/"
    scheme, _, rest = text.partition("://")
    host = rest.partition("/")[0]
    if scheme.lower() == "file":
        raise ResnestError(f"{text}: cannot be reached: a file:// address is of this machine.")
    system, by_address = _of(f"{scheme}://{host}/")
    if by_address is not None:
        return system, by_address(text)
    return system, rest.rstrip("/")


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


def address_of(name: str, folder: str) -> str:
    """The address of a file in a folder; in a file:// address odd characters are escaped."""
    if local_path(folder) != folder:
        name = quote_from_bytes(os.fsencode(name))
    return f"{folder}/{name}"


def joined(folder: str, *names: str) -> str:
    """A path below a folder of any file system."""
    return "/".join((folder.rstrip("/"), *names))


def read(system: "FileSystem", path: str) -> bytes | None:
    """The bytes of a file; None where there is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with system.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def put(system: "FileSystem", path: str, data: Any) -> None:
    """Writes a file that is there as a whole or not at all, in place of one of that name.

    Raises:
        OSError: it cannot be written.
    """
    renames = system.type_name in _RENAMES
    place = f"{path}.{secrets.token_hex(4)}.tmp" if renames else path
    try:
        with system.open_output_stream(place, compression=None) as stream:
            stream.write(data)
        if renames:
            if system.type_name == "local":
                _sync(place)
            system.move(place, path)
    except BaseException:
        if renames:
            with suppress(OSError):
                system.delete_file(place)
        raise


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(system: "FileSystem", path: str) -> None:
    """Removes a file, if it is there.

    Raises:
        OSError: the system refuses.
    """
    with suppress(FileNotFoundError):
        system.delete_file(path)


def names_in(system: "FileSystem", folder: str) -> list[str]:
    """The names of the files of a folder; none where there is no such folder.

    Raises:
        OSError: it cannot be read.
    """
    from pyarrow import fs

    selector = fs.FileSelector(folder, allow_not_found=True)
    return [i.base_name for i in system.get_file_info(selector) if i.type == fs.FileType.File]
