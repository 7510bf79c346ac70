"""The photos that a run learns from and validates with, checked before anything else begins.

Every photo is decoded once (in background threads) and hashed: what cannot be read is listed and
left out, never replaced by another, and identical files never fall on both sides. Labels are
indices into `class_ids`, which are sorted as torchvision's ImageFolder sorts them.
"""

import csv
import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.data.class_folders import check_classes, check_count, list_data
from resnest_cli.data.encoding import decoded
from resnest_cli.data.listing import AS_FOUND, Listed, Listing, Reading
from resnest_cli.errors import ImageError, ResnestError, UsageError
from resnest_cli.images.decode import decode
from resnest_cli.machine_limits import limit_reached
from resnest_cli.model.class_names import canonical
from resnest_cli.model.training_photos import DIGEST_BYTES, TrainingPhotos, digest_of
from resnest_cli.training.seeds import derived_seed

if TYPE_CHECKING:
    from resnest_cli.shards.index import Index

Progress = Callable[[int, int | None], None]

_WINDOW = 512  # photos in flight; keeps memory flat for a million
_NAMED = 5  # examples in a note


@dataclass(frozen=True, slots=True)
class Sample:
    """A readable photo: `path` can be opened, `name` is relative to the data, `label` an index.

    `digest` begins its file's SHA-256, in as many bytes as `training_photos` needs; b"" is unknown.
    """

    path: str
    name: str
    label: int
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class BadPhoto:
    """A photo that cannot be read, and why."""

    name: str
    label: str
    error: str


@dataclass(frozen=True, slots=True)
class DataSet:
    """What `load_dataset` found. `notes` are for the user to read.

    `class_ids` are folder names or labels, `class_names` readable ones; `duplicates` counts photos
    whose bytes another one has, too; `own_split` says that the data brought their split.
    `left_out` are readable photos that neither train nor validate: training has the same file.
    Where the data are `shards`, `train` and `val` are empty, and the shards say how much there is.
    """

    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    bad: tuple[BadPhoto, ...] = ()
    left_out: tuple[BadPhoto, ...] = ()
    notes: tuple[str, ...] = ()
    duplicates: int = 0
    own_split: bool = False
    shards: "Index | None" = None

    @property
    def train_counts(self) -> tuple[int, ...]:
        """Training photos of each class."""
        return self.shards.train_counts if self.shards else self._counts(self.train)

    @property
    def val_counts(self) -> tuple[int, ...]:
        """Validation photos of each class."""
        return self.shards.val_counts if self.shards else self._counts(self.val)

    @property
    def train_photos(self) -> int:
        """How many photos train."""
        return sum(self.shards.train_counts) if self.shards else len(self.train)

    @property
    def val_photos(self) -> int:
        """How many photos validate."""
        return sum(self.shards.val_counts) if self.shards else len(self.val)

    @property
    def trained_on(self) -> TrainingPhotos | None:
        """The photos that train, for a checkpoint to remember; None where they are not known."""
        return None if self.shards else known_photos(self.train)

    def _counts(self, samples: "Sequence[Sample]") -> tuple[int, ...]:
        counts = Counter(sample.label for sample in samples)
        return tuple(counts[label] for label in range(len(self.class_ids)))


def known_photos(samples: Sequence[Sample]) -> TrainingPhotos | None:
    """The set of these photos; None where the content of one is not known."""
    if not all(sample.digest for sample in samples):
        return None
    return TrainingPhotos.of(sample.digest for sample in samples)


@dataclass(frozen=True, slots=True)
class _Checked:
    photo: Listed
    digest: bytes
    error: str | None


def load_dataset(
    data: str,
    *,
    val_split: float,
    seed: int,
    classes: int | None = None,
    class_names: str | None = None,
    reading: Reading = AS_FOUND,
    workers: int = 2,
    progress: Progress | None = None,
) -> DataSet:
    """Finds, checks and splits the photos of a folder or a table; see `data.class_folders`.

    Where the data have no split, `val_split` of each class validates, at least one photo of a class
    of two or more; a class of one trains. Which photos depends on `seed`, the class and the names
    in it alone. `classes` is how many the user expects, `class_names` a file of readable names;
    `reading` says what the data cannot say. Photos of a test side are left alone.

    Raises:
        UsageError: the data are not there, have no or other classes, names that are no text, no
            photo that can be read, or none to validate with.
        ResnestError: a folder cannot be read.
    """
    listing = list_data(data, reading)
    _check_text(listing, data)
    check_classes(listing, data)
    photos = [photo for photo in listing.photos if photo.side != "test"]
    checked = list(_check(photos, workers, progress or (lambda _done, _total: None)))
    good = [item for item in checked if item.error is None]
    bad = tuple(
        BadPhoto(item.photo.name, item.photo.label, item.error)
        for item in checked
        if item.error is not None
    )
    if bad and not good:
        raise UsageError(
            f"{data}: none of {len(bad)} photo(s) can be read. {bad[0].name}: {bad[0].error}."
        )
    counts = Counter(item.photo.label for item in good if item.photo.side != "val")
    check_count(counts, classes, data)
    notes = [*listing.notes, *_class_notes(listing, counts)]
    ids = tuple(sorted(counts))
    good = [item for item in good if item.photo.label in counts]
    left_out: list[BadPhoto] = []
    if listing.own_split:
        train, val = _own_sides(good, notes, left_out)
    else:
        train, val = _split(good, val_split, seed, notes)
    _note_missing(ids, val, notes)
    names, more = readable_names(ids, class_names)
    notes += more
    if not val:
        raise _nothing_validates(data, listing, len(left_out))
    index = {id_: place for place, id_ in enumerate(ids)}
    digests = {item.photo.path: item.digest[:DIGEST_BYTES] for item in good}

    def sample(photo: Listed) -> Sample:
        return Sample(photo.path, photo.name, index[photo.label], digests[photo.path])

    return DataSet(
        class_ids=ids,
        class_names=names,
        train=tuple(map(sample, train)),
        val=tuple(map(sample, val)),
        bad=bad,
        left_out=tuple(left_out),
        notes=tuple(notes),
        duplicates=len(good) - len({item.digest for item in good}),
        own_split=listing.own_split,
    )


def _nothing_validates(data: str, listing: Listing, same: int) -> UsageError:
    if not listing.own_split:
        return UsageError(f"{data}: no photo to validate with. Give each class two or more photos.")
    brought = len(listing.side("val"))
    return UsageError(
        f"{data}: none of its {brought} validation photo(s) can be used: {same} are the same as "
        f"training photos, {brought - same} cannot be read or are of classes without training "
        "photos. Mend them, or take them away: then a part of the training photos validates."
    )


def _check_text(listing: Listing, data: str) -> None:
    """Raises UsageError for a class that no checkpoint can name, before anything is learned.

    Old archives hold names in other encodings than UTF-8; which one, nothing says.
    """
    for label in sorted({photo.label for photo in listing.photos}):
        try:
            label.encode("utf-8")
        except UnicodeEncodeError:
            name = os.fsencode(label)
            raise UsageError(
                f"{data}: the class {str(name)[1:]} has a name that is not UTF-8, so no checkpoint "
                "can hold it. Rename the folder, or unpack the archive with its own encoding, such "
                "as unzip -O cp437."
            ) from None


def _check(photos: Sequence[Listed], workers: int, progress: Progress) -> Iterator[_Checked]:
    """Decodes and hashes every photo, in order."""
    total = len(photos)
    remaining = iter(photos)
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="check") as pool:
        done = 0
        while window := list(islice(remaining, _WINDOW)):
            for item in pool.map(_checked, window):
                done += 1
                progress(done, total)
                yield item


def _checked(photo: Listed) -> _Checked:
    try:
        decode(photo.path)  # first: it refuses pipes and devices, which could block for ever
        return _Checked(photo, digest_of(photo.path), None)
    except (ImageError, OSError) as error:
        if (limit := limit_reached(error)) is not None:  # not the photo's fault
            raise ResnestError(f"{photo.path}: {limit}") from error
        if isinstance(error, ImageError):
            return _Checked(photo, b"", str(error))
        reason = (error.strerror or str(error)).lower()
        return _Checked(photo, b"", f"cannot be read: {reason}")
    except MemoryError:
        return _Checked(photo, b"", "does not fit into this machine's memory")


def _class_notes(listing: Listing, counts: Counter[str]) -> list[str]:
    notes = [f"{folder}: no photos; the class is left out" for folder in listing.empty]
    lost = Counter(
        photo.label
        for photo in listing.photos
        if photo.label not in counts and photo.side != "test"
    )
    notes += [
        f"{label}: no readable photos to train on; the class is left out, with all {count} photo(s)"
        for label, count in sorted(lost.items())
    ]
    single = sorted(label for label, count in counts.items() if count == 1)
    if single:
        notes.append(f"one photo only, which trains: {_some(single)}")
    return notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _own_sides(
    good: list[_Checked], notes: list[str], left_out: list[BadPhoto]
) -> tuple[list[Listed], list[Listed]]:
    """The data's own split, but for validation photos that training has, too."""
    train = [item for item in good if item.photo.side == "train"]
    val = [item for item in good if item.photo.side == "val"]
    twins = {item.digest: item.photo.name for item in reversed(train)}
    same = [item for item in val if item.digest in twins]
    for item in same:
        error = f"is the same file as {twins[item.digest]}, which trains"
        left_out.append(BadPhoto(item.photo.name, item.photo.label, error))
    if same:
        names = _some([item.photo.name for item in same])
        notes.append(
            f"{len(same)} validation photo(s) left out, since training has the same: {names}"
        )
    for side, items in (("training", train), ("validation", val)):
        conflicting = _conflicting(items)
        shown = [item.photo.name for item in items if item.digest in conflicting]
        if shown:
            notes.append(f"the same photo under several classes of {side} (kept): {_some(shown)}")
    return [i.photo for i in train], [i.photo for i in val if i.digest not in twins]


def _conflicting(items: list[_Checked]) -> set[bytes]:
    """Of photos that lie under several classes."""
    labels_of: dict[bytes, set[str]] = defaultdict(set)
    for item in items:
        labels_of[item.digest].add(item.photo.label)
    return {digest for digest, labels in labels_of.items() if len(labels) > 1}


def _split(
    good: list[_Checked], share: float, seed: int, notes: list[str]
) -> tuple[list[Listed], list[Listed]]:
    """A seeded split by class; photos with the same bytes stay together."""
    conflicting = _conflicting(good)
    if conflicting:
        names = [item.photo.name for item in good if item.digest in conflicting]
        notes.append(f"the same photo under several classes (kept, to train on): {_some(names)}")
    by_class: dict[str, dict[bytes, list[Listed]]] = defaultdict(lambda: defaultdict(list))
    for item in good:
        by_class[item.photo.label][item.digest].append(item.photo)
    chosen: set[str] = set()
    for label, same in by_class.items():
        count = sum(map(len, same.values()))
        wanted = min(max(1, round(share * count)), count - 1)
        groups = [group for digest, group in same.items() if digest not in conflicting]
        order = sorted(groups, key=lambda group: _draw(seed, label, group[0].name))
        if len(groups) == len(same) and order:
            order.pop()  # something must be left to train on
        for group in order:
            if len(group) <= wanted:
                chosen |= {photo.path for photo in group}
                wanted -= len(group)
    train = [item.photo for item in good if item.photo.path not in chosen]
    return train, [item.photo for item in good if item.photo.path in chosen]


def _draw(seed: int, label: str, name: str) -> bytes:
    text = f"{derived_seed(seed, 'split')}\0{label}\0{name}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _note_missing(ids: Sequence[str], val: Sequence[Listed], notes: list[str]) -> None:
    missing = sorted(set(ids) - {photo.label for photo in val})
    if missing:
        notes.append(f"no validation photos, so nothing is known of: {_some(missing)}")


def readable_names(ids: Sequence[str], path: str | None) -> tuple[tuple[str, ...], list[str]]:
    """Names from lines `id,name` or `id<TAB>name`, and notes; the ids themselves without a file.

    Raises:
        UsageError: the file cannot be read, is no text, or lacks the name of a class.
    """
    if path is None:
        return tuple(ids), []
    try:
        text, notes, _ = decoded(Path(path).read_bytes(), path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}.") from error
    delimiter = "\t" if "\t" in text else ","
    names = {}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) < 2 or not row[1].strip():
                raise UsageError(f"{path}: line {reader.line_num} lacks a name; lines are id,name.")
            names[canonical(row[0].strip())] = delimiter.join(row[1:]).strip()
    except csv.Error as error:
        raise UsageError(f"{path}: line {reader.line_num} is not CSV: {error}.") from error
    missing = [id_ for id_ in ids if canonical(id_) not in names]
    if missing:
        raise UsageError(f"{path}: has no name for {_some(missing)}. Add a line for each class.")
    return tuple(names[canonical(id_)] for id_ in ids), notes


def base_folder(data: str, given: str | None = None) -> str:
    """What the names of photos are relative to: `--base-folder`, the folder, or the table's."""
    if given is not None:
        return given
    return data if Path(data).is_dir() else str(Path(data).parent)
