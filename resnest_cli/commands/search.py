"""`resnest search`: the nearest photos, or groups of alike ones, in what `features` wrote."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from resnest_cli import output
from resnest_cli.commands.flags import Without, command
from resnest_cli.commands.inputs import (
    check_written,
    explicit,
    finish,
    format_by_name,
    show_records,
    write_page,
)
from resnest_cli.errors import UsageError
from resnest_cli.files import locked
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import SourceStats
from resnest_cli.options import Html, ModelOptions, Option, RunOptions
from resnest_cli.output.search import found_writer, group_writer
from resnest_cli.text import count

if TYPE_CHECKING:
    from resnest_cli.report.neighbours import NeighboursPage
    from resnest_cli.search.features import Features

FIRST = "model topk duplicates self_ row output_ format_ html quiet"
EXAMPLES = """
resnest search feats.npy photo.jpg
resnest search feats.npy photo.jpg -k 20 --html page.html
resnest search feats.npy new/ --format jsonl -o nearest.jsonl
resnest search feats.npy --row photos/dog.jpg --row 7
resnest search feats.npy --duplicates 0.95 -o alike.csv
resnest search feats.npy --self -k 10 -o neighbours.npz
"""

_FEW = 8  # explicit queries up to this number get a table each
_DEFAULT_K = 5
_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".npz": "npz"}


@command
def search(
    *,
    features: Annotated[
        str,
        Option("What `resnest features` wrote: a file, or a folder.", "FEATURES", argument=True),
    ],
    run: Annotated[RunOptions, Without("frames every")],
    row: Annotated[
        list[str] | None,
        Option("Search with a row of FEATURES, by number or name; may be given again.", "N|NAME"),
    ] = None,
    self_: Annotated[bool, Option("The nearest others of every row of FEATURES.")] = False,
    duplicates: Annotated[
        float | None,
        Option("Groups of photos with at least this similarity (at most this distance).", "X"),
    ] = None,
    topk: Annotated[
        int | None, Option("How many neighbours of each: 5, unless said.", "-k [1, inf)")
    ] = None,
    metric: Annotated[
        Literal["cosine", "euclidean", "dot"],
        Option("What is near: a similarity (cosine, dot) or a distance."),
    ] = "cosine",
    format_: Annotated[
        Literal["table", "json", "jsonl", "csv", "npz"] | None,
        Option("How it is written; by the extension of -o FILE, else a table. npz: --self only."),
    ] = None,
    output_: Annotated[
        str | None, Option("Write it there, not on stdout (-).", "-o FILE")
    ] = None,
    html: Html = None,
    model: Annotated[
        str | None,
        Option("Where the model that made FEATURES is now, if it is not found.", "-m MODEL"),
    ] = None,
    how: Annotated[
        ModelOptions,
        Without("model weights labels img_size crop_pct interpolation crop_mode exif fast_decode "
                "gpu_decode graphs compiled amp"),
    ],
) -> None:  # fmt: skip
    """Find the nearest photos, or groups of alike ones, by what `resnest features` wrote.

    Photos are computed by the very model, and in the way, that FEATURES says. Results are exact;
    equal scores stand in the order of the rows, and a row is not its own neighbour. One record per
    query, always: a photo that cannot be read gives its error, and exit code 3 at the end.
    """
    photos = any((*run.inputs, run.from_file))
    _check_kind(photos or bool(row), self_, duplicates, metric, topk)
    if model is not None and not photos:
        raise UsageError("--model goes with PHOTOs: rows of FEATURES need no model.")
    target = Path(output_) if output_ not in {None, "-"} else None
    for path in filter(None, (target, html)):
        check_written(path, _files_read(features, run, model))
    shown = format_ or format_by_name(target, _FORMATS)
    if shown == "npz" and not (self_ and target and html is None):
        raise UsageError("--format npz is for --self, with -o FILE and without --html.")
    with locked(target, html):
        from resnest_cli.search.features import Features

        opened = Features.open(features)
        if not len(opened):
            raise UsageError(f"{features} has no rows: none of its inputs could be read.")
        wanted = _Wanted(opened, metric, topk or _DEFAULT_K, shown, target, html, how)
        if duplicates is not None:
            _show_groups(wanted, duplicates)
        elif self_:
            _show_every_row(wanted)
        else:
            _show_queries(wanted, row or [], run, replace(how, model=model or ""))


def _check_kind(
    queries: bool, self_: bool, duplicates: float | None, metric: str, topk: int | None
) -> None:
    """UsageError unless one thing is asked for, with what goes with it."""
    asked = queries + self_ + (duplicates is not None)
    if not asked:
        raise UsageError("name at least one PHOTO, or give --row, --self or --duplicates.")
    if asked > 1:
        raise UsageError("PHOTO and --row, --self, and --duplicates exclude each other.")
    if duplicates is None:
        return
    if topk is not None:
        raise UsageError("-k does not go with --duplicates: a group has all that are alike.")
    if metric == "dot":
        raise UsageError("--duplicates goes with --metric cosine or euclidean.")
    if metric == "cosine" and not -1 <= duplicates <= 1:
        raise UsageError(f"--duplicates {duplicates:g}: a cosine lies between -1 and 1.")
    if metric == "euclidean" and not 0 <= duplicates < math.inf:
        raise UsageError(f"--duplicates {duplicates:g}: a distance is 0 or more.")


def _files_read(features: str, run: RunOptions, model: str | None) -> list[str | None]:
    from resnest_cli.jobs.assemble import outputs

    beside = map(str, outputs(Path(features))) if Path(features).suffix else ()
    return [*run.inputs, run.from_file, model, features, *beside]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is searched, how, and where it goes."""

    features: "Features"
    metric: Any
    k: int
    format_: Any
    target: Path | None
    html: Path | None
    how: ModelOptions

    def page(self, title: str, noun: str) -> "NeighboursPage | None":
        """The page that was asked for."""
        if self.html is None:
            return None
        from resnest_cli.report.neighbours import NeighboursPage

        return NeighboursPage(title, noun, max_pixels=self.how.max_pixels)

    def write(self, page: "NeighboursPage | None", what: str) -> None:
        """Writes it; `what` says what it shows."""
        if page is not None and self.html is not None:
            page.subtitle = f"{what}; {self.metric}, features of {self.features.model}"
            write_page(page, self.html)


def _show_queries(wanted: _Wanted, rows: list[str], run: RunOptions, model: ModelOptions) -> None:
    """The nearest of rows, then of photos."""
    from resnest_cli.search.records import check_rows, of_photos, of_rows

    features, k, metric, stats = wanted.features, wanted.k, wanted.metric, SourceStats()
    check_rows(features, rows)
    photos, total = any((*run.inputs, run.from_file)), explicit(run)
    with Decoders.of(run, model) as decoders:
        found = of_rows(features, rows, k, metric)
        if photos:
            found = chain(found, of_photos(features, run, model, k, metric, decoders, stats))
        _show_found(wanted, found, None if total is None else total + len(rows), stats)


def _show_every_row(wanted: _Wanted) -> None:
    """The nearest of every row, as records, or as one file of numbers."""
    from resnest_cli.search.neighbours_file import write_neighbours
    from resnest_cli.search.records import of_every_row

    features, k, metric, total = wanted.features, wanted.k, wanted.metric, len(wanted.features)
    if wanted.format_ != "npz" or wanted.target is None:
        _show_found(wanted, of_every_row(features, k, metric), total, SourceStats(), many=True)
        return
    with output.Bar() as bar:
        write_neighbours(wanted.target, features, k, metric, bar)
    output.message(f"{wanted.target}: the {k} nearest of {count(total, 'row')}.")


def _show_found(
    wanted: _Wanted, found: Any, total: int | None, stats: SourceStats, *, many: bool = False
) -> None:
    writer = found_writer(
        wanted.format_, wanted.target, topk=wanted.k, single=total == 1 and not many,
        many=many or total is None or total > _FEW,
    )  # fmt: skip
    page = wanted.page("Nearest photos", "queries")
    write = _both(writer.write, page)
    done, failed, lines = show_records(found, total, write, writer.close, stats, wanted.target)
    unreadable = f", {failed:,} of them unreadable" if failed else ""
    wanted.write(page, count(done, "query", "queries") + unreadable)
    finish(failed, count(done, "query", "queries"), lines)


def _show_groups(wanted: _Wanted, threshold: float) -> None:
    """Groups of alike photos."""
    from resnest_cli.search.records import groups

    writer, page = (
        group_writer(wanted.format_, wanted.target),
        wanted.page("Alike photos", "groups"),
    )
    write, found, photos = _both(writer.write, page), 0, 0
    with output.Bar() as bar:
        for group in groups(wanted.features, threshold, wanted.metric, bar):
            bar.clear()
            write(group)
            found, photos = found + 1, photos + len(group.neighbours)
    writer.close()
    what = (
        f"{count(found, 'group')} of {count(photos, 'photo')}, of {len(wanted.features):,} in all"
    )
    wanted.write(page, f"{what}; from {threshold:g} on")
    output.message(f"{what}.")


def _both(write: Callable[[Any], None], page: "NeighboursPage | None") -> Callable[[Any], None]:
    """Writes a record, and shows it on the page, if there is one."""
    if page is None:
        return write

    def both(record: Any) -> None:
        write(record)
        page.add(record)

    return both
