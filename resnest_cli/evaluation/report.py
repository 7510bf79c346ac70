"""An evaluation for people: a folder of figures, records and pictures, and a page."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from resnest_cli.evaluation.evaluate import Gathered
from resnest_cli.evaluation.figures import Evaluated
from resnest_cli.files import writing
from resnest_cli.output.results import (
    UNKNOWN_TITLES,
    headline,
    photos_of,
    unknown_rows,
    unknown_title,
    with_trained,
)
from resnest_cli.report import plots
from resnest_cli.report.pages import Page, PageTable, picture_of, rows_of, write_texts
from resnest_cli.text import csv_rows


def write_all(folder: Path, found: Evaluated, figures: Mapping[str, Any]) -> None:
    """Writes `metrics.json`, `classes.csv`, `confusion.csv`, `records.jsonl` and the pictures.

    Photos of something else, where there are such, get `unknown.jsonl`. Each file appears whole or
    not at all; `figures` are those of `figures.summary`. Records are of all photos, everything else
    of those that were judged.
    """
    names = found.gathered.class_names
    columns = ["index", "id", "label", "support", "predicted", "precision", "recall", "f1"]
    classes = [[one[name] for name in columns] for one in figures["classes"]]
    matrix = zip(names, found.scores.confusion.tolist(), strict=True)
    counts = [["true \\ predicted", *names], *([name, *row] for name, row in matrix)]
    texts = {
        "metrics.json": json.dumps(figures, indent=2) + "\n",
        "classes.csv": csv_rows([columns, *classes]),
        "confusion.csv": csv_rows(counts),
        "records.jsonl": "".join(_lines(found.gathered)),
    }
    if others := found.gathered.others:
        texts["unknown.jsonl"] = "".join(json.dumps(one.as_dict()) + "\n" for one in others)
    write_texts(folder, texts)
    with writing(folder):
        _write_pictures(folder, found)


def _lines(gathered: Gathered) -> Iterator[str]:
    """`predict`'s own records, each with the true class, whether it stands first, and whether the
    photo trained the model, where that is known.
    """
    for item in gathered.items:
        record, truth = item.record, item.truth
        right = record.predictions[0].index == truth if record.predictions else None
        trained = item.trained if record.predictions and gathered.trained_on is not None else None
        more: dict[str, Any] = {"truth": {"index": truth, "label": gathered.class_names[truth]}}
        more |= {"right": right, "trained_on": trained}
        yield json.dumps(record.as_dict() | more) + "\n"


def _write_pictures(folder: Path, found: Evaluated) -> None:
    """`confusion_matrix.png`, of the classes that occur, and `reliability.png`."""
    gathered, matrix = found.gathered, found.scores.confusion
    occur = np.flatnonzero(matrix.sum(0) + matrix.sum(1))  # as truth or as answer
    names = [gathered.class_names[index] for index in occur]
    plots.confusion_matrix(folder / "confusion_matrix.png", matrix[np.ix_(occur, occur)], names)
    bins = [asdict(one) for one in found.calibration.bins]
    plots.reliability(folder / "reliability.png", bins, found.calibration.ece, gathered.temperature)


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
    classes = [one for one in figures["classes"] if one["support"]]
    failed = figures["unreadable"]
    unreadable = f"; {failed:,} could not be read" if failed else ""
    page = Page(
        title=f"{figures['model']}: how good it is",
        subtitle=f"{photos_of(figures)}{unreadable}. {with_trained(figures) or ''}",
        figures=headline(figures),
        pictures=[
            picture_of("Which classes are taken for which", folder / "confusion_matrix.png"),
            picture_of("Whether probabilities mean what they say", folder / "reliability.png"),
        ],
        tables=[
            PageTable(
                "Classes",
                ["Class", "Photos", "Taken for it", "Precision", "Recall", "F1"],
                rows_of(classes, ["label", "support", "predicted", "precision", "recall", "f1"]),
                frozenset(range(1, 6)),
            ),
            PageTable(
                "Taken for another most often",
                ["True class", "Taken for", "Photos"],
                rows_of(figures["confusions"], ["truth", "predicted", "photos"]),
                frozenset({2}),
            ),
        ],
    )
    if about := figures.get("unknown"):
        table = PageTable(
            unknown_title(about), UNKNOWN_TITLES, unknown_rows(about), frozenset({1, 2, 3})
        )
        page.tables = [table, *page.tables]
    names = found.gathered.class_names
    for item in found.judged:
        answers = item.record.predictions
        right = bool(answers) and answers[0].index == item.truth
        page.add(item.record, names[item.truth], right=right)
    return page
