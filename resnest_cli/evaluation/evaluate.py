"""What `resnest evaluate` does: labelled photos -> what the model answers for each.

The labelled photos are listed, each one's class is found and the model is asked, exactly as
`predict` does. `evaluate` gathers the answers, as plain data; `figures` makes figures of them.

Folders named by numbers mean one of two things: the index of the class, or a name like any other,
of which the sorted order made the indices (torchvision's ImageFolder and most programs: 0, 1, 10,
11, 2). Where the model has names or ids for its classes they decide, and a number that is none of
them is an index. Where it has none, folders are taken in sorted order; labels in a table are
indices.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from resnest_cli.data.labelled_photos import AS_FOUND, Reading
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source, iter_sources
from resnest_cli.inference.ranking import Record
from resnest_cli.model.labels import labels_for, look_up, unknown_classes
from resnest_cli.options import ModelOptions, RunOptions
from resnest_cli.progress import Progress, silent
from resnest_cli.text import count

if TYPE_CHECKING:
    from resnest_cli.data.labelled_photos import LabelledData, LabelledPhoto
    from resnest_cli.inference.classifier import Classifier, Float32
    from resnest_cli.model.loading import Model

Split = Literal["auto", "train", "val", "test", "all"]
FolderNumbers = Literal["auto", "index", "sorted"]
Make = Callable[..., "Classifier"]  # of a model, and with `tta` of mirror images, too

TOPK = 5  # classes in the record of each photo
SIDES = ("val", "test", "train")  # in the order in which one is chosen
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_ALIKE = 10  # so many numbers from 0 on have one order


@dataclass(frozen=True, slots=True)
class EvaluateJob:
    """What was asked for; see the options of `resnest evaluate`."""

    data: str
    split: Split
    known_only: bool
    options: RunOptions
    model: ModelOptions
    tta: bool = False
    keep_logits: bool = False
    folder_numbers: FolderNumbers = "auto"
    reading: Reading = AS_FOUND
    unknown_data: str | None = None
    unknown: float = 0.05  # accepted share of false alarms, with `unknown_data`


class Answered(NamedTuple):
    """One photo: its record, true class, the place of that class, the loss in nats.

    `logits` float32 (K,) if they are kept. `trained`: the model is known to have learned from it.
    """

    record: Record
    truth: int
    place: int = 0
    loss: float = 0.0
    logits: "Float32 | None" = None
    trained: bool = False


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a model answered to all photos.

    `split` is the side of the data that was judged, "all" for all of several, None without a split.
    `trained_on` is how many photos the model has learned from, None where that is not known;
    `excluded` how many of this side were left out with --exclude. `others` are the records of
    photos of something else, where such were asked about.
    """

    items: tuple[Answered, ...]
    model: str
    path: str
    split: str | None
    trained_on: int | None
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None
    temperature: float
    notes: tuple[str, ...]
    excluded: int = 0
    others: tuple[Record, ...] = ()

    @property
    def trained(self) -> int:
        """How many of the photos the model has learned from."""
        return sum(item.trained for item in self.items)


def check_calibrated(job: EvaluateJob) -> None:
    """Raises a UsageError unless the model is a file that a temperature can be written into."""
    from resnest_cli.model.checkpoint_header import read_info

    path = Path(job.model.model)
    if job.model.weights is not None or not path.is_file() or read_info(path).format != "resnest":
        raise UsageError(
            f"--calibrate writes into a checkpoint of ours, and {job.model.model} is none. Give "
            "--model the path of one, such as runs/finetune/exp/weights/best.safetensors."
        )


def other_job(job: EvaluateJob, model: str) -> EvaluateJob:
    """The same photos for another model, fed as it wants to be."""
    names = ("weights", "labels", "img_size", "crop_pct", "interpolation")
    fed: dict[str, Any] = dict.fromkeys(names)
    theirs = replace(job.model, model=model, **fed)
    return replace(job, model=theirs, keep_logits=False, unknown_data=None)


def evaluate(job: EvaluateJob, make: Make, progress: Progress = silent) -> Gathered:
    """Asks the model about every labelled photo. `make` gives a classifier.

    Raises:
        UsageError: the data have no photos, or classes that the model does not know.
        ResnestError: the model or the data cannot be had, or no photo can be read.
    """
    from resnest_cli.data.class_folders import list_data

    listing = list_data(job.data, job.reading)
    listing.need_one_label(job.data, "evaluate")
    photos, split = _chosen(job, listing)
    others = _others(job)
    classifier = make(job.model, tta=job.tta, ready_for="features+logits" if others else "logits")
    model = classifier.model
    model.need_classifier()
    model.need_one_label("evaluate")
    photos, indices, notes = _with_classes(job, listing, photos, model)
    trained_on = model.trained_on
    if trained_on is None and Path(job.model.model).exists():
        notes.append(
            f"{model.name} does not say which photos it was trained on; any of them among these "
            "make the figures too good."
        )
    items: list[Answered] = []
    failed, total = 0, len(photos) + len(others)
    for item in _answered(job, classifier, photos, indices):
        items.append(item)
        failed += item.record.error is not None
        progress(len(items), total, failed=failed)
    if failed == len(items):
        first = items[0].record
        raise ResnestError(
            f"{job.data}: none of {count(failed, 'photo')} can be read. The first, {first.input}, "
            f"{first.error}."
        )
    strange: list[Record] = []
    for record in _strange(job, classifier, others) if others else ():
        strange.append(record)
        progress(len(items) + len(strange), total, failed=failed)
    if others and all(record.error is not None for record in strange):
        raise ResnestError(f"--unknown-data {job.unknown_data}: no photo in it can be read.")
    return Gathered(
        others=tuple(strange),
        items=tuple(items),
        model=model.name,
        path=str(model.path),
        split=split,
        trained_on=trained_on.photos if trained_on else None,
        class_names=model.class_names,
        class_ids=model.class_ids,
        temperature=model.temperature,
        notes=tuple(notes),
        excluded=sum(split in {None, "all", photo.side} for photo in listing.excluded),
    )


def _answered(
    job: EvaluateJob,
    classifier: "Classifier",
    photos: "list[LabelledPhoto]",
    indices: Mapping[str, int],
) -> Iterator[Answered]:
    """What the model says of each photo; whether it was trained on it, too."""
    from resnest_cli.evaluation.scores import answer
    from resnest_cli.model.training_photos import digest_of

    model, options = classifier.model, job.options
    learned = model.trained_on.membership(model.path) if model.trained_on else None
    with Decoders.of(options, job.model) as decoders:
        answers = classifier.answers(
            (Source(photo.path, path=photo.path) for photo in photos),
            topk=TOPK,
            unknown=None if job.unknown_data is None else job.unknown,
            batch_size=options.batch_size,
            workers=options.workers,
            decoders=decoders,
        )
        for photo, (record, logits) in zip(photos, answers, strict=True):
            item = Answered(record, indices[photo.label])
            if logits is not None:
                place, loss = answer(logits, item.truth, model.temperature)
                trained = False
                with suppress(OSError):  # read again, from the system's memory
                    trained = learned is not None and learned(digest_of(photo.path))
                kept = logits if job.keep_logits else None
                item = item._replace(place=place, loss=loss, logits=kept, trained=trained)
            yield item


def _others(job: EvaluateJob) -> list[Source]:
    """The photos of something else; UsageError where there are none."""
    if job.unknown_data is None:
        return []
    if not Path(job.unknown_data).is_dir():
        raise UsageError(f"--unknown-data {job.unknown_data}: there is no such folder of photos.")
    found = list(iter_sources([job.unknown_data]))
    if not found:
        raise UsageError(f"--unknown-data {job.unknown_data}: has no photo.")
    return found


def _strange(job: EvaluateJob, classifier: "Classifier", others: list[Source]) -> Iterator[Record]:
    """What the model says of photos of something else."""
    options = job.options
    with Decoders.of(options, job.model) as decoders:
        yield from classifier.records(
            others,
            topk=TOPK,
            unknown=job.unknown,
            batch_size=options.batch_size,
            workers=options.workers,
            decoders=decoders,
        )


def _chosen(job: EvaluateJob, listing: "LabelledData") -> "tuple[list[LabelledPhoto], str | None]":
    """The photos of the wanted side, and which that is; None where the data have no split."""
    sides = {photo.side for photo in listing.photos}
    there = [side for side in SIDES if side in sides]
    if job.split in SIDES and job.split not in there:
        has = f"has {', '.join(sorted(there))}, but no {job.split}" if there else "has no split"
        raise UsageError(f"--split {job.split}: {job.data} {has}.")
    side = job.split if job.split != "auto" else [*there, "all"][0]
    photos = [photo for photo in listing.photos if side in {"all", photo.side}]
    return photos, side if there else None


def _with_classes(
    job: EvaluateJob, listing: "LabelledData", photos: "list[LabelledPhoto]", model: "Model"
) -> "tuple[list[LabelledPhoto], dict[str, int], list[str]]":
    """The photos of classes that the model knows, the index of each label, and what to say."""
    indices, unknown, more = class_indices(
        {photo.label for photo in photos},
        model,
        known_only=job.known_only,
        folders=folder_names(job.data, listing),
        numbers=job.folder_numbers,
    )
    notes = [*listing.notes, *more]
    if unknown:
        before = len(photos)
        photos = [photo for photo in photos if photo.label in indices]
        notes.append(
            f"{count(before - len(photos), 'photo')} of "
            f"{count(len(unknown), 'class', 'classes')} left out: the model does not know them."
        )
    if not photos:
        raise UsageError(f"{job.data}: has no photo of a class that the model knows.")
    return photos, indices, notes


# The classes of folders


class Truth(NamedTuple):
    """The index of each label's class, labels that the model does not know, and what to say."""

    indices: dict[str, int]
    unknown: list[str]
    notes: list[str]


def folder_names(data: str, listing: "LabelledData") -> set[str]:
    """The names of all class folders, of every side, empty ones too; none of a table."""
    if not Path(data).is_dir():
        return set()
    return {photo.label for photo in listing.photos} | {Path(name).name for name in listing.empty}


def class_indices(
    labels: Iterable[str],
    model: "Model",
    *,
    known_only: bool = False,
    folders: Collection[str] = (),
    numbers: FolderNumbers = "auto",
) -> Truth:
    """The index of each label's class, as `model.classes.look_up` finds it; of numbers see above.

    `folders` are all class folders where labels are their names. With `known_only` labels that the
    model does not know are returned, too.

    Raises:
        UsageError: a label that the model does not know, or that several of its classes have;
            numbers that cannot be taken as `numbers` says.
    """
    labels = set(labels)
    names, notes = set(folders) or labels, list[str]()
    only_numbers = all(map(_NUMBER.fullmatch, names))
    found: dict[str, int] = {}
    # Whether nothing says what the classes are called, and more than ten make two orders.
    named = model.class_ids is not None or model.class_names != labels_for(model.num_classes)
    two_orders = only_numbers and not named and model.num_classes > _ALIKE
    if numbers == "sorted" or (numbers == "auto" and folders and two_orders):
        order = _sorted_order(names, model, asked=numbers == "sorted")
        found = {label: order[label] for label in labels if label in order}
        if numbers == "auto" and found:
            first = ", ".join(list(order)[:5])
            notes.append(
                f"Folders named by numbers are taken in sorted order ({first}, ...), as most "
                "training programs take them; --folder-numbers index takes each number as the "
                "index of its class."
            )
    elif numbers == "index":
        found = {n: int(n) for n in filter(_NUMBER.fullmatch, labels) if int(n) < model.num_classes}
    remedy = "Name the folder by the class's index or id."
    more, unknown = look_up(labels - found.keys(), model, remedy=remedy)
    if unknown and not known_only:
        hint = ""
        if only_numbers and len(names) == model.num_classes:
            hint = " --folder-numbers sorted takes the folders in sorted order."
        raise UsageError(
            f"{unknown_classes(unknown, model)} Folders are named by a class's name, id or index; "
            f"--known-only leaves the others out.{hint}"
        )
    return Truth(found | more, unknown, notes)


def _sorted_order(names: Collection[str], model: "Model", *, asked: bool) -> dict[str, int]:
    """The index of each class by the sorted names of as many folders as the model has classes.

    Of fewer folders the others are taken to have the missing numbers from 0 on; empty where they
    cannot.
    """
    classes = model.num_classes
    every = {str(index) for index in range(classes)}
    numbered = set(names) <= every
    if not numbered and not asked:
        return {}
    if not numbered and len(names) != classes:
        raise UsageError(
            f"--folder-numbers sorted: {model.name} has {classes} classes, and "
            f"{count(len(names), 'folder')} are neither as many nor all named by numbers below "
            f"{classes}."
        )
    return {name: index for index, name in enumerate(sorted(every if numbered else names))}
