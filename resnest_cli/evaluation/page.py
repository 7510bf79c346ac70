"""The page of an evaluation: figures, pictures, classes, mistakes, and every photo."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnest_cli.evaluation.figures import Evaluated
from resnest_cli.evaluation.files import write_pictures
from resnest_cli.output.evaluation import headline, photos_of, with_trained
from resnest_cli.report.html import Page, Picture, Table, picture_of, rows_of


def evaluation_page(
    found: Evaluated, figures: Mapping[str, Any], folder: Path | None = None
) -> Page:
    """All of it; `figures` are those of `figures.summary`. Photos are read for their thumbnails,
    those that were judged.

    The pictures are those of `folder`, where an evaluation was written to one.
    """
    classes = [one for one in figures["classes"] if one["support"]]
    failed = figures["unreadable"]
    unreadable = f"; {failed:,} could not be read" if failed else ""
    every = with_trained(figures)
    page = Page(
        title=f"{figures['model']}: how good it is",
        subtitle=f"{photos_of(figures)}{unreadable}. {every or ''}",
        figures=headline(figures),
        pictures=_pictures(found, folder),
        tables=[
            Table(
                "Classes",
                ["Class", "Photos", "Taken for it", "Precision", "Recall", "F1"],
                rows_of(classes, ["label", "support", "predicted", "precision", "recall", "f1"]),
                frozenset(range(1, 6)),
            ),
            Table(
                "Taken for another most often",
                ["True class", "Taken for", "Photos"],
                rows_of(figures["confusions"], ["truth", "predicted", "photos"]),
                frozenset({2}),
            ),
        ],
    )
    names = found.told.class_names
    for record, truth in zip(found.records, found.truth, strict=True):
        right = bool(record.predictions) and record.predictions[0].index == truth
        page.add(record, names[truth], right=right)
    return page


def _pictures(found: Evaluated, folder: Path | None) -> list[Picture]:
    if folder is None:
        with tempfile.TemporaryDirectory() as name:
            write_pictures(Path(name), found)
            return _pictures(found, Path(name))
    return [
        picture_of("Which classes are taken for which", folder / "confusion_matrix.png"),
        picture_of("Whether probabilities mean what they say", folder / "reliability.png"),
    ]
