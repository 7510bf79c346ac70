"""Numbers and names as people read them; rows of CSV in which any text survives as no formula."""

import csv
import io

import pytest

from resnest_cli import text as module
from resnest_cli.text import csv_row, csv_rows, read_csv_rows

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


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        ("count(1, 'photo')", "1 photo"),
        ("count(2000, 'photo')", "2,000 photos"),
        ("count(0, 'class', 'classes')", "0 classes"),
        ("megabytes(999)", "1.0 kB"),
        ("megabytes(123_456)", "0.1 MB"),
        ("megabytes(2_500_000)", "2.5 MB"),
        ("megabytes(1_234_000_000)", "1,234 MB"),
        ("gigabytes(2e8)", "200 MB"),
        ("gigabytes(1.55e9)", "1.6 GB"),
        ("speed(3.21)", "3.2 photos/s"),
        ("speed(1234.5, 'steps')", "1,234 steps/s"),
        ("percent(None)", "-"),
        ("percent(0.8125)", "81.25%"),
        ("some('abc', 3)", "a, b, c"),
        ("some('abcde', 2)", "a, b and 3 more"),
        ("some('abcde', 2, total=True)", "a, b, ... (5 in all)"),
        ("some([])", ""),
        ("joined(['a'])", "a"),
        ("joined(['a', 'b'])", "a and b"),
        ("joined('abc', 'or')", "a, b or c"),
        ("did_you_mean('ResNest5OD', ['resnest50d', 'vgg'])", " Did you mean resnest50d?"),
        ("did_you_mean('trian', ['train', 'trains'], 1)", " Did you mean train?"),
        ("did_you_mean('x', ['abc'])", ""),
        ("one_line('a\\n \\x1bb ')", "a b"),
        ("printable('plain ä 狗')", "plain ä 狗"),
        ("printable('caf\\udce9')", "caf\\xe9"),
        ("printable('a\\x1b[31mb')", "a\\x1b[31mb"),
        ("printable('\\u202etxt.jpg')", "\\u202etxt.jpg"),
        ("printable('a\\x1b\\tb\\n')", "a\\x1b\\tb\n"),
        ("printable('caf\\udce9\\u202e')", "caf\\xe9\\u202e"),
        ("printable_name('a\\nb')", "a\\nb"),
        ("quoted('a' * 100, 10)", "'aaaaa...'"),
        ("quoted(5)", "5"),
        ("shortened('abcdefghij', 5)", "ab…ij"),
        ("wrapped('a bc def ghijklmn o', 5)", ["a bc", "def", "ghijklmn", "o"]),
        ("wrapped('', 5)", [""]),
        ("common_folder(['/a/b/1', '/a/b/c/2'])", "/a/b/"),
        ("common_folder(['a/1.jpg'])", "a/"),
        ("common_folder(['1.jpg', 'a/1.jpg'])", ""),
        ("common_folder(['/1.jpg', '/2/1.jpg'])", ""),
        ("common_folder(['http://a/1', 'http://b/1'])", ""),
        ("common_folder([])", ""),
        (
            "short_name('/home/me/runs/finetune/exp/weights/best.safetensors')",
            "exp/weights/best.safetensors",
        ),
        ("short_name('hf-hub:USER/NAME@main')", "hf-hub:USER/NAME@main"),
        ("skipped_files(1)", "1 other file without a known image extension was skipped."),
        ("skipped_files(2000)", "2,000 other files without a known image extension were skipped."),
        ("shortened('abc', 5)", "abc"),
        ("shortened('abcde', 5)", "abcde"),
        ("shortened('a\\nb', 5)", "a\\nb"),
    ],
)
def test_as_people_read_it(call: str, shown: str | list[str]) -> None:
    assert eval(call, vars(module)) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (0.0004, "0 s"), (0.0123, "12 ms"), (0.0994, "99 ms"), (0.0996, "0.1 s"),
     (3.21, "3.2 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00"), (754, "12:34"),
     (3599.7, "1:00:00"), (3723, "1:02:03"), (86399.6, "1 d 0 h"), (2.5 * 86400, "2 d 12 h"),
     (123 * 86400, "123 d")],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert module.duration(seconds) == shown
    assert len(shown) <= 8
