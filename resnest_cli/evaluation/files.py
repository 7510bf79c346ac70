"""An evaluation on disk: figures, a row per class, the confusion matrix, a record per photo."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnest_cli.errors import ResnestError
from resnest_cli.evaluation.calibration import calibration
from resnest_cli.evaluation.job import Evaluated
from resnest_cli.evaluation.scores import scores
from resnest_cli.files import write_text
from resnest_cli.report import plots

NAMES = {
    "metrics.json": "every figure",
    "classes.csv": "precision, recall and F1 of each class",
    "confusion.csv": "which classes are taken for which",
    "records.jsonl": "what the model said of each photo",
    "confusion_matrix.png": "the confusion matrix to look at",
    "reliability.png": "whether probabilities mean what they say",
}


def write_all(folder: Path, found: Evaluated, figures: dict[str, Any]) -> None:
    """Writes the files of `NAMES`, each of them whole; `figures` are those of `figures.summary`.

    Raises:
        ResnestError: the folder or a file cannot be written.
    """
    told = found.told
    result = scores(found.answers, len(told.class_names))
    columns = ["index", "id", "label", "support", "predicted", "precision", "recall", "f1"]
    rows = [[_cell(one[name]) for name in columns] for one in figures["classes"]]
    try:
        folder.mkdir(exist_ok=True)
        write_text(folder / "metrics.json", json.dumps(figures, indent=2) + "\n")
        write_text(folder / "classes.csv", _csv([columns, *rows]))
        write_text(
            folder / "confusion.csv",
            _csv(
                [
                    ["true \\ predicted", *told.class_names],
                    *(
                        [name, *map(str, counts)]
                        for name, counts in zip(told.class_names, result.confusion, strict=True)
                    ),
                ]
            ),
        )
        write_text(folder / "records.jsonl", "".join(_lines(found)))
        write_pictures(folder, found, figures)
    except OSError as error:
        raise ResnestError(
            f"{error.filename or folder}: cannot be written: {error.strerror or error}."
        ) from error


def write_pictures(folder: Path, found: Evaluated, figures: Mapping[str, Any]) -> None:
    """`confusion_matrix.png` and `reliability.png`.

    Raises:
        OSError: one cannot be written.
    """
    names, answers = found.told.class_names, found.answers
    confusion = scores(answers, len(names)).confusion
    plots.confusion_matrix(folder / "confusion_matrix.png", confusion, names)
    calibrated = calibration(answers.confidence, answers.right)
    plots.reliability(folder / "reliability.png", calibrated, figures["temperature"])


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
