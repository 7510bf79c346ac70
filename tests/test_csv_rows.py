"""One CSV for all: any text survives, nothing in it is a formula, numbers stay numbers."""

import csv
import io

import pytest

from resnest_cli.csv_rows import csv_row, csv_rows, read_csv_rows

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", " =1", "'=1", "''+1", "-x.jpg",
            "\uff1d1", "=", "-"]  # fmt: skip
NAMES = ["plain", 'a,"b"', "new\nline", "ret\rurn", "caf\udce9", " space ", '"', "é", "'quoted'",
         "it's", "'", "", "a=b", "x-1", "\x1b[31m"]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS + NAMES)
def test_any_text_is_read_back_and_is_no_formula(text: str) -> None:
    row = csv_row(["first", text, "last"])
    assert list(read_csv_rows(io.StringIO(row, newline=""))) == [["first", text, "last"]]
    (cells,) = csv.reader(io.StringIO(row, newline=""))  # as pandas has it: one row
    assert cells[1] == text or (cells[1] == "'" + text and text in FORMULAS)
    assert len(cells[1]) < 2 or cells[1].lstrip()[0] not in "=+-@\uff1d"
    assert cells[1][:1] not in ("\t", "\r", "\n")


def test_numbers_stay_as_they_are() -> None:
    assert csv_rows([[-1, -0.1, 1e-300, None, True], [0.1 + 0.2]]) == (
        "-1,-0.1,1e-300,,True\n0.30000000000000004\n"
    )
