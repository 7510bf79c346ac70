"""Photos inside .zip and .tar archives of this machine: their names, and their bytes.

    split("photos.zip/2024/a.jpg")       ->  ("photos.zip", "2024/a.jpg")
    open_archive("photos.zip").members() ->  Member("2024/a.jpg", the place of its header), ...

Nothing is unpacked to a disk, so that a name which leads out of the archive could do no harm; it
is refused all the same, and so are encrypted members and links. A member is found again by the
place of its header and by its name: an archive that was written anew in the meantime gives errors,
not other photos. A compressed tar can only be read from its beginning: whoever takes its members in
their order reads it once. The table of contents of a .zip is held in memory, 1 kB for each member.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

from resnest_cli.errors import ImageError, reason
from resnest_cli.images import damaged
from resnest_cli.paths import is_file
from resnest_cli.text import one_line

if TYPE_CHECKING:
    import tarfile
    from zipfile import ZipInfo

_SUFFIX = re.compile(r"\.(zip|tar(\.(gz|bz2|xz))?|tgz|tbz2?|txz)(?=[/\\]|$)", re.IGNORECASE)
_LEADS_OUT = re.compile(r"^([/\\]|[A-Za-z]:)|(^|[/\\])\.\.([/\\]|$)")
_KINDS = {
    b"PK\3\4": "zipfile", b"PK\5\6": "zipfile",  # the second is empty
    b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "lzma",
}  # fmt: skip
_MOST = 2**28  # bytes of a member; several are held at once
_MOST_AT_ONCE = 2**24  # that a tar may ask for: tarfile reads headers of whatever size they declare
_CHUNK = 2**16
_CAREFUL = 2**12  # of what zipfile expands without a limit: bzip2 and LZMA, to 80 MB at most
_ENCRYPTED = 0x1  # flag of a zip's member
_BLOCK = bytes(512)  # the end of a tar
_ENDS_EARLY = "is an archive that is truncated or damaged: more photos may have been in it"


class Member(NamedTuple):
    """A file in an archive: its name there, the place of its header, and why it is not read."""

    name: str
    offset: int
    refused: str | None = None


class Archive(Protocol):
    """An open archive; not for several threads at once."""

    def members(self) -> Iterator[Member]:
        """All files in it, in its order; raises ImageError where it cannot be read further."""

    def read(self, name: str, offset: int) -> bytes:
        """The bytes of a member; raises ImageError, which goes on after the member's name."""

    def close(self) -> None:
        """Closes its file."""


def split(text: str) -> tuple[str, str] | None:
    """A name as the path of an archive that is there, and a name in it; "" stands for all of it.

    None for anything else: what exists under the whole name is no member, whatever it looks like,
    and a file is no archive if its content is something else.
    """
    for found in _SUFFIX.finditer(text):
        if found.end() < len(text) and os.path.lexists(text):
            return None
        path = text[: found.end()]
        if is_file(path):
            with suppress(OSError):  # whoever reads it says why it cannot be read
                if _kind(path) is not None:
                    return path, text[found.end() + 1 :].replace(os.sep, "/")
            return None
    return None


def _kind(path: str) -> str | None:
    """What an archive has to be opened with: a module's name."""
    with Path(path).open("rb") as file:
        head = file.read(512)
    if head[257:262] == b"ustar":
        return "tarfile"
    return next((name for magic, name in _KINDS.items() if head.startswith(magic)), None)


def open_archive(path: str) -> Archive:
    """The archive at a path.

    Raises:
        ImageError: it is damaged, or cannot be read; goes on after the path.
    """
    with _explained(), ExitStack() as stack:
        kind = _kind(path)
        if kind is None:
            raise _changed()
        file = stack.enter_context(Path(path).open("rb"))
        archive = _Zip(file) if kind == "zipfile" else _Tar(file, kind)
        stack.pop_all()  # which the archive closes
        return archive


class KeptArchive:
    """The archive that was read from last, which stays open for the next member."""

    def __init__(self) -> None:
        self._path = ""
        self._archive: Archive | None = None

    def read(self, path: str, name: str, offset: int) -> bytes:
        """The bytes of a member of the archive at a path; see `Archive.read`."""
        if path != self._path:
            self.close()
            self._archive, self._path = open_archive(path), path
        assert self._archive is not None
        return self._archive.read(name, offset)

    def close(self) -> None:
        """Closes it."""
        if self._archive is not None:
            self._archive.close()
        self._path, self._archive = "", None


class _Zip:
    """A .zip; its table of contents is read at once."""

    def __init__(self, file: IO[bytes]) -> None:
        from zipfile import ZipFile

        self._file, self._zip = file, ZipFile(file)

    def members(self) -> Iterator[Member]:
        for info in self._zip.infolist():
            if not info.is_dir():
                encrypted = info.flag_bits & _ENCRYPTED
                refused = "is encrypted: unpack the archive with its password" if encrypted else ""
                found = refused or _about_name(info.filename) or _about_size(info.file_size)
                yield Member(info.filename, info.header_offset, found)

    @cached_property
    def _by_offset(self) -> "dict[int, ZipInfo]":
        return {info.header_offset: info for info in self._zip.infolist()}

    def read(self, name: str, offset: int) -> bytes:
        info = self._by_offset.get(offset)
        if info is None or info.filename != name:
            raise _changed()
        with _explained(), self._zip.open(info) as file:
            plain = info.compress_type in {0, 8}  # stored or deflated
            return _read(file, info.file_size, _CHUNK if plain else _CAREFUL)

    def close(self) -> None:
        self._zip.close()
        self._file.close()


class _Tar:
    """A .tar, plain or compressed."""

    def __init__(self, file: IO[bytes], kind: str) -> None:
        import tarfile

        self._raw = file
        if kind != "tarfile":  # what it is compressed with
            file = import_module(kind).open(file)
        self._file: Any = _Bounded(file)
        self._tar: Any = tarfile.TarFile(fileobj=self._file, encoding="utf-8")  # type: ignore[arg-type]
        self._damage = tarfile.TarError

    def members(self) -> Iterator[Member]:
        with _explained():
            self._tar.offset = 0
            while (info := self._next()) is not None:
                if not info.isdir():
                    link = None if info.isreg() else "is a link or a device in the archive"
                    name = _without_dot(info.name)
                    refused = _about_name(name) or link or _about_size(info.size)
                    yield Member(name, info.offset, refused)
            self._file.seek(self._tar.offset)
            # Where a header is damaged or cut, tarfile ends as if that were the end mark.
            if self._file.read(len(_BLOCK)) != _BLOCK:
                raise ImageError(_ENDS_EARLY, kind="truncated")

    def _next(self) -> "tarfile.TarInfo | None":
        self._tar.members, self._tar.firstmember = [], None
        if self._tar.offset == 0:  # where tarfile believes to stand
            self._file.seek(0)
        try:
            found: tarfile.TarInfo | None = self._tar.next()
        except self._damage as error:
            raise ImageError(_ENDS_EARLY, kind="truncated") from error
        return found

    def read(self, name: str, offset: int) -> bytes:
        with _explained():
            self._tar.offset = offset
            info = self._next()
            file = self._tar.extractfile(info) if info and _without_dot(info.name) == name else None
            if info is None or file is None:
                raise _changed()
            with file:
                return _read(file, info.size, _CHUNK)

    def close(self) -> None:
        self._tar.close()
        self._file.close()
        self._raw.close()


class _Bounded:
    """A file that is never asked for more at once than there is memory for."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int) -> bytes:
        """At most so many bytes."""
        if not 0 <= size <= _MOST_AT_ONCE:
            raise ImageError("has a header of an absurd size", kind="damaged")
        data: bytes = self._file.read(size)
        return data


def _without_dot(name: str) -> str:
    """The name of a tar's member as people write it: `tar -c .` puts ./ in front of all."""
    return name.removeprefix("./")


def _about_name(name: str) -> str | None:
    leads_out = "has a name that leads out of the archive, as no photo's does: it is not read"
    return leads_out if _LEADS_OUT.search(name) else None


def _about_size(size: int) -> str | None:
    if size <= _MOST:
        return None
    return f"unpacks to {size / 1e6:,.0f} MB, more than the {_MOST / 1e6:,.0f} MB that are read"


def _read(file: IO[bytes], size: int, chunk: int) -> bytes:
    """So many bytes, in parts: what a header says is not to be trusted with memory."""
    parts, left = list[bytes](), size
    while left > 0 and (part := file.read(min(left, chunk))):
        parts.append(part)
        left -= len(part)
    if left > 0:
        raise ImageError("is truncated: the archive ends before it", kind="truncated")
    return b"".join(parts)


def _changed() -> ImageError:
    return ImageError("is not where it was: the archive has changed", kind="missing")


@contextmanager
def _explained() -> Iterator[None]:
    """Turns whatever a broken archive makes of its readers into an `ImageError`."""
    try:
        yield
    except (ImageError, GeneratorExit):
        raise
    except EOFError as error:
        raise ImageError(_ENDS_EARLY, kind="truncated") from error
    except NotImplementedError as error:
        why = one_line(str(error)).lower()
        text = f"cannot be read inside its archive: {why}; unpack it"
        raise ImageError(text, kind="unreadable") from error
    except OSError as error:
        if error.errno is None:
            raise damaged(one_line(str(error))) from error
        text = f"cannot be read: {reason(error).lower()}"
        raise ImageError(text, kind="unreadable") from error
    except Exception as error:
        raise damaged(one_line(str(error)) or type(error).__name__) from error
