"""A shard's bytes -> its photos, one after the other, through the webdataset library.

A photo is a key with an image and its class: `0001.jpg` and `0001.cls`, which holds the index as a
decimal number. Other files of a key are passed over. Nothing is decoded here.

tarfile ends quietly where a header is damaged or the file stops between two members. So the photos
are counted, and another number than is known is an error that names the shard.
"""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from resnest_cli.errors import ResnestError, UsageError, one_line
from resnest_cli.images.sources import EXTENSIONS
from resnest_cli.shards.index import Shard

LABEL = "cls"
PHOTOS = frozenset(extension[1:] for extension in EXTENSIONS)

# What tarfile and the decompressors raise on damaged files.
DAMAGE = (
    tarfile.TarError, OSError, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError,
)  # fmt: skip
_MOST_DIGITS = 18


class RawPhoto(NamedTuple):
    """An encoded photo, its class, and its name for messages: shard and key."""

    name: str
    label: int
    data: bytes


def tar_iterators() -> Any:
    """webdataset's module that reads tar files.

    Raises:
        UsageError: the library is not installed.
    """
    try:
        from webdataset import tariterators
    except ImportError as error:
        raise UsageError(
            "tar shards are read and written by the webdataset library: "
            "pip install 'resnest-cli[shards]'"
        ) from error
    return tariterators


def wanted(name: str) -> bool:
    """Whether a member is a photo or a class."""
    extension = tar_iterators().base_plus_ext(name)[1]
    return extension is not None and extension.lower() in PHOTOS | {LABEL}


def read_photos(shard: Shard, file: BinaryIO, classes: int) -> Iterator[RawPhoto]:
    """All photos of a shard, in its order; `classes` is how many there are.

    Raises:
        ResnestError: the file is truncated or damaged, or has other photos than it should have.
    """
    tars = tar_iterators()
    source = [{"url": shard.title, "stream": file}]
    done = 0
    try:
        files = tars.tar_file_expander(source, select_files=wanted)
        for sample in tars.group_by_keys(files):
            if done == shard.photos:
                raise ResnestError(
                    f"{shard.title}: has more photos than the {shard.photos:,} that its index "
                    "says. Was it changed? Pack the photos again."
                )
            yield _photo(shard, sample, classes)
            done += 1
    except DAMAGE as error:
        raise damaged(shard.title, f"after {done:,} photos: {reason(error)}") from error
    if done < shard.photos:
        raise damaged(shard.title, f"it ends after {done:,} of {shard.photos:,} photos")


def damaged(place: str, why: str) -> ResnestError:
    """The error of a shard that cannot be read to its end."""
    return ResnestError(
        f"{place}: the shard is truncated or damaged ({why}). Copy it anew, or pack it again."
    )


def reason(error: BaseException) -> str:
    """What the library says, without what webdataset appends to it."""
    known = getattr(error, "strerror", None) or next(iter(error.args), type(error).__name__)
    text = str(known)
    return one_line(text.partition(" @ ")[0])


def _photo(shard: Shard, sample: dict[str, Any], classes: int) -> RawPhoto:
    name = f"{shard.title}: {sample['__key__']}"
    image = next((extension for extension in sample if extension in PHOTOS), None)
    if image is None:
        raise ResnestError(f"{name} has a class, but no photo.")
    return RawPhoto(f"{name}.{image}", label_of(name, sample.get(LABEL), classes), sample[image])


def label_of(name: str, text: bytes | None, classes: int | None = None) -> int:
    """The class in a `.cls` file.

    Raises:
        ResnestError: there is none, or it is not the index of a class.
    """
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
