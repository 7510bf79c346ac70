"""What `predict` is asked for, its records on this machine, and the classifier of commands."""

import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli import output
from resnest_cli.errors import UsageError
from resnest_cli.images.pool import Decoders
from resnest_cli.options import ModelOptions, RunOptions, SortOptions, XmpOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resnest_cli.images.sources import Source
    from resnest_cli.inference.classifier import BatchOptions, Classifier
    from resnest_cli.inference.engine import Output
    from resnest_cli.inference.ranking import Record
    from resnest_cli.report.sidecars import Sidecars


@dataclass(frozen=True, slots=True)
class Ranking:
    """What is kept of each photo's answer; see the options of `resnest predict`."""

    topk: int
    threshold: float
    reject_below: float
    tta: bool
    unknown: float | None = None  # accepted share of false alarms

    def words(self) -> list[str]:
        """What was asked for beside the classes, for people."""
        named = {
            f"classes from {self.threshold:.0%} on": self.threshold > 0,
            f"unsure below {self.reject_below:.0%}": self.reject_below > 0,
            f"unknown at {self.unknown or 0:.1%} false alarms": self.unknown is not None,
            "averaged with mirror images": self.tta,
        }
        return [text for text, given in named.items() if given]

    @property
    def output(self) -> "Output":
        """The engine's output that answers are made of."""
        return "logits" if self.unknown is None else "features+logits"


@dataclass(frozen=True, slots=True)
class Request:
    """All that `resnest predict` was asked for; see its options."""

    run: RunOptions
    model: ModelOptions
    ranking: Ranking
    sort: SortOptions
    xmp: XmpOptions
    output: str | None
    format: str | None
    html: Path | None
    per_clip: bool
    on_ray: bool
    resume: bool
    overwrite: bool

    @property
    def to_folder(self) -> bool:
        """Whether -o is a folder, which is there or is to be made."""
        name = self.output or ""
        return name.endswith(("/", os.sep)) or (name != "" and Path(name).is_dir())

    @property
    def in_parts(self) -> bool:
        """Whether records are written in parts, with which an interrupted run goes on."""
        if self.on_ray or self.to_folder:
            return True
        name = self.output or "-"
        return name != "-" and (self.format or Path(name).suffix.lower()[1:]) == "parquet"

    @property
    def file(self) -> Path | None:
        """The single file that records are written to; None: stdout, or a folder."""
        return None if self.output in {None, "-"} or self.to_folder else Path(self.output or "")

    @property
    def repeated(self) -> dict[str, Any]:
        """What a sorting that goes on must be asked, too: all that decides its records."""
        free = {"mirror", "offline"}
        model = {name: value for name, value in asdict(self.model).items() if name not in free}
        return {
            "how": self.sort.how,
            "live_photos": self.sort.live_photos,
            "inputs": (*self.run.inputs, self.run.from_file, self.run.recursive),
            "working folder": str(Path.cwd()),
            "ranking": asdict(self.ranking),
            "xmp": asdict(self.xmp),
            **model,
        }

    def check(self) -> None:
        """Raises UsageError where options do not go together."""
        sorts = self.sort.how is not None
        on_files = sorts or self.xmp != XmpOptions()
        frames = self.run.frames is not None or self.run.every is not None
        for contradiction, why in (
            (self.resume and self.overwrite, "--overwrite starts afresh: it excludes --resume."),
            (
                not self.in_parts and (self.overwrite or (self.resume and not sorts)),
                "--resume and --overwrite go with -o FOLDER/ or FILE.parquet: other records are "
                "written as they come, from the beginning.",
            ),
            (
                self.in_parts and (self.html is not None or on_files),
                "--html, --xmp and --sort-into go with records that are printed or written as "
                "text, here on this machine (--runner local).",
            ),
            (
                self.format == "parquet" and not self.in_parts,
                "--format parquet needs a file or a folder: name it with -o.",
            ),
            (
                self.sort.dry_run and self.xmp != XmpOptions(),
                "--dry-run writes nothing: leave out --xmp.",
            ),
            (
                frames and on_files,
                "--frames and --every: a frame is no file to sort, or to write XMP for.",
            ),
            (
                self.per_clip and not frames,
                "--per-clip goes with --frames or --every: say which frames there are.",
            ),
            (
                self.per_clip and self.in_parts,
                "--per-clip: a folder and a .parquet have a record for each frame, which they are "
                "resumed by. Leave it out, or write .jsonl or .csv.",
            ),
            (
                self.per_clip and self.ranking.unknown is not None,
                "--per-clip: --unknown judges single photos. Leave one of them out.",
            ),
        ):
            if contradiction:
                raise UsageError(why)

    def check_undo(self) -> None:
        """Raises UsageError where something beside --undo is asked for."""
        more = self.run.inputs, self.run.from_file, self.output, self.format, self.html
        sort = replace(self.sort, undo=None)
        if any((*more, self.overwrite, sort != SortOptions(), self.xmp != XmpOptions())):
            raise UsageError("--undo DIR stands alone: all else is in the journal in DIR.")


def predictor(
    asked: Request,
    decoders: Decoders,
    keywords: "Sidecars | None" = None,
    ready: "Callable[[Classifier], None]" = lambda _: None,
) -> "tuple[tuple[str, ...], Callable[[Iterator[Source]], Iterator[Record]]]":
    """The class names of a model, and what gives one record for each source, in order.

    With `per_clip` one for all frames of a file; see `inference.clips`. With `keywords` each photo
    has its sidecar by the time its record comes.

    `ready` takes the classifier before the first photo.

    Raises:
        CheckpointError: the network has no classifier.
    """
    from resnest_cli.inference.batch_size import batch_size_for

    options, ranking = asked.run, asked.ranking
    found = classifier(asked.model, tta=ranking.tta, ready_for=ranking.output)
    found.model.need_classifier()
    ready(found)
    reading: BatchOptions = {
        "batch_size": batch_size_for(found, ranking.output, options.batch_size),
        "workers": options.workers,
        "decoders": decoders,
    }
    how: dict[str, Any] = {
        "topk": ranking.topk,
        "threshold": ranking.threshold,
        "reject_below": ranking.reject_below,
    }

    def predict(sources: "Iterator[Source]") -> "Iterator[Record]":
        if asked.per_clip:
            from resnest_cli.inference.clips import clip_records

            return clip_records(found, sources, **how, **reading)
        records = found.records(sources, **how, unknown=ranking.unknown, **reading)
        return records if keywords is None else keywords.written(records)

    return found.class_names, predict


def classifier(
    options: ModelOptions, *, tta: bool = False, ready_for: "Output" = "logits"
) -> "Classifier":
    """The classifier that was asked for, with progress and messages on stderr."""
    from resnest_cli.inference.classifier import Classifier

    given: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(options)}
    access = output.access(given.pop("mirror"), given.pop("offline"))
    given |= {"tta": tta, "ready_for": ready_for, "access": access, "background": True}
    return Classifier(**given)
