"""Tar shards as data: which train and which validate, what is in each, what the classes are.

    shards/                                      a folder that `resnest pack` wrote
    'shards/train-{000000..000127}.tar'          braces as in a shell, or *
    'https://host/shards/train-{000..127}.tar'   the same behind an address

`index.json` in the folder of the shards says what is in them. `resnest pack` writes it last, so
that a folder with an index is whole. A run keeps one of the same form in its folder
(`shards.json`), with full addresses in place of names, and goes on from it.

Without an index shards are counted first, and their classes are the numbers 0, 1, ... Of a file on
disk that is not compressed only headers and classes are read, a seek for each member. Shards behind
addresses are fetched whole for it, once: with 100 million photos that is a day's work, and an index
spares it.
"""

import glob
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from resnest_cli.cpu import usable_cores
from resnest_cli.data.shard_files import (
    AHEAD,
    EncodedPhoto,
    Files,
    Shard,
    check_size,
    fetch,
    fetch_text,
    read_photos,
    shard_photos,
    tar_iterators,
)
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import reading
from resnest_cli.paths import is_http
from resnest_cli.progress import Progress

INDEX = "index.json"
FORMAT = "resnest-shards-1"
ShardSide = Literal["train", "val"]
SHARD_SIDES: tuple[ShardSide, ...] = ("train", "val")

_LEFT_OUT = ("name", "label", "error")
_OWN = {
    "format", "class_ids", "class_names", "left_out", "train", "val", "train_counts", "val_counts",
}  # fmt: skip
_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_INSIDE = tuple(f"{suffix}{end}" for suffix in _SUFFIXES for end in (",", "}", "?"))
_MOST_CLASSES = 10**7
_SPARSE = 100  # times the classes that have photos: how many there may be in all
_FIRST = 16  # photos that are looked at before a run


@dataclass(frozen=True, slots=True)
class Index:
    """All shards of a data set, by side, and its classes, in the order of their indices.

    `train_counts` and `val_counts` are the photos of each class. `left_out` are the photos that
    could not be packed: name, label and why. `made` says how the shards were made.
    """

    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    train: tuple[Shard, ...]
    val: tuple[Shard, ...]
    train_counts: tuple[int, ...]
    val_counts: tuple[int, ...]
    left_out: tuple[tuple[str, str, str], ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict)

    def side(self, side: ShardSide) -> tuple[Shard, ...]:
        """The shards of a side."""
        return self.train if side == "train" else self.val


def photos(shards: Iterable[Shard]) -> int:
    """Photos in all of them."""
    return sum(shard.photos for shard in shards)


def class_counts(shards: Iterable[Shard], classes: int) -> tuple[int, ...]:
    """Photos of each class in all of them, from their `classes`."""
    counts: Counter[int] = Counter()
    for shard in shards:
        for label, count in shard.classes:
            counts[label] += count
    return tuple(counts[label] for label in range(classes))


def to_text(index: Index) -> str:
    """The index as JSON; the same index gives the same text."""
    record: dict[str, Any] = {
        "format": FORMAT,
        **index.made,
        "class_ids": index.class_ids,
        "class_names": index.class_names,
        "train_counts": index.train_counts,
        "val_counts": index.val_counts,
        "left_out": [dict(zip(_LEFT_OUT, row, strict=True)) for row in index.left_out],
    }
    for side in SHARD_SIDES:
        record[side] = [
            {
                "shard": shard.place,
                "photos": shard.photos,
                "bytes": shard.size,
                "sha256": shard.sha256,
                "classes": {str(label): count for label, count in shard.classes},
            }
            for shard in index.side(side)
        ]
    return json.dumps(record, separators=(",", ":")).replace('{"shard":', '\n{"shard":') + "\n"


def from_text(text: str | bytes, where: str) -> Index | None:
    """The index in a JSON text; None for JSON of another format. `where` is its place, for errors.

    Raises:
        ResnestError: damaged, or of a later version.
    """
    try:
        record = json.loads(text)
        known = record.get("format", "") if isinstance(record, dict) else ""
        if not str(known).startswith("resnest-shards-"):
            return None
        if known != FORMAT:
            raise ResnestError(
                f"{where}: has the format {known}, and this version reads {FORMAT}. Update "
                "resnest-cli, or pack the photos anew."
            )
        index = Index(
            class_ids=tuple(map(str, record["class_ids"])),
            class_names=tuple(map(str, record["class_names"])),
            train=tuple(map(_shard, record["train"])),
            val=tuple(map(_shard, record["val"])),
            train_counts=tuple(map(int, record["train_counts"])),
            val_counts=tuple(map(int, record["val_counts"])),
            left_out=tuple(
                (str(row["name"]), str(row["label"]), str(row["error"]))
                for row in record["left_out"]
            ),
            made={key: value for key, value in record.items() if key not in _OWN},
        )
        _check(index)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ResnestError(
            f"{where}: is damaged ({type(error).__name__}: {error}). Run `resnest pack` again, or "
            "fetch it anew."
        ) from error
    return index


def _shard(record: Mapping[str, Any]) -> Shard:
    return Shard(
        place=str(record["shard"]),
        photos=int(record["photos"]),
        size=int(record["bytes"]),
        sha256=str(record["sha256"]),
        classes=tuple(sorted((int(n), int(count)) for n, count in record["classes"].items())),
    )


def _check(index: Index) -> None:
    """Raises ValueError for an index that contradicts itself."""
    classes = len(index.class_ids)
    if len(index.class_names) != classes:
        raise ValueError("as many names as classes are needed")
    for side, counts in zip(SHARD_SIDES, (index.train_counts, index.val_counts), strict=True):
        shards = index.side(side)
        if len(counts) != classes or sum(counts) != photos(shards) or min(counts) < 0:
            raise ValueError(f"the photos of the {side} classes do not add up")
        for shard in shards:
            own = [count for _, count in shard.classes]
            if any(not 0 <= label < classes for label, _ in shard.classes):
                raise ValueError(f"{shard.place}: has photos of a class that there is not")
            if shard.photos < 1 or (own and sum(own) != shard.photos):
                raise ValueError(f"{shard.place}: the photos of its classes do not add up")
    if not index.train:
        raise ValueError("there is no shard to train on")


def is_shards(data: str) -> bool:
    """Whether data are shards and not photos: by name, or a folder with an index of shards."""
    if is_http(data) or _names_files(data):
        return True
    return (Path(data) / INDEX).is_file() and any(Path(data).glob("*.tar"))


def _names_files(data: str) -> bool:
    """Whether it is a tar file or a pattern of some, and no folder."""
    lower = data.lower()
    return lower.endswith(_SUFFIXES) or any(part in lower for part in _INSIDE)


def find_shards(
    data: str, *, val_data: str | None, classes: int | None, progress: Progress
) -> Index:
    """All shards, their places ready to be opened; names of classes are their ids.

    `classes` is how many the user expects, or where there is no index, how many there are at least.
    `progress` is called for shards that are counted.

    Raises:
        UsageError: a pattern or an address that names nothing, no shards to validate with, or
            other classes than expected.
        ResnestError: a shard or an index that cannot be read, or that do not fit each other.
    """
    read_index = cache(_read_index)
    train, used = _chosen("--data", data, "train", read_index, progress)
    if val_data is not None:
        val, val_used = _chosen("--val-data", val_data, "val", read_index, progress)
    elif used is not None:
        val, val_used = used.val, used
    else:
        raise UsageError(
            f"{data}: there is no {INDEX} beside these shards that says which validate. Name them "
            "with --val-data."
        )
    if both := {shard.place for shard in train} & {shard.place for shard in val}:
        raise UsageError(
            f"{data}: {min(both)} would train and validate. Name other shards for one of the two."
        )
    if not val:
        raise UsageError(f"{data}: no shard to validate with. Name some with --val-data.")
    for shard in (*train, *val):  # before anything else begins
        if not shard.remote:
            with reading(shard.place, UsageError):
                check_size(shard, Path(shard.place).stat().st_size)
    ids, names = _classes(data, used, val_used, (*train, *val), classes)
    return Index(
        ids,
        names,
        train=tuple(replace(shard, classes=()) for shard in train),
        val=tuple(replace(shard, classes=()) for shard in val),
        train_counts=class_counts(train, len(ids)),
        val_counts=class_counts(val, len(ids)),
    )


def expanded(option: str, pattern: str) -> list[str]:
    """The places that a pattern stands for, in order."""
    tar_iterators()
    from webdataset.shardlists import expand_urls

    try:
        found = [str(place) for place in expand_urls(pattern)]
    except (ValueError, AssertionError) as error:
        raise UsageError(f"{option} {pattern}: is no pattern of shards ({error}).") from error
    places = []
    for place in found:
        if is_http(place) or not glob.has_magic(place):
            places.append(place)
            continue
        matches = sorted(glob.glob(place))  # noqa: PTH207 - a pattern that may be absolute
        if not matches:
            raise UsageError(f"{option} {place}: no such file.")
        places += matches
    if twice := [place for place, count in Counter(places).items() if count > 1]:
        raise UsageError(f"{option} {pattern}: names {twice[0]} more than once.")
    return places


def _expanded(option: str, data: str) -> tuple[str, list[str] | None]:
    """The folder of the shards, and the shards; None for all of the folder's index."""
    if is_http(data) and not _names_files(data):
        return data if data.endswith("/") else f"{data}/", None
    if not is_http(data) and Path(data).is_dir():
        return str(Path(data)) + os.sep, None
    places = expanded(option, data)
    return places[0][: places[0].rfind("/") + 1], places


def _read_index(base: str) -> Index | None:
    """The index in a folder, with the places of its shards; None where there is none of ours."""
    place = base + INDEX
    if is_http(base):
        text = fetch_text(place)
    else:
        with reading(place):
            text = Path(place).read_bytes() if Path(place).exists() else None
    if text is None or (index := from_text(text, place)) is None:
        return None
    train, val = (
        tuple(replace(shard, place=base + shard.place) for shard in index.side(side))
        for side in SHARD_SIDES
    )
    return replace(index, train=train, val=val)


def _chosen(
    option: str,
    data: str,
    side: ShardSide,
    read_index: Callable[[str], Index | None],
    progress: Progress,
) -> tuple[tuple[Shard, ...], Index | None]:
    """The records of the shards that were named, and the index that they are from, if any."""
    base, places = _expanded(option, data)
    known = read_index(base)
    if places is None:
        if known is None:
            raise UsageError(
                f"{base}: has no {INDEX} of `resnest pack`. Name the shards themselves, such as "
                f"'{base}{side}-{{000000..000127}}.tar'."
            )
        return known.side(side), known
    records = {shard.place: shard for shard in (*known.train, *known.val)} if known else {}
    missing = [place for place in places if place not in records]
    if not missing:
        return tuple(records[place] for place in places), known
    if len(missing) < len(places):
        raise UsageError(
            f"{missing[0]}: is not in {base}{INDEX} ({len(missing)} of {len(places)} shards are "
            "not). Name only shards that it lists."
        )
    return _count_shards(places, progress), None


def _classes(
    data: str,
    known: Index | None,
    val_known: Index | None,
    shards: Sequence[Shard],
    expected: int | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids and names of the classes; without an index they are the numbers from 0."""
    most = 1 + max(label for shard in shards for label, _ in shard.classes)
    if known is not None and val_known is not None and known.class_ids != val_known.class_ids:
        raise UsageError(f"{data}: the shards of --val-data have other classes.")
    found = known or val_known
    count = len(found.class_ids) if found is not None else max(most, expected or 0)
    if found is None:
        _check_sparse(shards, count, most, expected)
    if most > count:
        raise UsageError(f"{data}: there is a class {most - 1}, but the index knows {count}.")
    if expected is not None and expected != count:
        raise UsageError(f"--classes {expected}: {data} has {count} classes.")
    if count < 2:
        raise UsageError(f"{data}: one class only. A classifier needs two or more.")
    if found is not None:
        return found.class_ids, found.class_names
    numbers = tuple(map(str, range(count)))
    return numbers, numbers


def _check_sparse(shards: Sequence[Shard], count: int, most: int, expected: int | None) -> None:
    """Raises UsageError for a number that is hardly the index of a class: there would be a class
    for each below, `_MOST_CLASSES` or more, or far more than there are photos, and than classes
    that have any, and not `expected`.
    """
    total = photos(shards)
    seen = len({label for shard in shards for label, _ in shard.classes})
    if most > max(total, _SPARSE * seen, expected or 0):
        where = next(s.title for s in shards if any(label == most - 1 for label, _ in s.classes))
        many = f"If there are so many classes, say so: --classes {most}."
        raise UsageError(
            f"{where}: has a photo of class {most - 1:,}, but the shards have {total:,} photos of "
            f"{seen:,} classes. {many if most <= _MOST_CLASSES else 'Pack them again.'}"
        )
    if count > _MOST_CLASSES:
        raise UsageError(f"{count:,} classes: no more than {_MOST_CLASSES:,} can be learned.")


def _count_shards(places: Sequence[str], progress: Progress) -> tuple[Shard, ...]:
    """A record of each of these shards, in order; raises ResnestError for one that is damaged."""
    tar_iterators()
    threads = AHEAD if any(map(is_http, places)) else usable_cores()
    found = []
    with ThreadPoolExecutor(threads, thread_name_prefix="count") as pool:
        for shard in pool.map(_count_shard, places):
            found.append(shard)
            progress(len(found), len(places))
    return tuple(found)


def _count_shard(place: str) -> Shard:
    shard = Shard(place, 0, 0)
    with reading(place), fetch(shard) if shard.remote else Path(place).open("rb") as file:
        size = file.seek(0, 2)
        found = shard_photos(shard.title, file, headers_only=True)
        labels = Counter(photo.label for photo in found)
    if not labels:
        raise ResnestError(
            f"{shard.title}: has no photos; each needs an image and its class, such as 01.jpg and "
            "01.cls."
        )
    return Shard(place, labels.total(), size, classes=tuple(sorted(labels.items())))


def first_photos(index: Index, side: ShardSide, count: int) -> Sequence[EncodedPhoto]:
    """The first photos of the first shard, encoded; `count` or as many as it has."""
    return _first_photos(index.side(side)[0], len(index.class_ids))[:count]


@lru_cache(maxsize=4)  # the plan and a picture want the same, and a shard may be far away
def _first_photos(shard: Shard, classes: int) -> tuple[EncodedPhoto, ...]:
    with closing(Files([shard])) as files, files.open(0) as file:
        return tuple(islice(read_photos(shard, file, classes), _FIRST))
