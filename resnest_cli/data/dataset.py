"""The photos that a run learns from and validates with, checked before anything else begins.

Every photo is decoded once (in background threads) and hashed: what cannot be read is listed and
left out, never replaced by another, and identical files never fall on both sides. Labels are
indices into `class_ids`, which are sorted as torchvision's ImageFolder sorts them. Data that are
tar shards have counts in place of lists: a photo is known by its number, and read when its turn
comes.
"""

import io
import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from resnest_cli import files
from resnest_cli.data.class_folders import check_classes, check_count, list_data
from resnest_cli.data.label_sets import JOINT, joined_labels, refused_name, split_labels
from resnest_cli.data.labelled_photos import AS_FOUND, LabelledData, LabelledPhoto, Reading
from resnest_cli.data.photo_paths import as_found
from resnest_cli.data.shards import Index
from resnest_cli.data.split import (
    merged_copies,
    own_sides,
    split_by_class,
    split_by_labels,
    split_in_folds,
)
from resnest_cli.data.split_file import (
    LEFT_OUT,
    UNLABELLED_SIDE,
    SplitRow,
    has_label_sets,
    read_rows,
    write_rows,
)
from resnest_cli.data.table_file import csv_lines, decoded
from resnest_cli.errors import ImageError, ResnestError, UsageError, limit_reached, reason
from resnest_cli.images.decode import decode
from resnest_cli.model.labels import canonical
from resnest_cli.model.training_photos import DIGEST_BYTES, TrainingPhotos, digest_of
from resnest_cli.progress import Progress, silent
from resnest_cli.text import count, some

Item = TypeVar("Item")
Result = TypeVar("Result")

UNLABELLED = -1  # in place of a label
_WINDOW = 512  # photos in flight


@dataclass(frozen=True, slots=True)
class Sample:
    """A readable photo: `path` can be opened, `name` is relative to the data, `label` an index, or
    `UNLABELLED`; where a photo may have several labels it is that, and `labels` are their indices.

    `digest` begins its file's SHA-256, in as many bytes as `training_photos` needs; b"" is unknown.
    """

    path: str
    name: str
    label: int
    digest: bytes = b""
    labels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DataSet:
    """What `load_dataset` found. `notes` are for the user to read.

    `class_ids` are folder names or labels, `class_names` readable ones; `duplicates` counts photos
    whose bytes another one has, too; `own_split` says that the data brought their split. `bad`
    photos cannot be read; `left_out` neither train nor validate: training has the same file;
    `excluded` were left out on request. `unlabelled` photos train, too, with a teacher; their names
    are relative to another folder. With `multi_label` a photo may have several labels, or none.
    With `folds`, those of the photos in `train` (see `split`), none validate: they are held
    out in turns. Where the data are `shards`, `train` and `val` are empty, and the shards say how
    much there is.
    """

    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    bad: tuple[LabelledPhoto, ...] = ()
    left_out: tuple[LabelledPhoto, ...] = ()
    excluded: tuple[LabelledPhoto, ...] = ()
    notes: tuple[str, ...] = ()
    duplicates: int = 0
    own_split: bool = False
    shards: Index | None = None
    unlabelled: tuple[Sample, ...] = ()
    multi_label: bool = False
    folds: tuple[int, ...] = ()

    def held_out(self, fold: int) -> "DataSet":
        """The data set in which the photos of this fold validate, and all others train."""
        of_fold = list(zip(self.train, self.folds, strict=True))
        train, val = (
            tuple(one for one, number in of_fold if (number == fold) is validates)
            for validates in (False, True)
        )
        return replace(self, train=train, val=val, folds=())

    @property
    def learned(self) -> tuple[Sample, ...]:
        """All photos that train, those without a label last."""
        return (*self.train, *self.unlabelled)

    @property
    def train_counts(self) -> tuple[int, ...]:
        """Training photos of each class; one counts for each of its labels."""
        return self.shards.train_counts if self.shards else self._counts(self.train)

    @property
    def val_counts(self) -> tuple[int, ...]:
        """Validation photos of each class."""
        return self.shards.val_counts if self.shards else self._counts(self.val)

    @property
    def label_columns(self) -> int:
        """The classes where a photo may have several labels, a column of 0 and 1 for each; else 0,
        for a single column of indices.
        """
        return len(self.class_ids) if self.multi_label else 0

    @property
    def train_photos(self) -> int:
        """How many photos train, with a label or without one."""
        return sum(self.shards.train_counts) if self.shards else len(self.learned)

    @property
    def val_photos(self) -> int:
        """How many photos validate."""
        return sum(self.val_counts) if self.shards else len(self.val)

    @property
    def not_used(self) -> tuple[tuple[LabelledPhoto, ...], ...]:
        """Photos that neither train nor validate, by the reasons of `split_file.LEFT_OUT`."""
        return self.bad, self.left_out, self.excluded

    @property
    def trained_on(self) -> TrainingPhotos | None:
        """The photos that train, for a checkpoint to remember; None where they are not known."""
        return None if self.shards else known_photos(self.learned)

    def _counts(self, samples: Iterable[Sample]) -> tuple[int, ...]:
        labels = (one.labels if self.multi_label else (one.label,) for one in samples)
        counts = Counter(label for several in labels for label in several)
        return tuple(counts[label] for label in range(len(self.class_ids)))


def known_photos(samples: Sequence[Sample]) -> TrainingPhotos | None:
    """The set of these photos; None where the content of one is not known."""
    if not all(sample.digest for sample in samples):
        return None
    return TrainingPhotos.of(sample.digest for sample in samples)


def load_dataset(
    data: str,
    *,
    val_split: float,
    seed: int,
    classes: int | None = None,
    class_names: str | None = None,
    reading: Reading = AS_FOUND,
    one_label: str = "",
    folds: int | None = None,
    workers: int = 2,
    progress: Progress = silent,
) -> DataSet:
    """Finds, checks and splits the photos of a folder or a table; see `class_folders`.

    Where the data have no split, `val_split` of each class validates, at least one photo of a class
    of two or more; a class of one trains. Which photos depends on `seed`, the class and the names
    in it alone. `classes` is how many the user expects, `class_names` a file of readable names;
    `reading` says what the data cannot say, `one_label` why a photo may not have several labels,
    where it may not. Photos of a test side are left alone. With `folds` all others are dealt into
    as many, whatever split of their own they have, and none validates.

    Raises:
        UsageError: the data are not there, have no or other classes, names that are no text, no
            photo that can be read, none to validate with, or several labels where that is refused.
        ResnestError: a folder cannot be read.
    """
    found = list_data(data, reading)
    if one_label and found.multi_label:
        raise UsageError(f"{data}: its photos have several labels, or none; {one_label}")
    _check_text(found, data)
    if folds is not None and found.own_split:
        _join_sides(found)
    check_classes(found, data)
    there = [photo for photo in found.photos if photo.side != "test"]
    good, bad = check_photos(there, data, workers, progress)
    notes = [*found.notes]
    duplicates = len(good) - len({photo.digest for photo in good})
    if found.multi_label and Path(data).is_dir():
        good = merged_copies(good, found, notes)
    learning = (photo for photo in good if photo.side != "val")
    counts = Counter(label for photo in learning for label in found.labels_of(photo))
    check_count(counts, classes, data)
    good = list(_of_classes(good, found, counts))
    notes += _class_notes(found, counts)
    left_out: list[LabelledPhoto] = []
    dealt: list[int] = []
    if folds is not None:
        train, val = good, list[LabelledPhoto]()
        dealt, more = split_in_folds(good, found, folds, seed, data)
        notes += more
    elif found.own_split:
        train, val, left_out = own_sides(good, notes)
        if reading.group_column is not None:
            notes.append("--group-column does nothing here: the data have a split of their own")
    elif found.multi_label or reading.group_column is not None:
        train, val = split_by_labels(good, found, val_split, seed, notes)
    else:
        train, val = split_by_class(good, val_split, seed, notes)
    ids = tuple(sorted(counts))
    if not dealt:
        notes += _check_validation(data, found, val, left_out, ids)
    names, more = readable_names(ids, class_names)
    if found.multi_label and (wrong := refused_name(names)) is not None:
        raise UsageError(
            f"{class_names}: the name {wrong!r} has {JOINT} in it, which stands between labels in "
            "files of a run. Give the class another name."
        )
    learned, validating = (tuple(_samples(photos, found, ids)) for photos in (train, val))
    return DataSet(
        ids,
        names,
        learned,
        validating,
        bad=tuple(bad),
        left_out=tuple(left_out),
        excluded=tuple(photo for photo in found.excluded if photo.side != "test"),
        notes=(*notes, *more),
        duplicates=duplicates,
        own_split=found.own_split,
        multi_label=found.multi_label,
        folds=tuple(dealt),
    )


def _join_sides(found: LabelledData) -> None:
    """Takes the photos that train and those that validate as one, for folds of both."""
    found.notes.append(
        "the data's own split is not used: what trains and what validates there is dealt into "
        "folds together; a test side stays out"
    )
    found.own_split = False
    found.photos = [p if p.side == "test" else replace(p, side=None) for p in found.photos]


def _samples(
    photos: Iterable[LabelledPhoto], found: LabelledData, ids: Sequence[str]
) -> Iterator[Sample]:
    index = {id_: place for place, id_ in enumerate(ids)}
    for photo in photos:
        labels = tuple(index[label] for label in found.labels_of(photo))
        digest = photo.digest[:DIGEST_BYTES]
        if found.multi_label:
            yield Sample(photo.path, photo.name, UNLABELLED, digest, tuple(sorted(labels)))
        else:
            yield Sample(photo.path, photo.name, labels[0], digest)


def _of_classes(
    good: Iterable[LabelledPhoto], found: LabelledData, classes: Container[str]
) -> Iterator[LabelledPhoto]:
    """The photos of these classes; of several labels those that are among them are kept."""
    for photo in good:
        labels = found.labels_of(photo)
        if all(label in classes for label in labels):
            yield photo
        elif found.multi_label:
            kept = (label for label in labels if label in classes)
            yield replace(photo, label=joined_labels(kept))


def _check_validation(
    data: str,
    found: LabelledData,
    val: Sequence[LabelledPhoto],
    left_out: Sequence[LabelledPhoto],
    ids: Sequence[str],
) -> Iterator[str]:
    """A note of the classes that no photo validates; UsageError where those are all."""
    if not val:
        raise _nothing_validates(data, found, len(left_out))
    validated = {label for photo in val for label in found.labels_of(photo)}
    if not validated:
        raise UsageError(
            f"{data}: none of its {count(len(val), 'validation photo')} has a label, so nothing "
            "can be said of any class. Give some of them labels."
        )
    if missing := sorted(set(ids) - validated):
        yield f"no validation photos, so nothing is known of: {some(missing)}"


def _nothing_validates(data: str, found: LabelledData, same: int) -> UsageError:
    if not found.own_split:
        return UsageError(f"{data}: no photo to validate with. Give each class two or more photos.")
    brought = len(found.side("val"))
    return UsageError(
        f"{data}: none of its {count(brought, 'validation photo')} can be used: "
        f"{same} are the same as "
        f"training photos, {brought - same} cannot be read or are of classes without training "
        "photos. Mend them, or take them away: then a part of the training photos validates."
    )


def _check_text(found: LabelledData, data: str) -> None:
    """Raises UsageError for a class that no checkpoint can name, before anything is learned.

    Old archives hold names in other encodings than UTF-8; which one, nothing says.
    """
    for label in sorted({photo.label for photo in found.photos}):
        try:
            label.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(
                f"{data}: the class {str(os.fsencode(label))[1:]} has a name that is not UTF-8, so "
                "no checkpoint can hold it. Rename the folder, or unpack the archive with its own "
                "encoding, such as unzip -O cp437."
            ) from None


def check_photos(
    photos: Sequence[LabelledPhoto], data: str, workers: int, progress: Progress
) -> tuple[list[LabelledPhoto], list[LabelledPhoto]]:
    """Decodes and hashes photos: the good ones, and the bad ones. UsageError if all are bad."""
    checked = [photo for _, photo in in_threads(_checked, photos, workers, progress)]
    good, bad = [p for p in checked if not p.error], [p for p in checked if p.error]
    if bad and not good:
        raise UsageError(
            f"{data}: none of {count(len(bad), 'photo')} can be read. {bad[0].name}: "
            f"{bad[0].error}."
        )
    return good, bad


def _checked(photo: LabelledPhoto) -> LabelledPhoto:
    try:
        decode(photo.path)  # first: it refuses pipes and devices, which could block for ever
        return replace(photo, digest=digest_of(photo.path))
    except (ImageError, OSError) as error:
        if (limit := limit_reached(error)) is not None:  # not the photo's fault
            raise ResnestError(f"{photo.path}: {limit}") from error
        why = f"cannot be read: {reason(error)}" if isinstance(error, OSError) else str(error)
        return replace(photo, error=why)


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, progress: Progress
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in order; a window of them at a time keeps memory flat."""
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="photos") as pool:
        for at in range(0, len(items), _WINDOW):
            window = items[at : at + _WINDOW]
            found = zip(window, pool.map(work, window), strict=True)
            for done, (item, result) in enumerate(found, start=at + 1):
                yield item, result
                progress(done, len(items))


def _class_notes(found: LabelledData, counts: Counter[str]) -> list[str]:
    notes = [f"{folder}: no photos; the class is left out" for folder in found.empty]
    there = (photo for photo in found.photos if photo.side != "test")
    labels = (label for photo in there for label in found.labels_of(photo))
    lost = Counter(label for label in labels if label not in counts)
    notes += [
        f"{label}: no readable photos to train on; the class is left out, with its "
        f"{count(number, 'photo')}"
        for label, number in sorted(lost.items())
    ]
    if single := sorted(label for label, count in counts.items() if count == 1):
        notes.append(f"one photo only, which trains: {some(single)}")
    return notes


def readable_names(ids: Sequence[str], path: str | None) -> tuple[tuple[str, ...], list[str]]:
    """Names from lines `id,name` or `id<TAB>name`, and notes; the ids themselves without a file."""
    if path is None:
        return tuple(ids), []
    with files.reading(path, UsageError):
        data = Path(path).read_bytes()
    text, notes, _ = decoded(data, path)
    delimiter = "\t" if "\t" in text else ","
    names = {}
    for number, cells in csv_lines(io.StringIO(text, newline=""), path, delimiter=delimiter):
        if len(cells) < 2 or not cells[1].strip():
            raise UsageError(f"{path}: line {number} lacks a name; lines are id,name.")
        names[canonical(cells[0].strip())] = delimiter.join(cells[1:]).strip()
    if missing := [id_ for id_ in ids if canonical(id_) not in names]:
        raise UsageError(f"{path}: has no name for {some(missing)}. Add a line for each class.")
    return tuple(names[canonical(id_)] for id_ in ids), notes


def write_split(path: Path, dataset: DataSet) -> None:
    """Keeps in `split.csv` which photo trains, which validates, and which was left out."""

    def texts(one: Sample) -> tuple[str, str]:
        labels = one.labels if dataset.multi_label else (one.label,)
        ids, names = dataset.class_ids, dataset.class_names
        return JOINT.join(ids[n] for n in labels), JOINT.join(names[n] for n in labels)

    rows = [
        SplitRow(one.name, *texts(one), side, digest=one.digest, fold=fold)
        for side, samples, folds in (
            ("train", dataset.train, dataset.folds or [0] * len(dataset.train)),
            ("val", dataset.val, [0] * len(dataset.val)),
        )
        for one, fold in zip(samples, folds, strict=True)
    ]
    rows += [
        SplitRow(one.name, "", "", UNLABELLED_SIDE, digest=one.digest) for one in dataset.unlabelled
    ]
    rows += [
        SplitRow(one.name, one.label, "", why, one.error)
        for why, photos in zip(LEFT_OUT, dataset.not_used, strict=True)
        for one in photos
    ]
    write_rows(path, rows, multi_label=dataset.multi_label)


def read_split(
    file: Path, data: str, base: str | None = None, unlabelled: str | None = None
) -> DataSet:
    """The data set that `write_split` wrote; photos lie in `base`, the folder, or the table's.

    Those without a label lie in the folder `unlabelled`; so do all where there are no other `data`.
    """
    data = data or unlabelled or ""
    rows = read_rows(file, "The run needs it to go on; start a new one without --resume.")
    several = has_label_sets(file)
    used = [row for row in rows if row.split in {"train", "val"}]
    names: dict[str, str] = {}
    for row in used:
        texts = (text.split(JOINT) if several else [text] for text in row[1:3])
        names |= {id_: name for id_, name in zip(*texts, strict=True) if id_}
    ids = tuple(sorted(names))
    index = {id_: place for place, id_ in enumerate(ids)}
    folder = base or (data if Path(data).is_dir() else str(Path(data).parent))

    def of(split: str) -> Iterator[tuple[str, SplitRow]]:
        return ((as_found(folder, row.name), row) for row in rows if row.split == split)

    def sample(path: str, row: SplitRow) -> Sample:
        if not several:
            return Sample(path, row.name, index[row.label], row.digest)
        labels = tuple(index[label] for label in split_labels(row.label))
        return Sample(path, row.name, UNLABELLED, row.digest, labels)

    train, val = (tuple(sample(*found) for found in of(side)) for side in ("train", "val"))
    bad, left_out, excluded = (
        tuple(LabelledPhoto(path, r.name, r.label, None, error=r.error) for path, r in of(why))
        for why in LEFT_OUT
    )
    loose = tuple(
        Sample(as_found(unlabelled or "", row.name), row.name, UNLABELLED, row.digest)
        for row in rows
        if row.split == UNLABELLED_SIDE
    )
    return DataSet(
        ids,
        tuple(names[id_] for id_ in ids),
        train,
        val,
        bad,
        left_out,
        excluded,
        own_split=True,
        unlabelled=loose,
        multi_label=several,
        folds=tuple(row.fold for row in used) if any(row.fold for row in used) else (),
    )


def sharded_dataset(index: Index, class_names: str | None = None) -> DataSet:
    """The data set of shards; `class_names` is a file of readable names."""
    names, notes = readable_names(index.class_ids, class_names)
    if class_names is None:
        names = index.class_names
    return DataSet(index.class_ids, names, (), (), notes=tuple(notes), own_split=True, shards=index)
