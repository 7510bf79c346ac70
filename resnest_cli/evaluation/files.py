"""An evaluation on disk: figures, a row per class, the confusion matrix, a record per photo."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnest_cli.errors import ResnestError
from resnest_cli.evaluation.figures import Evaluated
from resnest_cli.files import write_text
from resnest_cli.report import plots


def write_all(folder: Path, found: Evaluated, figures: Mapping[str, Any]) -> None:
    """Writes `metrics.json`, `classes.csv`, `confusion.csv`, `records.jsonl` and the pictures.

    Each appears whole or not at all; `figures` are those of `figures.summary`.

    Raises:
        ResnestError: the folder or a file cannot be written.
    """
    names = found.told.class_names
    columns = ["index", "id", "label", "support", "predicted", "precision", "recall", "f1"]
    classes = [[_cell(one[name]) for name in columns] for one in figures["classes"]]
    matrix = zip(names, found.scores.confusion.tolist(), strict=True)
    counts = [[name, *map(str, row)] for name, row in matrix]
    try:
        folder.mkdir(exist_ok=True)
        write_text(folder / "metrics.json", json.dumps(figures, indent=2) + "\n")
        write_text(folder / "classes.csv", _csv([columns, *classes]))
        write_text(folder / "confusion.csv", _csv([["true \\ predicted", *names], *counts]))
        write_text(folder / "records.jsonl", "".join(_lines(found)))
        write_pictures(folder, found)
    except OSError as error:
        raise ResnestError(
            f"{error.filename or folder}: cannot be written: {error.strerror or error}."
        ) from error


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


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _lines(found: Evaluated) -> Iterable[str]:
    """`predict`'s own records, each with the true class, and whether it stands first."""
    names = found.told.class_names
    for record, truth in zip(found.records, found.truth, strict=True):
        right = record.predictions[0].index == truth if record.predictions else None
        more = {"truth": {"index": truth, "label": names[truth]}, "right": right}
        yield json.dumps(record.as_dict() | more) + "\n"
