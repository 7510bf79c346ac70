"""What `resnest evaluate` does, apart from its command line; free of Typer.

The working process lists the labelled photos, finds each one's class and asks the model, exactly as
`predict` does; a photo that crashes the decoder gives a record with an error there, too. This one
gathers; `figures` makes sense of it.
"""

import contextlib
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from resnest_cli.data.listing import AS_FOUND, Reading
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.inference.records import Record
from resnest_cli.inference.run_options import ModelOptions, RunOptions
from resnest_cli.supervise import Start, supervised

if TYPE_CHECKING:
    from resnest_cli.data.listing import Listed, Listing
    from resnest_cli.evaluation.truth import FolderNumbers
    from resnest_cli.images.sources import Source
    from resnest_cli.inference.classifier import Classifier, Float32, Prepare
    from resnest_cli.model.loading import Model

Split = Literal["auto", "train", "val", "test", "all"]

TOPK = 5  # classes in the record of each photo
SIDES = ("val", "test", "train")  # in the order in which one is chosen


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
    folder_numbers: "FolderNumbers" = "auto"
    reading: Reading = AS_FOUND


class Answered(NamedTuple):
    """One photo of `total`: its record, true class, place of that class, loss in nats; logits if
    kept. `trained` says that the model is known to have learned from it.
    """

    total: int
    record: Record
    truth: int
    place: int
    loss: float
    logits: bytes | None
    trained: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What the working process knows of the model and the data.

    `split` is the side of the data that was judged, "all" for all of several, None without a split.
    `trained_on` is how many photos the model has learned from, None where that is not known.
    """

    model: str
    path: str
    split: str | None
    trained_on: int | None
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None
    temperature: float
    notes: tuple[str, ...]


Make = Callable[[ModelOptions, bool], "Classifier"]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the working process answered. Plain data: nothing of it needs numpy."""

    items: tuple[Answered, ...]
    told: Told

    @property
    def trained(self) -> int:
        """How many of the photos the model has learned from."""
        return sum(item.trained for item in self.items)

    @property
    def judged(self) -> "Gathered":
        """The photos that the figures are of: those that the model has not learned from, and all
        where no readable one is left.
        """
        left = tuple(item for item in self.items if not item.trained)
        if all(item.record.error is not None for item in left):
            return self
        return Gathered(left, self.told)


def gather(
    job: EvaluateJob, make: Make, progress: Callable[[int, int, int], None] = lambda *_: None
) -> Gathered:
    """Asks the model about every labelled photo. `make` gives a classifier, in either process.

    Call it before numpy is imported, whose threads would leave the work without protection.

    Raises:
        UsageError: the data have no photos, or classes that the model does not know.
        ResnestError: the model or the data cannot be had, or no photo can be read.
    """
    found = supervised(partial(_work, job, make), time_limit=job.options.time_limit)
    items: list[Answered] = []
    failed = 0
    while True:
        try:
            item = next(found)
        except StopIteration as end:
            told: Told = end.value
            break
        items.append(item)
        failed += item.record.error is not None
        progress(len(items), failed, item.total)
    if failed == len(items):
        first = items[0].record
        raise ResnestError(
            f"{job.data}: none of {failed} photo(s) can be read. The first, {first.input}, "
            f"{first.error}."
        )
    return Gathered(tuple(items), told)


def _work(job: EvaluateJob, make: Make, start: Start) -> Generator[Answered, None, Told]:
    from resnest_cli.data.class_folders import list_data
    from resnest_cli.evaluation.scores import answer
    from resnest_cli.evaluation.truth import class_indices, folder_names
    from resnest_cli.images.sources import Source
    from resnest_cli.inference.run import careful

    listing = list_data(job.data, job.reading)
    photos, split = _chosen(job, listing)
    notes = listing.notes
    classifier = make(job.model, job.tta)
    model = classifier.model
    model.need_classifier()
    indices, unknown, more = class_indices(
        {photo.label for photo in photos},
        model,
        known_only=job.known_only,
        folders=folder_names(job.data, listing),
        numbers=job.folder_numbers,
    )
    notes += more
    if unknown:
        before = len(photos)
        photos = [photo for photo in photos if photo.label in indices]
        notes.append(
            f"{before - len(photos)} photo(s) of {len(unknown)} class(es) left out: the model does "
            "not know them."
        )
    if not photos:
        raise UsageError(f"{job.data}: has no photo of a class that the model knows.")
    trained: set[int] = set()
    if model.trained_on is None and Path(job.model.model).exists():
        notes.append(
            f"{model.name} does not say which photos it was trained on; any of them among these "
            "make the figures too good."
        )
    sources = (Source(photo.path, path=photo.path) for photo in islice(photos, start.skip, None))
    with ExitStack() as stack:
        answers = classifier.answers(
            sources,
            topk=TOPK,
            batch_size=job.options.batch_size,
            workers=job.options.workers,
            first=start.skip,
            prepare=_noting(model, trained, careful(classifier, job.options, start, stack)),
        )
        rest = zip(photos[start.skip :], answers, strict=True)
        for index, (photo, (record, logits)) in enumerate(rest, start.skip):
            truth = indices[photo.label]
            if logits is None:
                yield Answered(len(photos), record, truth, 0, 0.0, None)
                continue
            place, loss = answer(logits, truth, model.temperature)
            kept = logits.tobytes() if job.keep_logits else None
            yield Answered(len(photos), record, truth, place, loss, kept, index in trained)
    return Told(
        model=model.name,
        path=str(model.path),
        split=split,
        trained_on=model.trained_on.photos if model.trained_on else None,
        class_names=model.class_names,
        class_ids=model.class_ids,
        temperature=model.temperature,
        notes=tuple(notes),
    )


def _chosen(job: EvaluateJob, listing: "Listing") -> "tuple[list[Listed], str | None]":
    """The photos of the wanted side, and which that is; None where the data have no split."""
    sides = {photo.side for photo in listing.photos}
    there = [side for side in SIDES if side in sides]
    if job.split in SIDES and job.split not in there:
        has = f"has {', '.join(sorted(there))}, but no {job.split}" if there else "has no split"
        raise UsageError(f"--split {job.split}: {job.data} {has}.")
    side = job.split if job.split != "auto" else [*there, "all"][0]
    photos = [photo for photo in listing.photos if side in {"all", photo.side}]
    return photos, side if there else None


def _noting(model: "Model", trained: set[int], prepare: "Prepare") -> "Prepare":
    """The same `prepare`, which also notes the numbers of photos that the model was trained on."""
    from resnest_cli.model.training_photos import digest_of

    if model.trained_on is None:
        return prepare
    known = model.trained_on.membership(model.path)

    def noting(index: int, source: "Source") -> "Float32":
        photo = prepare(index, source)
        assert source.path is not None
        with contextlib.suppress(OSError):  # read again, from the system's memory
            if known(digest_of(source.path)):
                trained.add(index)
        return photo

    return noting
