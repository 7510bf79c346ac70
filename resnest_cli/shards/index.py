"""`index.json` beside shards: which there are, what is in each, and what the classes are.

`resnest pack` writes it last, so that a folder with an index is whole. A run keeps one of the same
form in its folder (`shards.json`), with full addresses in place of names, and goes on from it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from resnest_cli import web
from resnest_cli.errors import ResnestError

NAME = "index.json"
FORMAT = "resnest-shards-1"

Side = Literal["train", "val"]
SIDES: tuple[Side, ...] = ("train", "val")


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
        return is_remote(self.place)

    @property
    def title(self) -> str:
        """The place for messages: without the login that an address may carry."""
        return web.without_login(self.place) if self.remote else self.place

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.place.rpartition("/")[2]


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

    def side(self, side: Side) -> tuple[Shard, ...]:
        """The shards of a side."""
        return self.train if side == "train" else self.val

    def counts(self, side: Side) -> tuple[int, ...]:
        """The photos of each class of a side."""
        return self.train_counts if side == "train" else self.val_counts


def is_remote(place: str) -> bool:
    """Whether a place is an http(s) address."""
    return place.startswith(("http://", "https://"))


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
        **{f"{side}_counts": index.counts(side) for side in SIDES},
        "left_out": [dict(zip(_LEFT_OUT, row, strict=True)) for row in index.left_out],
        **{side: [_to_record(shard) for shard in index.side(side)] for side in SIDES},
    }
    return json.dumps(record, separators=(",", ":")).replace('{"shard":', '\n{"shard":') + "\n"


_LEFT_OUT = ("name", "label", "error")
_OWN = {
    "format", "class_ids", "class_names", "left_out", *SIDES, *(f"{side}_counts" for side in SIDES),
}  # fmt: skip


def _to_record(shard: Shard) -> dict[str, Any]:
    return {
        "shard": shard.place,
        "photos": shard.photos,
        "bytes": shard.size,
        "sha256": shard.sha256,
        "classes": {str(label): count for label, count in shard.classes},
    }


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
    classes = sorted((int(label), int(count)) for label, count in record["classes"].items())
    return Shard(
        place=str(record["shard"]),
        photos=int(record["photos"]),
        size=int(record["bytes"]),
        sha256=str(record["sha256"]),
        classes=tuple(classes),
    )


def _check(index: Index) -> None:
    """Raises ValueError for an index that contradicts itself."""
    classes = len(index.class_ids)
    if len(index.class_names) != classes:
        raise ValueError("as many names as classes are needed")
    for side in SIDES:
        shards, counts = index.side(side), index.counts(side)
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
