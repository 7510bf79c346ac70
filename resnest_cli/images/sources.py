"""Inputs of the command line -> a lazy stream of image references.

Files, folders, quoted globs, a list file, http(s) addresses and one image on stdin, in any mix and
number. Nothing is decoded or fetched here, and nothing is remembered: a million inputs pass through
without being held at once. A file:// address of this machine is read as the path that it stands
for, and its records show that path. An archive stands for the photos in it, and a name that leads
on into one (`photos.zip/2024/a.jpg`) for a file or a folder there; see `archives`.

What is named explicitly always becomes a `Source`, even if it does not exist: its record says so.
Folders and globs give only known image extensions, pass over hidden names and what systems leave
behind (`folders.is_dropping`), and count the other files they skipped. As if the shell had expanded
it, a folder that a glob without `**` matches is read like a folder named explicitly.
"""

import codecs
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from resnest_cli.errors import ErrorKind, ImageError, UsageError
from resnest_cli.files import reading
from resnest_cli.images import folders
from resnest_cli.images.archives import KeptArchive, Member, open_archive, split
from resnest_cli.net import without_login
from resnest_cli.paths import is_file_url, is_http, local_path
from resnest_cli.text import count

if TYPE_CHECKING:
    from PIL import Image

    from resnest_cli.images.video import Moment

EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff",
    ".mpo", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".heic", ".heif",
))  # fmt: skip
VIDEOS = frozenset((
    ".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts",
    ".m2ts", ".wmv", ".flv", ".ogv",
))  # fmt: skip
_MAX_STDIN = 2**30
_CHUNK = 2**16  # bytes of a NUL-separated list read at a time


@dataclass(frozen=True, slots=True)
class Source:
    """One image to be read, or the reason why it cannot be.

    `name` is the `input` of its record. Exactly one of the others is set: the `path` of a file,
    the `url` of a photo, the `data` of a file that came on stdin, an `image` that is open already,
    or an `error` that goes on after the name, with its `kind`. With `member` the path is that of an
    archive, in which the header of the photo begins there; see `with_bytes`. `frame` says which
    picture it is of a file that has several; see `frames`.
    """

    name: str
    path: str | None = None
    url: str | None = None
    data: bytes | None = field(default=None, repr=False)
    image: "Image.Image | None" = field(default=None, repr=False)
    error: str | None = None
    kind: ErrorKind | None = None
    member: int | None = None
    frame: "int | Moment | None" = None

    @property
    def member_name(self) -> str:
        """What it is called in its archive."""
        name = self.name[len(self.path or "") + 1 :]
        return name if self.frame is None else name.rpartition("#")[0]


@dataclass(slots=True)
class SourceStats:
    """What was passed over so far; grows while the sources are read."""

    skipped: int = 0  # visible files in folders and globs without a known image extension

    def pass_over(self, name: str) -> None:
        """Counts a file unless it is a photo, or belongs to one: an XMP file."""
        self.skipped += not (is_photo(name) or name.lower().endswith(".xmp"))


def iter_sources(
    inputs: Iterable[str],
    *,
    recursive: bool = True,
    from_file: str | None = None,
    null_separated: bool = False,
    stdin: BinaryIO | None = None,
    stats: SourceStats | None = None,
    archives: bool = False,
    videos: bool = False,
) -> Iterator[Source]:
    """The images that the inputs stand for, one at a time, in the order of the inputs.

    Args:
        inputs: paths of files and folders, globs, http(s) addresses, or "-" for an image on stdin.
        recursive: read the folders inside folders, too.
        from_file: a file, or "-" for stdin, that lists further files, folders and addresses, one
            on each line, taken literally: no globs, no "-". They follow after `inputs`.
        null_separated: the list is separated by NUL bytes, as `find -print0` writes it.
        stdin: the standard input as a binary stream; None takes `sys.stdin`.
        stats: is counted up on the way.
        archives: read the photos in archives, too.
        videos: give the videos in folders and globs, too.

    Raises:
        UsageError: the list cannot be read (at once where that is seen without opening it, else
            while reading), or stdin would have to be both the list and an image.
    """
    if from_file is not None and from_file != "-":
        # Before a long run begins, and without opening: a pipe can be read only once.
        with _list_reading(from_file):
            status = os.stat(from_file)  # noqa: PTH116 - Path("") is a folder
        if stat.S_ISDIR(status.st_mode):
            text = f"the list of inputs {from_file} is a folder; name it as an input instead"
            raise UsageError(text)
    stream = stdin or getattr(sys.stdin, "buffer", None)
    reader = _Reader(recursive, archives, videos, stats or SourceStats(), stream)
    return reader.sources(inputs, from_file, null_separated)


def with_bytes(sources: Iterable[Source]) -> Iterator[Source]:
    """The same sources, but for those in archives: each with its bytes, or an error.

    In their order, and in one thread, so that a compressed archive is read once.
    """
    with closing(KeptArchive()) as kept:
        for source in sources:
            yield source if source.member is None else _filled(source, kept)


def _filled(source: Source, kept: KeptArchive) -> Source:
    assert source.path is not None
    assert source.member is not None
    try:
        data = kept.read(source.path, source.member_name, source.member)
    except ImageError as error:
        return Source(source.name, error=str(error), kind=error.kind)
    return replace(source, path=None, member=None, data=data)


@dataclass(frozen=True, slots=True)
class _Table:
    """The archive of which a file was named last: its files by name, and why there are no more."""

    path: str
    members: dict[str, list[Member]]
    failure: ImageError | None

    @classmethod
    def of(cls, path: str, members: Iterable[Member]) -> "_Table":
        """The table of all members."""
        table = dict[str, list[Member]]()
        try:
            for member in members:
                table.setdefault(member.name, []).append(member)
        except ImageError as error:
            return cls(path, table, error)
        return cls(path, table, None)

    def find(self, inner: str) -> Iterator[Member]:
        """The members of this name; all of them if there is none."""
        yield from self.members.get(inner) or chain.from_iterable(self.members.values())
        if self.failure is not None and inner not in self.members:
            raise self.failure


@dataclass(slots=True)
class _Reader:
    """Turns inputs into sources. No `stdin` where the program was started without one."""

    recursive: bool
    archives: bool
    videos: bool
    stats: SourceStats
    stdin: BinaryIO | None
    stdin_was_read: bool = False
    table: "_Table | None" = None

    def sources(
        self, inputs: Iterable[str], from_file: str | None, null_separated: bool
    ) -> Iterator[Source]:
        named = ((text, False) for text in inputs)
        lines = () if from_file is None else self.listed(from_file, null_separated)
        for text, literal in chain(named, ((line, True) for line in lines)):
            source = from_name(text)
            if text == "-" and not literal:
                if from_file == "-":
                    raise UsageError("standard input (-) cannot be both an image and their list")
                yield self.stdin_image()
            elif source.path is None:
                yield source
            elif not literal and folders.is_glob(source.path):
                yield from self.glob(source.path)
            elif folders.is_folder(source.path):
                yield from self.known(folders.walk(source.path, recursive=self.recursive))
            elif self.archives and (place := split(source.path)) is not None:
                yield from self.archived(*place)
            else:
                yield source

    def archived(self, path: str, inner: str) -> Iterator[Source]:
        """A file in an archive, or all photos in a folder of it, "" for all that there are."""
        found, inner = False, inner.rstrip("/")
        try:
            for member in self.members(path, inner):
                if self.wanted(member.name, inner):
                    found, name = True, f"{path}/{member.name}"
                    if member.refused:
                        yield Source(name, error=member.refused, kind="unreadable")
                    else:
                        yield Source(name, path=path, member=member.offset)
        except ImageError as error:
            yield Source(path, error=str(error), kind=error.kind)
        if inner and not found:
            why = "does not exist in this archive, or has no photo in it"
            yield Source(f"{path}/{inner}", error=why, kind="missing")

    def members(self, path: str, inner: str) -> Iterator[Member]:
        """The files in an archive; where single ones are named, a table of them is kept."""
        if not inner:
            with closing(open_archive(path)) as archive:
                yield from archive.members()
            return
        if self.table is None or path != self.table.path:
            self.table = _Table.of(path, self.members(path, ""))
        yield from self.table.find(inner)

    def wanted(self, name: str, inner: str) -> bool:
        """Whether a member is what is asked for; counts the files that are no photos."""
        if name == inner:
            return True
        if inner and not name.startswith(f"{inner}/"):
            return False
        parts = name[len(inner) :].strip("/").split("/")
        if any(folders.is_hidden(part) for part in parts if part != "..") or not (
            self.recursive or len(parts) == 1
        ):
            return False
        self.stats.pass_over(name)
        return is_photo(name)

    def stdin_image(self) -> Source:
        why = "which is closed"
        if self.stdin_was_read:
            why = "which was read already"
        elif self.stdin is not None:
            try:
                return Source("-", data=self.stdin.read(_MAX_STDIN + 1))  # decoding refuses more
            except (OSError, ValueError) as error:
                why = f"which cannot be read: {error}"
            finally:
                self.stdin_was_read = True
        return Source("-", error=f"is standard input, {why}", kind="unreadable")

    def glob(self, pattern: str) -> Iterator[Source]:
        before = self.stats.skipped
        found = self.known(folders.expand(pattern))
        if (first := next(found, None)) is not None:
            yield first
            yield from found
            return
        skipped = self.stats.skipped - before
        files = f"{count(skipped, 'file')}, none of them an image" if skipped else "no file"
        yield Source(pattern, error=f"is a pattern that matches {files}", kind="matched nothing")

    def known(self, entries: Iterable[folders.Entry]) -> Iterator[Source]:
        """Sources of the entries with a known image extension; the others are counted."""
        for entry in entries:
            if entry.error:
                yield Source(entry.path, error=entry.error, kind="unreadable")
            elif entry.is_folder:
                yield from self.known(folders.walk(entry.path, recursive=self.recursive))
            elif is_photo(entry.name) or (self.videos and is_video(entry.name)):
                yield Source(entry.path, path=entry.path)
            else:
                self.stats.pass_over(entry.name)

    def listed(self, from_file: str, null_separated: bool) -> Iterator[str]:
        """The lines of a list, literally but for the end of line; blank lines are skipped."""
        if from_file == "-" and self.stdin is None:
            raise UsageError("cannot read the list of inputs: standard input is closed")
        with ExitStack() as stack:
            stack.enter_context(_list_reading(from_file))
            stream = self.stdin
            if from_file != "-" or stream is None:
                stream = stack.enter_context(Path(from_file).open("rb"))
            for number, line in enumerate(_null_separated(stream) if null_separated else stream):
                entry = line if null_separated else line.removesuffix(b"\n").removesuffix(b"\r")
                if number == 0:
                    if entry.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        raise UsageError(f"the list of inputs {from_file} is UTF-16; use UTF-8")
                    entry = entry.removeprefix(codecs.BOM_UTF8)
                if b"\0" in entry:
                    raise UsageError(
                        f"the list of inputs {from_file} has a NUL byte in line {number + 1}: is "
                        "it a list of names? One that `find -print0` wrote needs -0."
                    )
                if entry if null_separated else entry.strip():
                    # Bytes that are no text come out as they were when the file is opened.
                    yield entry.decode(sys.getfilesystemencoding(), "surrogateescape")


def _list_reading(from_file: str) -> AbstractContextManager[None]:
    return reading(f"the list of inputs {from_file}", UsageError, damage=(ValueError,))


def _null_separated(stream: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(_CHUNK):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole
    yield rest


def from_name(text: str) -> Source:
    """The source of a path or an address; its record shows no password that this may hold."""
    if is_http(text):
        return Source(without_login(text) if "@" in text else text, url=text)
    if not is_file_url(text):
        return Source(text, path=text)
    path = local_path(text)
    if is_file_url(path):
        error = "is an address of a file on another machine; file:/// begins one of this"
        return Source(text, error=error, kind="missing")
    return Source(path, path=path)


def is_photo(name: str) -> bool:
    """Whether a name ends as those of photos do."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122


def is_video(name: str) -> bool:
    """Whether a name ends as those of videos do."""
    return os.path.splitext(name)[1].lower() in VIDEOS  # noqa: PTH122


def is_one(text: str) -> bool:
    """Whether an input stands for exactly one image: not a folder, a glob or an archive."""
    text = local_path(text)
    if is_http(text) or text == "-":
        return True
    if (place := split(text)) is not None:
        return is_photo(place[1])
    return not folders.is_glob(text) and not folders.is_folder(text)
