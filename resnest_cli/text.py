"""Numbers, bytes, durations, lists and names as people read them, and rows of CSV files. Pure.

Rows as RFC 4180 has it: a cell with a comma, quote or line break (a lone carriage return is one) is
quoted. A text that a spreadsheet would run as a formula, since it begins with = + - or @, gets an
apostrophe in front, as OWASP advises against CSV injection; so does one that begins with a tab or a
line break. A sign that stands alone is none, such as "-", the name of stdin. Reading takes that
apostrophe away again. Numbers stay as they are.

Source: https://owasp.org/www-community/attacks/CSV_Injection
"""

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

Cell = str | int | float | None

# With the wide forms that East Asian versions of spreadsheets take for the same, and with the
# apostrophes that may stand before: what is written is never taken for what another text gives.
_FORMULA = re.compile("'*(\\s*[=+\\-@\uff1d\uff0b\uff0d\uff20].|[\\t\\r\\n])", re.DOTALL)
_SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}


def count(number: int, noun: str, plural: str = "") -> str:
    """A number of things: 1 photo, 2,000 photos; `plural` where that is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def skipped_files(number: int) -> str:
    """What is said of files in folders that were passed over."""
    files = count(number, "other file")
    return f"{files} without a known image extension {'was' if number == 1 else 'were'} skipped."


def megabytes(size: float) -> str:
    """Bytes of a file: 12.3 kB, 4.5 MB, 110 MB."""
    if size < 10_000_000:
        return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:,.0f} MB"


def gigabytes(size: float) -> str:
    """Bytes of memory: 300 MB, 1.5 GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Seconds in at most 8 characters: 0 s, 34 ms, 3.2 s, 45 s, 12:34, 1:02:03, 2 d 3 h."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.0005 else "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}:{rest:02}"
    if hours < 24:
        return f"{hours}:{minutes:02}:{rest:02}"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days < 100 else f"{days:,} d"


def parse_duration(text: str) -> float | None:
    """Seconds above 0 from "90s", "30m", "2h", "1h30m" or "1d"; None of anything else."""
    text = text.strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    total = math.fsum(float(number) * _SECONDS[unit] for number, unit in parts)
    return total if total > 0 else None


def speed(per_second: float, things: str = "photos") -> str:
    """A rate: 1,234 photos/s, 3.4 photos/s."""
    return f"{per_second:,.0f} {things}/s" if per_second >= 10 else f"{per_second:.1f} {things}/s"


def percent(share: float | None) -> str:
    """A fraction: 81.25%; a dash for None."""
    return "-" if share is None else f"{share:.2%}"


def score(metric: str, value: float) -> str:
    """How near two rows of features are: four decimals of a cosine, five digits of others."""
    return f"{value:.4f}" if metric == "cosine" else f"{value:.5g}"


def some(names: Iterable[str], most: int = 5, *, total: bool = False) -> str:
    """The first names of a list: "a, b and 3 more", "a, b, ... (5 in all)" where `total` is set."""
    every = list(names)
    text = ", ".join(every[:most])
    if len(every) <= most:
        return text
    rest = f", ... ({len(every):,} in all)" if total else f" and {len(every) - most:,} more"
    return text + rest


def joined(names: Iterable[str], word: str = "and") -> str:
    """A list as a sentence has it: "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last


def did_you_mean(name: str, known: Iterable[str], most: int = 3) -> str:
    """A sentence, after a space, that names the nearest known names; empty where none is near."""
    from difflib import get_close_matches  # only needed on the way to an error

    by_case = {one.casefold(): one for one in known}
    near = get_close_matches(name.casefold(), by_case, n=most, cutoff=0.6)
    return f" Did you mean {' or '.join(by_case[one] for one in near)}?" if near else ""


def one_line(text: str) -> str:
    """What a library or a server says, fit for a message: one line of printable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def printable(text: str) -> str:
    """Text that any terminal can show: bytes that are no UTF-8 and control characters escaped."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def printable_name(name: str) -> str:
    """A file name on one line; see `printable`."""
    return printable(name).replace("\n", "\\n")


def short_name(name: str) -> str:
    """What a title calls a model or data: of a path no more than exp/weights/best.safetensors."""
    return "/".join(name.replace(os.sep, "/").rstrip("/").split("/")[-3:])


def common_folder(names: Sequence[str]) -> str:
    """The folder that all names lie in, with its last slash; empty where there is none."""
    same = os.path.commonprefix(names)  # noqa: RUF071 - cut at a slash below
    folder = same[: max(same.rfind("/"), same.rfind(os.sep)) + 1]
    return folder if folder.strip("/\\") and not folder.endswith("://") else ""


def quoted(value: object, most: int = 80) -> str:
    """`repr` of a value from a file, safe to print: no control characters, not too long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 4]}...{text[-1]}"


def shortened(name: str, most: int) -> str:
    """A name in at most so many characters; the middle goes: names may differ at either end."""
    name = printable_name(name)
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def wrapped(text: str, most: float, width: Callable[[str], float] = len) -> list[str]:
    """The text in lines of at most this width, broken at spaces; a longer word stays whole."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and width(longer) > most:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def csv_row(cells: Sequence[Cell]) -> str:
    """One row with its line break; None is an empty cell, and a float reads back as the same."""
    return ",".join(map(_csv_cell, cells)) + "\n"


def csv_rows(rows: Iterable[Sequence[Cell]]) -> str:
    """Several rows."""
    return "".join(map(csv_row, rows))


def _csv_cell(value: Cell) -> str:
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
