"""Lines on stderr, and names and numbers as people read them."""

import contextlib
import os
import sys
from typing import TextIO

_settings = {"quiet": False, "debug": False}


def set_quiet(quiet: bool) -> None:
    """Messages that are no errors are dropped from here on."""
    _settings["quiet"] = quiet


def is_quiet() -> bool:
    """Whether `--quiet` was given."""
    return _settings["quiet"]


def set_debug(debug: bool) -> None:
    """Errors show their traceback from here on."""
    _settings["debug"] = debug


def debug_wanted() -> bool:
    """Whether `--debug` or `RESNEST_DEBUG` was given."""
    return _settings["debug"] or bool(os.environ.get("RESNEST_DEBUG"))


def message(text: str, style: str = "") -> None:
    """A line on stderr, unless `--quiet`; on a terminal in a style: digits of ANSI's SGR."""
    if not _settings["quiet"]:
        text = printable(text)
        _line(f"\033[{style}m{text}\033[0m" if style and decorated(sys.stderr) else text)


def error(text: str) -> None:
    """An error on stderr, always; the word is red on a terminal."""
    prefix = "\033[1;31merror:\033[0m" if decorated(sys.stderr) else "error:"
    _line(f"{prefix} {printable(text)}")


def _line(text: str) -> None:
    # One write, so that the lines of several processes do not mix. What cannot be shown is dropped.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def printable(text: str) -> str:
    """Text that any terminal can show: bytes that are no UTF-8 and control characters escaped."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def printable_name(name: str) -> str:
    """A file name on one line; see `printable`."""
    return printable(name).replace("\n", "\\n")


def decorated(stream: TextIO) -> bool:
    """Whether colours and bars may be drawn on this stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def percent(value: float | None) -> str:
    """A fraction as people read it; a dash for None."""
    return "-" if value is None else f"{value:.2%}"


def megabytes(size: int) -> str:
    """A number of bytes as people read it: 110 MB."""
    if size < 10_000_000:
        return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:,.0f} MB"


def duration(seconds: float) -> str:
    """Seconds in at most 8 characters: 3.2 s, 45 s, 12:34, 1:02:03, 2 d 3 h."""
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
