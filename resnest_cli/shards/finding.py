"""What the user calls data -> which shards train and which validate, with their counts.

    shards/                                      a folder that `resnest pack` wrote
    'shards/train-{000000..000127}.tar'          braces as in a shell, or *
    'https://host/shards/train-{000..127}.tar'   the same behind an address

`index.json` in the folder of the shards says what is in them. Without it they are counted first,
and their classes are the numbers 0, 1, ...
"""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.shards.counting import count_shards, name_of
from resnest_cli.shards.fetching import fetch_text, wrong_size
from resnest_cli.shards.index import (
    NAME,
    SIDES,
    Index,
    Shard,
    Side,
    class_counts,
    from_text,
    is_remote,
)
from resnest_cli.shards.reading import tar_iterators

Progress = Any

_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_MOST_CLASSES = 10**7
_SPARSE = 100  # times the classes that have photos: how many there may be in all
_INSIDE = tuple(f"{suffix}{end}" for suffix in _SUFFIXES for end in (",", "}", "?"))


def is_shards(data: str) -> bool:
    """Whether data are shards and not photos: by name, or a folder with an index of shards."""
    if is_remote(data) or _names_files(data):
        return True
    path = Path(data) / NAME
    return path.is_file() and any(Path(data).glob("*.tar"))


def _names_files(data: str) -> bool:
    """Whether it is a tar file or a pattern of some, and no folder."""
    lower = data.lower()
    return lower.endswith(_SUFFIXES) or any(part in lower for part in _INSIDE)


def find_shards(
    data: str, *, val_data: str | None, classes: int | None, progress: Progress
) -> Index:
    """All shards, their places ready to be opened; names of classes are their ids.

    `classes` is how many the user expects, or where there is no index, how many there are at least.
    `progress` is told of shards that are counted.

    Raises:
        UsageError: a pattern or an address that names nothing, no shards to validate with, or
            other classes than expected.
        ResnestError: a shard or an index that cannot be read, or that do not fit each other.
    """
    base, places = _expanded("--data", data)
    known = _read_index(base)
    train, used = _chosen(known, base, places, "train", progress)
    val_used = used
    if val_data is not None:
        val_base, val_places = _expanded("--val-data", val_data)
        val_known = known if val_base == base else _read_index(val_base)
        val, val_used = _chosen(val_known, val_base, val_places, "val", progress)
    elif known is not None and used is not None:
        val = tuple(_placed(base, shard) for shard in known.val)
    else:
        raise UsageError(
            f"{data}: there is no {NAME} beside these shards that says which validate. Name them "
            "with --val-data."
        )
    _check_apart(data, train, val)
    for shard in (*train, *val):
        _check_size(shard)
    ids, names = _classes(data, used, val_used, (*train, *val), classes)
    counts = {
        "train": class_counts(train, len(ids)),
        "val": class_counts(val, len(ids)),
    }
    return Index(
        ids,
        names,
        train=tuple(replace(shard, classes=()) for shard in train),
        val=tuple(replace(shard, classes=()) for shard in val),
        train_counts=counts["train"],
        val_counts=counts["val"],
    )


def expanded(option: str, pattern: str) -> list[str]:
    """The places that a pattern stands for, in order.

    Raises:
        UsageError: braces that do not close, or a glob that finds nothing.
    """
    tar_iterators()
    from webdataset.shardlists import expand_urls

    try:
        found = [str(place) for place in expand_urls(pattern)]
    except (ValueError, AssertionError) as error:
        raise UsageError(f"{option} {pattern}: is no pattern of shards ({error}).") from error
    places = []
    for place in found:
        if is_remote(place) or not glob.has_magic(place):
            places.append(place)
            continue
        matches = sorted(glob.glob(place))  # noqa: PTH207 - a pattern that may be absolute
        if not matches:
            raise UsageError(f"{option} {place}: no such file.")
        places += matches
    twice = [place for place, count in Counter(places).items() if count > 1]
    if twice:
        raise UsageError(f"{option} {pattern}: names {twice[0]} more than once.")
    return places


def _expanded(option: str, data: str) -> tuple[str, list[str] | None]:
    """The folder of the shards, and the shards; None for all of the folder's index."""
    if is_remote(data) and not _names_files(data):
        return data if data.endswith("/") else f"{data}/", None
    if not is_remote(data) and Path(data).is_dir():
        if not (Path(data) / NAME).is_file():
            raise UsageError(
                f"{option} {data}: has no {NAME} of `resnest pack`. Name the shards themselves: "
                f"'{Path(data) / 'train-*.tar'}'"
            )
        return str(Path(data)) + os.sep, None
    places = expanded(option, data)
    return places[0][: len(places[0]) - len(Shard(places[0], 0, 0).name)], places


def _read_index(base: str) -> Index | None:
    """The index in a folder; None where there is none of ours."""
    place = base + NAME
    if is_remote(base):
        text = fetch_text(place)
    else:
        try:
            text = Path(place).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResnestError(f"{place}: cannot be read: {error.strerror or error}.") from error
    return None if text is None else from_text(text, place)


def _placed(base: str, shard: Shard) -> Shard:
    return replace(shard, place=base + shard.place)


def _chosen(
    known: Index | None, base: str, places: list[str] | None, side: Side, progress: Progress
) -> tuple[tuple[Shard, ...], Index | None]:
    """The records of the shards that were named, and the index that they are from, if any."""
    if places is None:
        if known is None:
            raise UsageError(
                f"{base}: has no {NAME} of `resnest pack`. Name the shards themselves, such as "
                f"'{base}{side}-{{000000..000127}}.tar'."
            )
        return tuple(_placed(base, shard) for shard in known.side(side)), known
    records = {}
    if known is not None:
        records = {base + shard.place: shard for name in SIDES for shard in known.side(name)}
    missing = [place for place in places if place not in records]
    if not missing:
        return tuple(_placed(base, records[place]) for place in places), known
    if len(missing) < len(places):
        raise UsageError(
            f"{missing[0]}: is not in {base}{NAME} ({len(missing)} of {len(places)} shards are "
            "not). Name only shards that it lists."
        )
    return count_shards(places, progress), None


def _check_apart(data: str, train: Sequence[Shard], val: Sequence[Shard]) -> None:
    both = {shard.place for shard in train} & {shard.place for shard in val}
    if both:
        raise UsageError(
            f"{data}: {min(both)} would train and validate. Name other shards for one of the two."
        )
    if not val:
        raise UsageError(f"{data}: no shard to validate with. Name some with --val-data.")


def _check_size(shard: Shard) -> None:
    """Tells a shard on disk that is missing or truncated before anything else begins."""
    if shard.remote:
        return
    try:
        size = Path(shard.place).stat().st_size
    except OSError as error:
        raise UsageError(f"{shard.place}: cannot be read: {error.strerror or error}.") from error
    if size != shard.size:
        raise wrong_size(shard, size)


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
    """Tells a number that is hardly the index of a class: one class would be made for each below.

    Raises:
        UsageError: there are `_MOST_CLASSES` or more; or far more than there are photos, and than
            classes that have any, and not `expected`.
    """
    photos = sum(shard.photos for shard in shards)
    seen = len({label for shard in shards for label, _ in shard.classes})
    if most > max(photos, _SPARSE * seen, expected or 0):
        label = most - 1
        place = next(s.place for s in shards if any(label == one for one, _ in s.classes))
        many = f"If there are so many classes, say so: --classes {most}."
        raise UsageError(
            f"{name_of(place, label)}.cls: class {label:,}, but the shards have {photos:,} photos "
            f"of {seen:,} classes. {many if most <= _MOST_CLASSES else 'Pack them again.'}"
        )
    if count > _MOST_CLASSES:
        raise UsageError(f"{count:,} classes: no more than {_MOST_CLASSES:,} can be learned.")
