"""What `resnest explain` does: photos -> explanations, and the page of them.

One photo after the other is decoded, explained and drawn, so that memory stays flat.
"""

import gc
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import ImageError
from resnest_cli.images import NO_MEMORY, take_note
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source, SourceStats, listed
from resnest_cli.inference.ranking import Record
from resnest_cli.options import ModelOptions, RunOptions

if TYPE_CHECKING:
    from resnest_cli.explanation.photo_view import Region
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.report.pages import Page

MOST_CLASSES = 12  # in one picture
LEGEND = (
    "The lighter and the more yellow a place, the more it speaks for the class (Grad-CAM, each map "
    "on its own scale); the white line goes where it is half the most, the orange frame around "
    "what the network saw."
)
_MOST_ON_PAGE = 1000  # photos: each brings some 10 kB a class

# Photos after which figures, which hold each other in circles, are swept up: Python itself would
# wait until there are hundreds of MB of them. It takes a tenth of a second.
_SWEEP = 10

Make = Callable[[ModelOptions], "Classifier"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where pictures go: a file, or a `folder` with a file for each photo."""

    path: Path
    folder: bool

    def of(self, index: int, name: str, ending: str) -> Path:
        """The file for the photo `name`, the input number `index` from 0: 00001-cat.png."""
        if not self.folder:
            return self.path
        # The number makes it unique, whatever photos are called.
        stem = re.sub(r"[^\w.-]+", "_", Path(name).stem.encode("utf-8", "replace").decode())
        return self.path / f"{index + 1:05}-{stem[:60] or 'photo'}{ending}"


@dataclass(frozen=True, slots=True)
class ExplainJob:
    """What was asked for; see the options of `resnest explain`.

    `stage` is None for the one that suits the photos' size. With `tiles` explanations bring small
    pictures for a page.
    """

    options: RunOptions
    model: ModelOptions
    classes: tuple[str, ...]
    topk: int
    stage: int | None
    heat: Target | None
    attention: Target | None
    tiles: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """The answer for one photo. `regions` are where it is hot, for each class of the record.

    `heat` and `attention` are the files that were written. `tiles` are JPEG files, of the photo and
    of each class.
    """

    record: Record
    stage: int | None = None
    regions: "tuple[Region | None, ...]" = ()
    blocks: tuple[dict[str, Any], ...] = ()
    heat: str | None = None
    attention: str | None = None
    tiles: tuple[bytes, ...] = ()

    @property
    def input(self) -> str:
        """The photo's name."""
        return self.record.input

    @property
    def error(self) -> str | None:
        """Why there is no answer."""
        return self.record.error

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON has it; `hot` is where, in fractions of the upright photo's sides."""
        found = self.record.as_dict()
        for prediction, region in zip(found["predictions"], self.regions, strict=True):
            prediction["hot"] = region and {
                "box": [round(value, 4) for value in region.box],
                "centre": [round(value, 4) for value in region.centre],
            }
        found |= {"stage": self.stage, "heat": self.heat}
        if self.blocks:
            found |= {"attention": self.attention, "blocks": list(self.blocks)}
        return found


Results = Generator[Explained, None, int]


def explain(job: ExplainJob, make: Make) -> Results:
    """An explanation for each input, in order; returns how many other files were passed over.

    `make` gives a classifier with the torch engine.

    Raises:
        UsageError: a class that the model does not know, or that several of its classes are called.
        ResnestError: the model cannot be had, or a picture cannot be written.
    """
    from resnest_cli.explanation.explainer import Explainer
    from resnest_cli.explanation.photo_view import Look

    classifier = make(job.model)
    explainer, look, stats = Explainer(job, classifier), Look(classifier.preparation), SourceStats()
    with Decoders.of(job.options, job.model) as decoders:
        for index, source in enumerate(listed(job.options, stats)):
            error = source.error or _ours(source, job)
            if error is None:
                try:
                    photo = classifier.read(source)
                    assert isinstance(photo, str | bytes)
                    view = decoders.run(look, photo)
                except ImageError as wrong:
                    error = str(wrong)
                except MemoryError:
                    error = NO_MEMORY
                else:
                    classifier.note(source, take_note())
                    yield explainer.explained(index, source.name, view)
                    if index % _SWEEP == 0:
                        gc.collect()
                    continue
            yield Explained(Record(source.name, classifier.model.name, error=error))
    return stats.skipped


def _ours(source: Source, job: ExplainJob) -> str | None:
    """What is wrong with a photo in a folder that is being written to: there would be no end."""
    targets = [target for target in (job.heat, job.attention) if target and target.folder]
    folders = {target.path.resolve() for target in targets}
    if source.path is not None and Path(source.path).resolve().parent in folders:
        return "lies in the folder that pictures are written to"
    return None


def explanation_page(model: str) -> "Page":
    """An empty page of explanations."""
    from resnest_cli.report.pages import Page

    return Page(f"Where {model} looked", "", most=_MOST_ON_PAGE, wide=True)


def add_to(page: "Page", found: Explained) -> None:
    """Adds an explanation to its page."""
    from resnest_cli.report.pages import jpeg_uri

    page.add(found.record, tiles=list(map(jpeg_uri, found.tiles)))
