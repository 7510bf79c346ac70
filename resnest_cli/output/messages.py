"""Lines on stderr, and whether they are wanted."""

import contextlib
import os
import sys
from typing import TextIO

from resnest_cli.text import printable

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


def decorated(stream: TextIO) -> bool:
    """Whether colours and bars may be drawn on this stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
