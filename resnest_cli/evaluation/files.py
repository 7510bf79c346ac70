"""An evaluation on disk: figures, a row per class, the confusion matrix, a record per photo."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnest_cli.csv_rows import csv_rows
from resnest_cli.evaluation.figures import Evaluated
from resnest_cli.files import write_text, writing
from resnest_cli.report import plots


def write_all(folder: Path, found: Evaluated, figures: Mapping[str, Any]) -> None:
    """Writes `metrics.json`, `classes.csv`, `confusion.csv`, `records.jsonl` and the pictures.

    Each appears whole or not at all; `figures` are those of `figures.summary`.

    Raises:
        ResnestError: the folder or a file cannot be written.
    """
    names = found.told.class_names
    columns = ["index", "id", "label", "support", "predicted", "precision", "recall", "f1"]
    classes = [[one[name] for name in columns] for one in figures["classes"]]
    matrix = zip(names, found.scores.confusion.tolist(), strict=True)
    counts = [[name, *row] for name, row in matrix]
    with writing(folder):
        folder.mkdir(exist_ok=True)
    texts = {
        "metrics.json": json.dumps(figures, indent=2) + "\n",
        "classes.csv": csv_rows([columns, *classes]),
        "confusion.csv": csv_rows([["true \\ predicted", *names], *counts]),
        "records.jsonl": "".join(_lines(found)),
    }
    for name, text in texts.items():
        with writing(folder / name):
            write_text(folder / name, text)
    with writing(folder):
        write_pictures(folder, found)


def write_pictures(folder: Path, found: Evaluated) -> None:
    """`confusion_matrix.png`, of the classes that occur, and `reliability.png`.

    Raises:
        OSError: one cannot be written.
    """
    told, matrix = found.told, found.scores.confusion
    occur = np.flatnonzero(matrix.sum(0) + matrix.sum(1))  # as truth or as answer
    names = [told.class_names[index] for index in occur]
    plots.confusion_matrix(folder / "confusion_matrix.png", matrix[np.ix_(occur, occur)], names)
    plots.reliability(folder / "reliability.png", found.calibration, told.temperature)


def _lines(found: Evaluated) -> Iterable[str]:
    """`predict`'s own records, each with the true class, and whether it stands first."""
    names = found.told.class_names
    for record, truth in zip(found.records, found.truth, strict=True):
        right = record.predictions[0].index == truth if record.predictions else None
        more = {"truth": {"index": truth, "label": names[truth]}, "right": right}
        yield json.dumps(record.as_dict() | more) + "\n"
