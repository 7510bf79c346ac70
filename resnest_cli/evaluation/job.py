"""What `resnest evaluate` does, apart from its command line; free of Typer.

The working process lists the labelled photos, finds each one's class and asks the model, exactly as
`predict` does; a photo that crashes the decoder gives a record with an error there, too. This one
gathers; `figures` makes sense of it.
"""

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
    from resnest_cli.data.listing import Listed
    from resnest_cli.inference.classifier import Classifier

Split = Literal["auto", "train", "val", "all"]

TOPK = 5  # classes in the record of each photo


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
    reading: Reading = AS_FOUND


class Answered(NamedTuple):
    """One photo of `total`: its record, true class, place of that class, loss in nats; logits if
    kept.
    """

    total: int
    record: Record
    truth: int
    place: int
    loss: float
    logits: bytes | None


@dataclass(frozen=True, slots=True)
class Told:
    """What the working process knows of the model and the data."""

    model: str
    path: str
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None
    temperature: float
    notes: tuple[str, ...]


def check_folder(folder: Path) -> None:
    """Whether results can go there; before anything slow begins.

    Raises:
        ResnestError: it is a file, or its parent does not exist.
    """
    if folder.exists() and not folder.is_dir():
        raise ResnestError(f"{folder}: cannot be written: is a file. Give -o a folder.")
    if not folder.parent.is_dir():
        raise ResnestError(f"{folder}: cannot be written: there is no folder {folder.parent}.")


Make = Callable[[ModelOptions, bool], "Classifier"]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the working process answered. Plain data: nothing of it needs numpy."""

    items: tuple[Answered, ...]
    told: Told


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
    from resnest_cli.evaluation.scores import answer
    from resnest_cli.evaluation.truth import class_indices
    from resnest_cli.images.sources import Source
    from resnest_cli.inference.run import careful

    photos, notes = _labelled(job)
    classifier = make(job.model, job.tta)
    model = classifier.model
    model.need_classifier()
    indices, unknown = class_indices({p.label for p in photos}, model, known_only=job.known_only)
    if unknown:
        before = len(photos)
        photos = [photo for photo in photos if photo.label in indices]
        notes.append(
            f"{before - len(photos)} photo(s) of {len(unknown)} class(es) left out: the model does "
            "not know them."
        )
    if not photos:
        raise UsageError(f"{job.data}: has no photo of a class that the model knows.")
    sources = (Source(photo.path, path=photo.path) for photo in islice(photos, start.skip, None))
    with ExitStack() as stack:
        answers = classifier.answers(
            sources,
            topk=TOPK,
            batch_size=job.options.batch_size,
            workers=job.options.workers,
            first=start.skip,
            prepare=careful(classifier, job.options, start, stack),
        )
        for photo, (record, logits) in zip(photos[start.skip :], answers, strict=True):
            truth = indices[photo.label]
            if logits is None:
                yield Answered(len(photos), record, truth, 0, 0.0, None)
                continue
            place, loss = answer(logits, truth, model.temperature)
            kept = logits.tobytes() if job.keep_logits else None
            yield Answered(len(photos), record, truth, place, loss, kept)
    return Told(
        model=model.name,
        path=str(model.path),
        class_names=model.class_names,
        class_ids=model.class_ids,
        temperature=model.temperature,
        notes=tuple(notes),
    )


def _labelled(job: EvaluateJob) -> "tuple[list[Listed], list[str]]":
    """The photos of the wanted side, and what the user should know of the data."""
    from resnest_cli.data.class_folders import list_data

    listing = list_data(job.data, job.reading)
    if not listing.own_split:
        if job.split in {"train", "val"}:
            raise UsageError(f"--split {job.split}: {job.data} has no split.")
        return listing.photos, listing.notes
    side = "val" if job.split == "auto" else job.split
    photos = [photo for photo in listing.photos if side in {"all", photo.side}]
    return photos, listing.notes
