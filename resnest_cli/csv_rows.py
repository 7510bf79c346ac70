"""Rows of the CSV files that this program writes, and how it reads them back.

As RFC 4180 has it: a cell with a comma, quote or line break (a lone carriage return is one) is
quoted. A text that a spreadsheet would run as a formula, since it begins with = + - or @, gets an
apostrophe in front, as OWASP advises against CSV injection; so does one that begins with a tab or a
line break. A sign that stands alone is none, such as "-", the name of stdin. Reading takes that
apostrophe away again. Numbers stay as they are.

Source: https://owasp.org/www-community/attacks/CSV_Injection
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence

# With the wide forms that East Asian versions of spreadsheets take for the same, and with the
# apostrophes that may stand before: what is written is never taken for what another text gives.
_FORMULA = re.compile("'*(\\s*[=+\\-@\uff1d\uff0b\uff0d\uff20].|[\\t\\r\\n])", re.DOTALL)

Cell = str | int | float | None


def csv_row(cells: Sequence[Cell]) -> str:
    """One row with its line break; None is an empty cell, and a float reads back as the same."""
    return ",".join(map(csv_cell, cells)) + "\n"


def csv_rows(rows: Iterable[Sequence[Cell]]) -> str:
    """Several rows."""
    return "".join(map(csv_row, rows))


def csv_cell(value: Cell) -> str:
    """A cell as it stands between two commas."""
    if not isinstance(value, str):
        return "" if value is None else str(value)
    if _FORMULA.match(value):
        value = "'" + value
    if any(c in value for c in ',"\r\n'):
        return '"' + value.replace('"', '""') + '"'
    return value


def read_csv_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """The rows of a file of ours that was opened with newline="".

    Raises:
        csv.Error: it is damaged.
    """
    for cells in csv.reader(lines, strict=True):
        yield [_without_guard(cell) for cell in cells]


def _without_guard(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
