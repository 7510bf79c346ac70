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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
from resnest_cli.report.pages import model_line
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
    min_precision: float | None = None  # with `keep_logits`; of thresholds that are fitted
    against: "Gathered | None" = None  # the answers that these are to be compared with


class Answered(NamedTuple):
    """One photo: its record, the indices of its true classes, sorted, and the loss in nats.

    Where a photo has one label that is one class, and `place` is where it stands. `logits` float32
    (K,) if they are kept. `trained`: the model is known to have learned from it.
    """

    record: Record
    truth: tuple[int, ...]
    place: int = 0
    loss: float = 0.0
    logits: "Float32 | None" = None
    trained: bool = False

    @property
    def given(self) -> tuple[int, ...]:
        """The classes that the model gave the photo: the first one, or those it selected."""
        found = self.record.predictions
        chosen = [one for one in found if one.selected] if self.record.several else found[:1]
        return tuple(one.index for one in chosen)

    @property
    def right(self) -> bool:
        """Whether these are the true ones, all of them and no other."""
        return self.record.error is None and set(self.given) == set(self.truth)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a model answered to all photos.

    `split` is the side of the data that was judged, "all" for all of several, None without a split.
    `trained_on` is how many photos the model has learned from, None where that is not known;
    `excluded` how many of this side were left out with --exclude. `others` are the records of
    photos of something else, where such were asked about. `thresholds` are those of the classes of
    a model that may give a photo several labels. `about`: the model, and how it was fed.
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
    about: str = ""
    excluded: int = 0
    others: tuple[Record, ...] = ()
    thresholds: tuple[float, ...] | None = None

    @property
    def trained(self) -> int:
        """How many of the photos the model has learned from."""
        return sum(item.trained for item in self.items)

    def judged(self, *, every: bool = False) -> tuple[Answered, ...]:
        """The photos that the model has not learned from; of no readable one, or `every`, all."""
        unseen = tuple(item for item in self.items if not item.trained)
        none = all(item.record.error is not None for item in unseen)
        return self.items if every or none else unseen

    def named(self, classes: Iterable[int]) -> str | list[str]:
        """The name of a photo's class as JSON has it; a list where there may be several."""
        names = [self.class_names[index] for index in classes]
        return names[0] if self.thresholds is None else names


def check_calibrated(job: EvaluateJob) -> None:
    """Raises a UsageError unless the model is a file that a temperature can be written into, and
    thresholds, too, where a precision is wanted.
    """
    from resnest_cli.model.checkpoint_header import read_info

    path = Path(job.model.model)
    if job.min_precision is not None and not job.keep_logits:
        raise UsageError("--min-precision goes with --calibrate.")
    info = read_info(path) if job.model.weights is None and path.is_file() else None
    if info is None or info.format != "resnest":
        raise UsageError(
            f"--calibrate writes into a checkpoint of ours, and {job.model.model} is none. Give "
            "--model the path of one, such as runs/finetune/exp/weights/best.safetensors."
        )
    if job.min_precision is not None and info.thresholds is None:
        raise UsageError(f"--min-precision: {path} gives a photo one label, by no threshold.")


def other_job(job: EvaluateJob, model: str, first: Gathered) -> EvaluateJob:
    """The photos of `first` for another model, fed as it wants to be."""
    names = ("weights", "labels", "img_size", "crop_pct", "interpolation")
    fed: dict[str, Any] = dict.fromkeys(names)
    theirs = replace(job.model, model=model, **fed)
    return replace(job, model=theirs, keep_logits=False, unknown_data=None, against=first)


def evaluate(job: EvaluateJob, make: Make, progress: Progress = silent) -> Gathered:
    """Asks the model about every labelled photo. `make` gives a classifier.

    Raises:
        UsageError: the data have no photos, or classes that the model does not know, or several
            labels for a photo, of which the model gives one.
        ResnestError: the model or the data cannot be had, or no photo can be read.
    """
    from resnest_cli.data.class_folders import list_data

    listing = list_data(job.data, job.reading)
    photos, split = _chosen(job, listing)
    others = _others(job)
    classifier = make(job.model, tta=job.tta, ready_for="features+logits" if others else "logits")
    model = classifier.model
    model.need_classifier()
    labelled, notes = _with_classes(job, listing, photos, model)
    trained_on = model.trained_on
    if trained_on is None and Path(job.model.model).exists():
        notes.append(
            f"{model.name} does not say which photos it was trained on; any of them among these "
            "make the figures too good."
        )
    items: list[Answered] = []
    failed, total = 0, len(labelled) + len(others)
    for item in _answered(job, classifier, labelled):
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
        about=model_line(classifier),
        path=str(model.path),
        split=split,
        trained_on=trained_on.photos if trained_on else None,
        class_names=model.class_names,
        class_ids=model.class_ids,
        temperature=model.temperature,
        notes=tuple(notes),
        excluded=sum(split in {None, "all", photo.side} for photo in listing.excluded),
        thresholds=model.thresholds,
    )


def _answered(
    job: EvaluateJob, classifier: "Classifier", photos: "Sequence[Labelled]"
) -> Iterator[Answered]:
    """What the model says of each photo; whether it was trained on it, too."""
    from resnest_cli.evaluation.label_scores import binary_loss
    from resnest_cli.evaluation.scores import answer
    from resnest_cli.model.training_photos import digest_of

    model, options = classifier.model, job.options
    several = model.thresholds is not None
    learned = model.trained_on.membership(model.path) if model.trained_on else None
    with Decoders.of(options, job.model) as decoders:
        answers = classifier.answers(
            (Source(photo.path, path=photo.path) for photo, _ in photos),
            topk=TOPK,
            unknown=None if job.unknown_data is None else job.unknown,
            batch_size=options.batch_size,
            workers=options.workers,
            decoders=decoders,
        )
        for (photo, truth), (record, logits) in zip(photos, answers, strict=True):
            item = Answered(record, truth)
            if logits is not None:
                if several:
                    place, loss = 0, binary_loss(logits, truth, model.temperature)
                else:
                    place, loss = answer(logits, truth[0], model.temperature)
                trained = False
                with suppress(OSError):  # read again, from the system's memory
                    trained = learned is not None and learned(digest_of(photo.path))
                kept = logits if job.keep_logits or several else None
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


Labelled = tuple["LabelledPhoto", tuple[int, ...]]  # a photo and the indices of its classes


def _with_classes(
    job: EvaluateJob, listing: "LabelledData", photos: "list[LabelledPhoto]", model: "Model"
) -> "tuple[list[Labelled], list[str]]":
    """The photos of classes that the model knows, those without a label, too; and what to say."""
    notes = [*listing.notes, *_check_kinds(job, listing, model)]
    if listing.multi_label and Path(job.data).is_dir():
        photos = _merged(photos, listing, notes)
    indices, unknown, more = class_indices(
        {label for photo in photos for label in listing.labels_of(photo)},
        model,
        known_only=job.known_only,
        folders=folder_names(job.data, listing),
        numbers=job.folder_numbers,
    )
    notes += more
    labelled: list[Labelled] = []
    for photo in photos:
        labels = listing.labels_of(photo)
        truth = sorted({indices[label] for label in labels if label in indices})
        if truth or not labels:
            labelled.append((photo, tuple(truth)))
    if unknown:
        others = "; what has other labels, too, keeps those" * listing.multi_label
        notes.append(
            f"{count(len(photos) - len(labelled), 'photo')} of "
            f"{count(len(unknown), 'class', 'classes')} left out: the model does not know "
            f"them{others}."
        )
    if not any(truth for _, truth in labelled):
        raise UsageError(f"{job.data}: has no photo of a class that the model knows.")
    return labelled, notes


def _check_kinds(job: EvaluateJob, listing: "LabelledData", model: "Model") -> Iterator[str]:
    """A note where the model may give several labels and the data have one.

    UsageError the other way round, and where two models of different kinds are to be compared.
    """
    several = model.thresholds is not None
    kinds = {False: "one label", True: "several labels, or none"}
    first = job.against
    if first is not None and (first.thresholds is not None) != several:
        raise UsageError(
            f"--compare {model.name}: it gives a photo {kinds[several]}, {first.model} "
            f"{kinds[not several]}. Their figures cannot be compared."
        )
    if listing.multi_label and not several:
        raise UsageError(
            f"{job.data}: a photo has several labels here, or none, and {model.name} gives a photo "
            f"one. Give a model that gives several, as `resnest finetune {job.data}` makes them."
        )
    if several and not listing.multi_label:
        yield (
            f"{job.data} names one label for each photo; {model.name} may give it several, of "
            "which the others count as wrong. Are there more, see --multi-label."
        )


def _merged(
    photos: "list[LabelledPhoto]", listing: "LabelledData", notes: list[str]
) -> "list[LabelledPhoto]":
    """One photo for all copies of it in several class folders, with the labels of all."""
    from resnest_cli.data.split import merged_copies
    from resnest_cli.model.training_photos import digest_of

    hashed, unread = [], []
    for photo in photos:
        try:
            hashed.append(replace(photo, digest=digest_of(photo.path)))
        except OSError:
            unread.append(photo)  # gets its error where it is asked about
    return [*merged_copies(hashed, listing, notes), *unread]


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
