"""`results.csv`: one row per epoch, for spreadsheets and scripts."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from resnest_cli.files import write_text
from resnest_cli.training.history import EpochRow

COLUMNS = tuple(field.name for field in fields(EpochRow))


def write_results(path: Path, rows: Sequence[EpochRow]) -> None:
    """Writes the whole file anew, atomically: a header, then the rows.

    Columns are the fields of `EpochRow` in their order. Numbers read back as the same floats; what
    is not known is empty; `best` is True or False.

    Raises:
        OSError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in rows)  # None becomes an empty cell, floats their repr
    write_text(path, text.getvalue())
