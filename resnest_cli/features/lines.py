"""Lines of `feats.csv`: `input,row,status,error` for every input; `row` is empty where it failed.

UTF-8; a name that is no text keeps its own bytes; see `csv_rows` for commas, quotes and formulas.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from resnest_cli.text import csv_row, read_csv_rows

HEADER = "input,row,status,error\n"


class Line(NamedTuple):
    """One input, its row from 0, and why there is none."""

    name: str
    row: int | None
    error: str | None


def formatted(name: str, row: int | None, error: str | None) -> bytes:
    """One line, or several where the name has newlines."""
    return encoded(csv_row((name, row, "ok" if error is None else "error", error)))


def encoded(text: str) -> bytes:
    """The bytes of a name as the file system has them; lone surrogates of any kind get through."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def read_lines(path: Path, *, header: bool) -> Iterator[Line]:
    """The lines of a file that consists of what `formatted` gave; further columns are ignored.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for cells in read_csv_rows(file):
            if header:
                header = False
                continue
            name, row, status, error = cells[:4]
            yield Line(name, int(row) if row else None, error if status == "error" else None)
