"""The page of an evaluation: figures, pictures, classes, mistakes, and every photo."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnest_cli.evaluation.files import write_pictures
from resnest_cli.evaluation.job import Evaluated
from resnest_cli.report.html import Page, Picture, Table, picture_of, rows_of


def evaluation_page(found: Evaluated, figures: Mapping[str, Any]) -> Page:
    """All of it; `figures` are those of `figures.summary`. Photos are read for their thumbnails."""
    classes = [one for one in figures["classes"] if one["support"]]
    page = Page(
        title=f"{figures['model']}: how good it is",
        subtitle=(
            f"{figures['photos']:,} photos of {len(classes):,} classes; {figures['unreadable']:,} "
            "more could not be read"
        ),
        figures=_figures(figures),
        pictures=_pictures(found, figures),
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


def _figures(figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    shown = [
        (name, f"{figures[key]:.2%}", f"{_interval(figures[f'{key}_interval'])} (95%)")
        for name, key in (("top-1", "top1"), ("top-5", "top5"))
        if figures[key] is not None
    ]
    temperature = figures["temperature"]
    warmed = "" if temperature == 1 else f"at temperature {temperature:.3g}"
    return [
        *shown,
        ("loss", f"{figures['loss']:.4f}", "nats"),
        ("mean recall", f"{figures['mean_recall']:.2%}", ""),
        ("mean F1", f"{figures['mean_f1']:.2%}", ""),
        ("calibration error", f"{figures['ece']:.2%}", warmed),
    ]


def _interval(pair: list[float]) -> str:
    return f"{pair[0]:.2%} to {pair[1]:.2%}"


def _pictures(found: Evaluated, figures: Mapping[str, Any]) -> list[Picture]:
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), found, figures)
        return [
            picture_of("Which classes are taken for which", Path(folder, "confusion_matrix.png")),
            picture_of("Whether probabilities mean what they say", Path(folder, "reliability.png")),
        ]
