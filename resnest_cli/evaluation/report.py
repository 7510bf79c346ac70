"""An evaluation for people: a folder of figures, records and pictures, and a page."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resnest_cli.evaluation.evaluate import Gathered
from resnest_cli.evaluation.figures import Evaluated
from resnest_cli.files import writing
from resnest_cli.output.results import (
    UNKNOWN_TITLES,
    class_table,
    headline,
    mistakes_table,
    photos_of,
    unknown_rows,
    unknown_title,
    with_trained,
    worst_table,
)
from resnest_cli.report.pages import Page, PageTable, picture_of, write_texts
from resnest_cli.text import csv_rows, short_name


def write_all(folder: Path, found: Evaluated, figures: Mapping[str, Any]) -> None:
    """Writes `metrics.json`, `classes.csv`, `confusion.csv`, `records.jsonl` and the pictures.

    Photos of something else, where there are such, get `unknown.jsonl`. Each file appears whole or
    not at all; `figures` are those of `figures.summary`. Records are of all photos, everything else
    of those that were judged.
    """
    names = found.gathered.class_names
    classes = [dict(_cells(one)) for one in figures["classes"]]
    matrix = zip(names, found.confusion.tolist(), strict=True)
    counts = [[found.corner, *names], *([name, *row] for name, row in matrix)]
    texts = {
        "metrics.json": json.dumps(figures, indent=2) + "\n",
        "classes.csv": csv_rows([list(classes[0]), *(list(one.values()) for one in classes)]),
        "confusion.csv": csv_rows(counts),
        "records.jsonl": "".join(_lines(found.gathered)),
    }
    if others := found.gathered.others:
        texts["unknown.jsonl"] = "".join(json.dumps(one.as_dict()) + "\n" for one in others)
    write_texts(folder, texts)
    with writing(folder):
        _write_pictures(folder, found)


def _cells(figures: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A class's figures by their columns; both ends of an interval have one."""
    for name, value in figures.items():
        if name.endswith("_interval"):
            low, high = value or (None, None)
            yield from (
                (name.replace("interval", "low"), low),
                (name.replace("interval", "high"), high),
            )
        else:
            yield name, value


def _lines(gathered: Gathered) -> Iterator[str]:
    """`predict`'s own records, each with the true class, or a list of them where there may be
    several, whether it was answered right, and whether the photo trained the model, where that is
    known.
    """
    names = gathered.class_names
    for item in gathered.items:
        readable = item.record.error is None
        classes = [{"index": index, "label": names[index]} for index in item.truth]
        known = readable and gathered.trained_on is not None
        more: dict[str, Any] = {
            "truth": classes[0] if gathered.thresholds is None else classes,
            "right": item.right if readable else None,
            "trained_on": item.trained if known else None,
        }
        yield json.dumps(item.record.as_dict() | more) + "\n"


def _write_pictures(folder: Path, found: Evaluated) -> None:
    for name, (_, draw) in found.pictures().items():
        draw(folder / name)


def evaluation_page(
    found: Evaluated, figures: Mapping[str, Any], folder: Path | None = None
) -> Page:
    """Figures, pictures, classes, mistakes, and every photo that was judged, with a thumbnail.

    The pictures are those of `folder`, where an evaluation was written to one.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as name:
            _write_pictures(Path(name), found)
            return evaluation_page(found, figures, Path(name))
    failed = figures["unreadable"]
    unreadable = f"; {failed:,} could not be read" if failed else ""
    page = Page(
        title=f"{short_name(figures['model'])}: how good it is",
        subtitle=f"{photos_of(figures)}{unreadable}. {with_trained(figures) or ''}",
        model=found.gathered.about,
        figures=headline(figures),
        pictures=[
            picture_of(title, folder / name) for name, (title, _) in found.pictures().items()
        ],
        tables=[PageTable(*table(figures)) for table in (class_table, mistakes_table, worst_table)],
    )
    if about := figures.get("unknown"):
        table = PageTable(
            unknown_title(about), UNKNOWN_TITLES, unknown_rows(about), frozenset({1, 2, 3})
        )
        page.tables = [table, *page.tables]
    for item in found.judged:
        page.add(item.record, found.gathered.named(item.truth), right=item.right)
    return page
