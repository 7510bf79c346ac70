"""An evaluation on disk: figures, a row per class, the confusion matrix, a record per photo."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnest_cli.csv_rows import csv_rows
from resnest_cli.evaluation.figures import Evaluated
from resnest_cli.evaluation.job import Gathered
from resnest_cli.files import write_text, writing
from resnest_cli.report import plots


def write_all(
    folder: Path, found: Evaluated, gathered: Gathered, figures: Mapping[str, Any]
) -> None:
    """Writes `metrics.json`, `classes.csv`, `confusion.csv`, `records.jsonl` and the pictures.

    Each appears whole or not at all; `figures` are those of `figures.summary`. Records are of all
    photos, everything else of those that were judged.

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
        "records.jsonl": "".join(_lines(gathered)),
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


def _lines(gathered: Gathered) -> Iterable[str]:
    """`predict`'s own records, each with the true class, whether it stands first, and whether the
    photo trained the model, where that is known.
    """
    told = gathered.told
    for item in gathered.items:
        record, truth = item.record, item.truth
        right = record.predictions[0].index == truth if record.predictions else None
        trained = item.trained if record.predictions and told.trained_on is not None else None
        more: dict[str, Any] = {"truth": {"index": truth, "label": told.class_names[truth]}}
        more |= {"right": right, "trained_on": trained}
        yield json.dumps(record.as_dict() | more) + "\n"
