"""`results.csv` and `recall.csv`, a row per epoch, and `lost.csv`: for spreadsheets and scripts."""

import contextlib
import csv
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from resnest_cli.csv_rows import Cell, csv_rows, read_csv_rows
from resnest_cli.files import write_text
from resnest_cli.training.history import EpochRow
from resnest_cli.training.lost_photos import LostPhoto

COLUMNS = tuple(field.name for field in fields(EpochRow))


def write_results(path: Path, rows: Sequence[EpochRow]) -> None:
    """Writes the whole file anew, atomically: a header, then the rows.

    Columns are the fields of `EpochRow` in their order. Numbers read back as the same floats; what
    is not known is empty; `best` is True or False.

    Raises:
        OSError: it cannot be written.
    """
    write_text(path, csv_rows([COLUMNS, *map(astuple, rows)]))


def write_recall(
    path: Path, class_names: Sequence[str], epoch: int, recall: Sequence[float | None]
) -> None:
    """`recall.csv`: a row per epoch with the recall of each class, a fraction in [0, 1].

    A class without validation photos stays empty. Rows from `epoch` on, of a run that was killed
    and is repeating them, are replaced.

    Raises:
        OSError: the file cannot be written.
    """
    known: list[list[str]] = []
    with (
        contextlib.suppress(FileNotFoundError, csv.Error),
        path.open(encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        known = [row for row in read_csv_rows(file) if row and row[0].isdecimal()]
    rows: list[Sequence[Cell]] = [["epoch", *class_names]]
    rows += [row for row in known if int(row[0]) < epoch]
    write_text(path, csv_rows([*rows, [epoch, *recall]]))


def write_lost(path: Path, photos: Sequence[LostPhoto], class_names: Sequence[str]) -> None:
    """`lost.csv`: the photos that could not be read any more, and since which epoch.

    Raises:
        OSError: it cannot be written.
    """
    rows: list[Sequence[Cell]] = [["path", "class_name", "split", "epoch", "error"]]
    for photo in photos:
        name = class_names[photo.label] if photo.label < len(class_names) else photo.label
        rows.append([photo.name, name, photo.side, photo.epoch, photo.error])
    write_text(path, csv_rows(rows))
