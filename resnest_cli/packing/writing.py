"""One shard: written, read back, compared, and only then given its name.

webdataset's TarWriter writes; with a fixed time and no owner the bytes follow from the photos
alone. The file is on the disk before it is read back: count, classes and the SHA-256 of every photo
must be those that were read from the sources.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from resnest_cli.errors import ResnestError, cannot_write
from resnest_cli.files import atomic_file
from resnest_cli.packing.layout import Entry, Planned, gone
from resnest_cli.packing.parallel import Tell
from resnest_cli.shards.index import Shard
from resnest_cli.shards.reading import LABEL, read_photos, tar_iterators


def write_shard(folder: Path, planned: Planned, classes: int, tell: Tell) -> Shard:
    """Writes and verifies a shard; its record.

    Raises:
        ResnestError: a photo or the disk cannot be read or written, or what was read back differs.
    """
    path = folder / planned.name
    try:
        with atomic_file(path) as file:
            digests = list(_write(file, planned, tell))
            file.flush()
            os.fsync(file.fileno())
            _forget(file)
            shard = _record(planned, Path(file.name))
            _verify(Path(file.name), path, shard, planned, digests, classes)
    except OSError as error:
        raise ResnestError(
            f"{cannot_write(path, error)} The same command goes on with what is there."
        ) from error
    return shard


def is_whole(folder: Path, planned: Planned, tell: Tell) -> Shard | None:
    """The record of a shard that is there, if its bytes are those that would be written."""
    path = folder / planned.name
    if path.stat().st_size != planned.tar_bytes:
        return None
    wanted = _Hash()
    for _ in _write(wanted, planned, tell):
        pass
    shard = _record(planned, path)
    return shard if shard.sha256 == wanted.digest.hexdigest() else None


class _Hash:
    """A file that only counts in its SHA-256."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return len(data)


def _write(file: "BinaryIO | _Hash", planned: Planned, tell: Tell) -> Iterator[bytes]:
    """Writes the shard; the SHA-256 of each photo as it was read."""
    tar_iterators()
    from webdataset import TarWriter

    settings: dict[str, Any] = {"user": "", "group": "", "mtime": 0, "mode": 0o444}
    with TarWriter(file, encoder=False, compress=False, **settings) as tar:
        for entry in planned.entries:
            data = _read(entry)
            digest = hashlib.sha256(data).digest()
            label = str(entry.label).encode()
            tar.write({"__key__": entry.key, LABEL: label, entry.extension: data})
            tell()
            yield digest


def _read(entry: Entry) -> bytes:
    try:
        data = Path(entry.path).read_bytes()
    except OSError as error:
        raise gone(entry.path, error) from error
    if len(data) != entry.size:
        raise ResnestError(
            f"{entry.path}: has {len(data):,} bytes, and had {entry.size:,} a moment ago. Run the "
            "same command again when nobody writes there."
        )
    return data


def _record(planned: Planned, path: Path) -> Shard:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    classes = Counter(entry.label for entry in planned.entries)
    return Shard(planned.name, len(planned.entries), size, digest, tuple(sorted(classes.items())))


def _forget(file: BinaryIO) -> None:
    """Asks the system to read the file from the disk the next time, not from its memory."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _verify(
    file: Path,
    path: Path,
    shard: Shard,
    planned: Planned,
    digests: list[bytes],
    classes: int,
) -> None:
    """Raises ResnestError where what was read back is not what was written."""
    try:
        with file.open("rb") as stream:
            photos = read_photos(shard, stream, classes)
            for entry, digest, photo in zip(planned.entries, digests, photos, strict=True):
                same = photo.name == f"{shard.place}: {entry.key}.{entry.extension}"
                same = same and photo.label == entry.label
                if not (same and hashlib.sha256(photo.data).digest() == digest):
                    raise _wrong(path, entry.path)
    except ResnestError as error:
        raise ResnestError(
            f"{path}: what was read back is not what was written: {error}"
        ) from error


def _wrong(path: Path, source: str) -> ResnestError:
    return ResnestError(
        f"{source} came back changed. The disk or the memory of this machine is at fault; nothing "
        f"was left under the name {path.name}."
    )
