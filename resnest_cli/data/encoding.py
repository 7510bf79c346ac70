"""The bytes of a text file, as spreadsheets and scripts write them -> text.

A byte order mark decides: UTF-8, UTF-16 (Excel's "Unicode text"), UTF-32. Without one the text is
UTF-8; UTF-16 where every second byte is zero; and a line that is not UTF-8 is read as Windows-1252,
which older programs of western Europe and America write. What was guessed is said.
"""

import codecs
from pathlib import Path
from typing import NamedTuple

from resnest_cli.errors import ResnestError, UsageError, one_line

WINDOWS = "cp1252"
# The marks of UTF-32 begin as those of UTF-16 do: longer ones first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 4096  # bytes
_SHOWN = 60  # characters


class Text(NamedTuple):
    """A file's text; what had to be guessed; whether lines of it were read as Windows-1252."""

    text: str
    notes: list[str]
    windows: bool = False


def read_bytes(path: Path, most: int = -1) -> bytes:
    """The whole file, or its first bytes.

    Raises:
        ResnestError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise ResnestError(f"{path}: cannot be read: {error.strerror or error}.") from error


def decoded(data: bytes, name: str) -> Text:
    """The text of a file's bytes; `name` is the file's, for messages.

    Raises:
        UsageError: they are no text, or in another encoding.
    """
    found = _decoded(data, name)
    nul = found.text.find("\0")
    if nul >= 0:
        line = found.text.count("\n", 0, nul) + 1
        raise UsageError(
            f"{name}: has a NUL byte in line {line}: it is damaged, or no text at all. Save it "
            "again, as CSV in UTF-8."
        )
    return found


def _decoded(data: bytes, name: str) -> Text:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return Text(_by(encoding, data.removeprefix(mark), name), [])
    for encoding, zeros in (("utf-16-le", data[1:_SAMPLE:2]), ("utf-16-be", data[:_SAMPLE:2])):
        if len(data) > 3 and zeros.count(0) > 0.6 * len(zeros):
            return Text(_by(encoding, data, name), [f"{name}: has no mark; read as UTF-16"])
    try:
        return Text(data.decode("utf-8"), [])
    except UnicodeDecodeError:
        return _by_lines(data, name)


def _by(encoding: str, data: bytes, name: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name}: is not whole: byte {error.start} cannot be read as {encoding.upper()}. Save "
            "it again, as UTF-8."
        ) from error


def _by_lines(data: bytes, name: str) -> Text:
    """Lines that are not UTF-8 as Windows-1252: one such line makes no others unreadable."""
    lines, odd = [], []
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            try:
                lines.append(line.decode(WINDOWS))
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{name}: line {number} is neither UTF-8 nor Windows-1252. Save it as UTF-8: "
                    "in a spreadsheet as CSV UTF-8, or with iconv -f ENCODING -t UTF-8."
                ) from error
            odd.append(number)
    shown = one_line(lines[odd[0] - 1])[:_SHOWN]
    note = (
        f"{name}: {len(odd)} line(s) are not UTF-8 and read as Windows-1252, line {odd[0]} first: "
        f"{shown} (if that is wrong, save the file as UTF-8)"
    )
    return Text("".join(lines), [note], windows=True)
