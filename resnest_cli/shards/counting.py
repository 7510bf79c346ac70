"""How many photos of which class a shard without an index has.

Of a file on disk that is not compressed only headers and classes are read, a seek for each member.
Shards behind addresses are fetched whole for it, once: with 100 million photos that is a day's
work, and `resnest pack`, or an `index.json` from it, spares it.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from resnest_cli.errors import ResnestError
from resnest_cli.inference.cores import usable_cores
from resnest_cli.shards.fetching import AHEAD, fetch
from resnest_cli.shards.index import Shard, is_remote
from resnest_cli.shards.reading import (
    DAMAGE,
    LABEL,
    PHOTOS,
    damaged,
    label_of,
    reason,
    tar_iterators,
    wanted,
)

Progress = Any

_BLOCK = tarfile.BLOCKSIZE
_MOST_LABEL = 1024  # bytes of a class that are looked at


def count_shards(places: Sequence[str], progress: Progress) -> tuple[Shard, ...]:
    """A record of each of these shards, in order; `progress` is told how many are done.

    Raises:
        ResnestError: one is not there, truncated, damaged, or has photos without a class.
    """
    tar_iterators()
    threads = AHEAD if any(map(is_remote, places)) else usable_cores()
    found = []
    with ThreadPoolExecutor(threads, thread_name_prefix="count") as pool:
        for shard in pool.map(count_shard, places):
            found.append(shard)
            progress(len(found), len(places))
    return tuple(found)


def count_shard(place: str) -> Shard:
    """The record of one shard.

    Raises:
        ResnestError: as `count_shards`.
    """
    with closing(_opened(place)) as file:
        labels = Counter(label for _, label in _labels(_title(place), file))
    if not labels:
        raise ResnestError(
            f"{_title(place)}: has no photos; each needs an image and its class, such as 01.jpg "
            "and 01.cls."
        )
    return Shard(place, labels.total(), file.size, classes=tuple(sorted(labels.items())))


def name_of(place: str, label: int) -> str:
    """The first photo of this class in a shard, for a message: shard and key.

    Raises:
        ResnestError: as `count_shards`.
    """
    with closing(_opened(place)) as file:
        return next(name for name, found in _labels(_title(place), file) if found == label)


def _title(place: str) -> str:
    return Shard(place, 0, 0).title


def _opened(place: str) -> "_Whole":
    try:
        file = fetch(Shard(place, 0, 0)) if is_remote(place) else Path(place).open("rb")  # noqa: SIM115
        return _Whole(file)
    except OSError as error:
        raise ResnestError(f"{place}: cannot be read: {error.strerror or error}.") from error


class _Whole:
    """A file that is never asked for more than it has.

    tarfile reads whatever size a header declares, and Python takes the memory for it first.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        self.seek, self.tell, self.close = file.seek, file.tell, file.close
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        return self._file.read(min(size, self.size) if size >= 0 else size)


def _labels(place: str, file: _Whole) -> Iterator[tuple[str, int]]:
    """Names and classes of the photos, grouped as webdataset groups their files."""
    try:
        yield from _read_labels(place, file)
    except DAMAGE as error:
        raise damaged(place, reason(error)) from error


def _read_labels(place: str, file: Any) -> Iterator[tuple[str, int]]:
    tars = tar_iterators()
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        for sample in tars.group_by_keys(_members(place, archive)):
            name = f"{place}: {sample['__key__']}"
            if not any(extension in PHOTOS for extension in sample):
                raise ResnestError(f"{name} has a class, but no photo.")
            yield name, label_of(name, sample.get(LABEL))


def _members(place: str, archive: tarfile.TarFile) -> Iterator[dict[str, Any]]:
    """What webdataset's tar_file_iterator gives, without the photos' bytes."""
    for member in archive:
        if member.isreg() and not member.name.startswith("__") and wanted(member.name):
            if member.issparse():
                raise ResnestError(
                    f"{place}: {member.name} is a sparse member, as `tar --sparse` writes files "
                    "with holes. Pack it again without --sparse, or with `resnest pack`."
                )
            stream = archive.extractfile(member)
            is_label = member.name.lower().endswith(f".{LABEL}")
            data = stream.read(_MOST_LABEL) if is_label and stream is not None else b""
            yield {"fname": member.name, "data": data, "__url__": place}
        archive.members = []  # type: ignore[attr-defined]  # else it keeps them all
    _check_end(place, archive)  # here: before the last photo is looked at, which may be half


def _check_end(place: str, archive: tarfile.TarFile) -> None:
    """A tar file ends with blocks of zeros; tarfile also stops, quietly, where they are missing."""
    file: Any = archive.fileobj
    file.seek(archive.offset)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise damaged(place, "it does not end as a tar file does")
