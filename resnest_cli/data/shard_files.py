"""Tar shards as files: opened or fetched, and their photos with their classes, still encoded.

A photo is a key with an image and its class: `0001.jpg` and `0001.cls`, which holds the index as a
decimal number. Other files of a key are passed over. The webdataset library says which files belong
together. tarfile ends quietly where a header is damaged or the file stops between two members: so
the mark at the end is looked for, and photos are counted.

A remote shard is fetched whole into a temporary file before any of it is used, by the same download
as weights, and in the end the size and the SHA-256 of the index must fit. So a shard is all there
or an error. The file has no name once it is open: it goes when it was read, and with the process.
The next few shards are fetched while one is read. Each pass fetches them anew; the room needed is
that of a few shards for each process.
"""

import hashlib
import lzma
import re
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from resnest_cli.errors import DownloadError, ResnestError, UsageError, limit_reached, need
from resnest_cli.files import reading
from resnest_cli.images.sources import EXTENSIONS
from resnest_cli.net import Access, HttpError, Patience, without_login
from resnest_cli.net.download import Place, download
from resnest_cli.paths import is_http
from resnest_cli.progress import checking, silent
from resnest_cli.text import one_line

LABEL = "cls"
PHOTOS = frozenset(extension[1:] for extension in EXTENSIONS)

# What tarfile and the decompressors raise on damaged files.
_DAMAGE = (
    tarfile.TarError, OSError, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError,
)  # fmt: skip
_CUT = "unexpected end of data"
_FILES = PHOTOS | {LABEL}
_HIDDEN = re.compile(r"__[^/]*__($|/)")  # webdataset's own
_MOST_LABEL = 1024  # bytes of a class that are looked at
_MOST_DIGITS = 18
_CHUNK = 2**26
AHEAD = 3  # shards that are fetched while another is read
_LARGEST = 2**40  # bytes; of a shard whose size no index knows
_MOST_TEXT = 2**30  # bytes; an index has a kilobyte or more for each shard


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file: a name, or a path or an http(s) address once it was found.

    `photos` are in it; the file has `size` bytes, and `sha256`, "" where it is not known. `classes`
    has (index, photos) of each class that has any; training drops it, for it can be large.
    """

    place: str
    photos: int
    size: int
    sha256: str = ""
    classes: tuple[tuple[int, int], ...] = ()

    @property
    def remote(self) -> bool:
        """Whether it is behind an address."""
        return is_http(self.place)

    @property
    def title(self) -> str:
        """The place for messages: without the login that an address may carry."""
        return without_login(self.place) if self.remote else self.place

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.place.rpartition("/")[2]


class Files:
    """The shards of one pass, to be opened in this order; to be closed in the end."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._fetched: dict[int, Future[BinaryIO]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._closed = threading.Event()

    def open(self, place: int) -> BinaryIO:
        """The shard with this place among them, from its beginning; to be closed by the caller.

        Raises:
            ResnestError: it is not there, or has not the size or the bytes that it should have.
        """
        shard = self._shards[place]
        if not shard.remote:
            return open_local(shard)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="shards")
        for ahead in range(place, min(place + 1 + AHEAD, len(self._shards))):
            if self._shards[ahead].remote and ahead not in self._fetched:
                try:
                    future = self._pool.submit(fetch, self._shards[ahead], self._closed)
                except RuntimeError as error:  # this machine, or its container, has no thread left
                    why = limit_reached(error) or f"{error}."
                    raise _cannot_fetch(self._shards[ahead], why) from error
                self._fetched[ahead] = future
        return self._fetched.pop(place).result()

    def give_up(self) -> None:
        """Ends all downloads soon; may be called from another thread."""
        self._closed.set()

    def close(self) -> None:
        """Gives up what is still being fetched."""
        self.give_up()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for future in self._fetched.values():
            if not future.cancelled() and future.exception() is None:
                future.result().close()
        self._fetched.clear()


def open_local(shard: Shard) -> BinaryIO:
    """A shard on disk."""
    moved = "If the shards were moved, a run goes on with --resume DATA."
    with reading(shard.place, then=moved):
        check_size(shard, Path(shard.place).stat().st_size)
        return Path(shard.place).open("rb")


def check_size(shard: Shard, size: int) -> None:
    """Raises ResnestError for a shard that is shorter or longer than its index says."""
    if size != shard.size:
        raise ResnestError(
            f"{shard.title}: has {size:,} bytes, not the {shard.size:,} that are in its index: it "
            "is truncated or was changed. Copy it anew, or pack it again."
        )


def _cannot_fetch(shard: Shard, why: str) -> ResnestError:
    return ResnestError(f"{shard.title}: the shard cannot be fetched: {why}")


class _GivenUpError(Exception):
    """Nobody waits for this download any more."""


def fetch(shard: Shard, closed: threading.Event | None = None) -> BinaryIO:
    """A remote shard in a file without a name; `closed` gives the download up."""
    given_up = closed or threading.Event()

    def pause(seconds: float = 0.0) -> None:
        if given_up.wait(seconds):
            raise _GivenUpError

    watched = nullcontext(checking(silent, pause))
    try:
        with tempfile.TemporaryDirectory(prefix="resnest-shard-") as folder:
            target = Path(folder) / (hashlib.sha256(shard.place.encode()).hexdigest()[:16] + ".tar")
            place = Place(target, shard.sha256, "TMPDIR", shard.size or _LARGEST)
            access = Access(patience=Patience(sleep=pause), progress=lambda _: watched)
            download(shard.place, place, access)
            if shard.size:
                check_size(shard, target.stat().st_size)
            return target.open("rb")
    except DownloadError as error:
        raise _cannot_fetch(shard, f"{error}.") from error
    except OSError as error:
        if limit := limit_reached(error):
            raise _cannot_fetch(shard, limit) from error
        raise ResnestError(
            f"{shard.title}: the shard has no place in the temporary folder: "
            f"{error.strerror or error}. Set TMPDIR to a folder with space for a few shards."
        ) from error


def fetch_text(address: str) -> bytes | None:
    """A small file, such as an index; None where the server has none of that name."""
    from resnest_cli.images.remote import fetch as fetch_bytes

    try:
        return fetch_bytes(address, _MOST_TEXT, Patience(total=600.0, attempts=3, pause=0.5))
    except HttpError as error:
        if error.status in {403, 404, 410}:
            return None
        raise UsageError(f"{without_login(address)} cannot be fetched: {error}.") from error


class EncodedPhoto(NamedTuple):
    """An encoded photo of a shard, its class, and its name for messages: shard and key."""

    name: str
    label: int
    data: bytes


class _Bounded:
    """A file that is never asked for more than it has.

    tarfile reads whatever size a header declares, and Python takes the memory for it first.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        self.seek, self.tell = file.seek, file.tell
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        return self._file.read(min(size, self.size) if size >= 0 else size)


def tar_iterators() -> Any:
    """webdataset's module that reads tar files."""
    need("webdataset", "reading or writing tar shards")
    from webdataset import tariterators

    return tariterators


def read_photos(shard: Shard, file: BinaryIO, classes: int) -> Iterator[EncodedPhoto]:
    """All photos of a shard, in its order; `classes` is how many there are."""
    done = 0
    for photo in shard_photos(shard.title, file, classes=classes):
        if done == shard.photos:
            raise ResnestError(
                f"{shard.title}: has more photos than the {shard.photos:,} that its index says. "
                "Was it changed? Pack the photos again."
            )
        yield photo
        done += 1
    if done < shard.photos:
        raise _damaged(shard.title, f"it ends after {done:,} of {shard.photos:,} photos")


def shard_photos(
    title: str, file: BinaryIO, *, classes: int | None = None, headers_only: bool = False
) -> Iterator[EncodedPhoto]:
    """The photos of a shard, grouped as webdataset groups their files; `title` is for messages.

    `classes` is how many there are, if that is known. With `headers_only` photos have no bytes, and
    of a file that is not compressed only headers and classes are read.
    """
    try:
        for sample in tar_iterators().group_by_keys(_files(title, file, headers_only)):
            name = f"{title}: {sample['__key__']}"
            extension = next((extension for extension in sample if extension in PHOTOS), None)
            if extension is None:
                raise ResnestError(f"{name} has a class, but no photo.")
            label = _label(name, sample.get(LABEL), classes)
            yield EncodedPhoto(f"{name}.{extension}", label, sample[extension])
    except _DAMAGE as error:
        known = getattr(error, "strerror", None) or next(iter(error.args), type(error).__name__)
        raise _damaged(title, one_line(str(known))) from error


def _files(title: str, file: BinaryIO, headers_only: bool) -> Iterator[dict[str, Any]]:
    """Photos and classes as `webdataset.tariterators.tar_file_iterator` gives them."""
    split, bounded = tar_iterators().base_plus_ext, _Bounded(file)
    with tarfile.open(fileobj=bounded, mode="r:*", encoding="utf-8") as archive:  # type: ignore[call-overload]
        plain = archive.fileobj  # what it may be compressed to with gzip, bzip2 or xz
        while (member := archive.next()) is not None:
            archive.members = []  # else it keeps them all
            end, sparse = member.offset_data + member.size, member.issparse()
            if plain is bounded and end > bounded.size and member.isreg() and not sparse:
                raise tarfile.ReadError(_CUT)
            extension = (split(member.name)[1] or "").lower()
            if not member.isreg() or extension not in _FILES or _HIDDEN.match(member.name):
                continue
            if sparse:
                raise ResnestError(
                    f"{title}: {member.name} is a sparse member, as `tar --sparse` writes files "
                    "with holes. Pack it again without --sparse, or with `resnest pack`."
                )
            most = _MOST_LABEL if extension == LABEL else 0 if headers_only else member.size
            plain.seek(member.offset_data)
            data = _read(plain, min(member.size, most))
            yield {"fname": member.name, "data": data, "__url__": title}
        plain.seek(archive.offset)
        if plain.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it does not end as a tar file does")


def _read(file: BinaryIO, size: int) -> bytes:
    """So many bytes, in parts: what a header says is not to be trusted with memory."""
    parts = []
    while size:
        parts.append(file.read(min(size, _CHUNK)))
        size -= len(parts[-1])
        if not parts[-1]:
            raise tarfile.ReadError(_CUT)
    return b"".join(parts)


def _damaged(title: str, why: str) -> ResnestError:
    return ResnestError(
        f"{title}: the shard is truncated or damaged ({why}). Copy it anew, or pack it again."
    )


def _label(name: str, text: bytes | None, classes: int | None) -> int:
    """The class in a `.cls` file; raises ResnestError where it is not the index of one."""
    if text is None:
        raise ResnestError(f"{name}.cls is missing: every photo needs its class in such a file.")
    word = text.strip()
    if not (word.isdigit() and word.isascii()) or len(word) > _MOST_DIGITS:
        shown = one_line(word[:40].decode("utf-8", "replace"))
        raise ResnestError(f"{name}.cls: holds {shown!r}, not the index of a class, such as 0.")
    label = int(word)
    if classes is not None and label >= classes:
        raise ResnestError(f"{name}.cls: class {label}, but there are only {classes}.")
    return label
