"""Which photo goes into which shard, under which key: a pure function of data and seed.

The photos of a side are shuffled over all its shards, so that each shard is a mix of the classes;
see `training.shard_order` for why that matters.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.shards.index import SIDES, Side
from resnest_cli.shards.reading import PHOTOS
from resnest_cli.training.dataset import DataSet, Sample
from resnest_cli.training.seeds import derived_seed

BLOCK, RECORD = 512, 10_240  # bytes: tar pads each member and the file to whole ones
MOST_PHOTO = 8 * 2**30 - 1  # bytes; what a plain tar header can say
_DIGITS, _LETTERS = 9, 40  # of a key


class Entry(NamedTuple):
    """A photo of a shard: where it is, its key and extension there, its class, and its bytes."""

    path: str
    key: str
    extension: str
    label: int
    size: int


@dataclass(frozen=True, slots=True)
class Planned:
    """A shard to be written: its name, its side, its photos in order."""

    name: str
    side: Side
    entries: tuple[Entry, ...]

    @property
    def tar_bytes(self) -> int:
        """The size of the file."""
        content = sum(_tar_bytes(entry.size) for entry in self.entries) + 2 * BLOCK
        return -(-content // RECORD) * RECORD


def planned(
    dataset: DataSet, *, seed: int, shard_bytes: int, photos_per_shard: int | None
) -> list[Planned]:
    """The shards of both sides. A shard has `photos_per_shard` photos, or else `shard_bytes` bytes.

    A photo that is larger has a shard of its own.

    Raises:
        ResnestError: a photo is gone.
        UsageError: a photo is too large for a tar file.
    """
    found = []
    for number, side in enumerate(SIDES):
        samples = dataset.train if side == "train" else dataset.val
        entries = _entries(samples, dataset.class_ids, derived_seed(seed, "pack", number))
        parts = _cut(entries, shard_bytes, photos_per_shard)
        found += [
            Planned(f"{side}-{place:06d}.tar", side, part) for place, part in enumerate(parts)
        ]
    return found


def _entries(samples: Sequence[Sample], ids: Sequence[str], seed: int) -> list[Entry]:
    """The photos, shuffled. How their folder lists them changes nothing."""
    ordered = sorted(samples, key=lambda sample: (sample.label, sample.name))
    order = np.random.default_rng(seed).permutation(len(ordered))
    words = [_word(id_) for id_ in ids]
    return [
        _entry(ordered[int(index)], number, words[ordered[int(index)].label])
        for number, index in enumerate(order)
    ]


def _entry(sample: Sample, number: int, word: str) -> Entry:
    try:
        size = Path(sample.path).stat().st_size
    except OSError as error:
        raise gone(sample.path, error) from error
    if size > MOST_PHOTO:
        raise UsageError(f"{sample.path}: is larger than 8 GiB, which tar shards cannot hold.")
    suffix = PurePath(sample.path).suffix.lower()[1:]
    # What lies in it is told by its content; a manifest may list files of any name.
    extension = suffix if suffix in PHOTOS else "jpg"
    return Entry(sample.path, f"{number:0{_DIGITS}d}{word}", extension, sample.label, size)


def _word(id_: str) -> str:
    """The class in a key: plain letters, and no dot, with which an extension begins."""
    word = re.sub(r"[^A-Za-z0-9_-]+", "-", id_).strip("-")[:_LETTERS]
    return f"_{word}" if word else ""


def gone(path: str, error: OSError) -> ResnestError:
    """The error of a photo that was there when the data were checked."""
    return ResnestError(
        f"{path}: cannot be read: {error.strerror or error}. It could be before: was it moved? Run "
        "the same command again."
    )


def _cut(
    entries: Sequence[Entry], shard_bytes: int, photos_per_shard: int | None
) -> list[tuple[Entry, ...]]:
    if photos_per_shard is not None:
        return [
            tuple(entries[at : at + photos_per_shard])
            for at in range(0, len(entries), photos_per_shard)
        ]
    parts: list[tuple[Entry, ...]] = []
    part: list[Entry] = []
    size = 2 * BLOCK
    for entry in entries:
        own = _tar_bytes(entry.size)
        if part and size + own > shard_bytes:
            parts.append(tuple(part))
            part, size = [], 2 * BLOCK
        part.append(entry)
        size += own
    return [*parts, tuple(part)] if part else parts


def _tar_bytes(photo: int) -> int:
    """Bytes of a photo and its class: two headers, each content filled up to whole blocks."""
    return 3 * BLOCK + -(-photo // BLOCK) * BLOCK
