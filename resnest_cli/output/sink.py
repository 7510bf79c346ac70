"""Where records go: stdout or a file. What has been written is always whole records."""

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Self

from resnest_cli.errors import ResnestError, cannot_write
from resnest_cli.files import writing

CLOSED = "standard output is closed. Let it lead to a file, or to /dev/null."
_WHOLE = "What was written before is whole."


class Sink:
    """Takes text, one or more whole records at a time, and writes it at once.

    When the disk is full, what was written of the last record is taken back where the output can
    be cut (a file, also behind a shell's redirection). A reader that closes its pipe ends the
    program quietly with exit code 141, as `cat` ends.

    Args:
        path: the file to write; None for stdout.
        errors: how characters that the output cannot hold are written: "backslashreplace", or
            "surrogateescape" to give file names back their own bytes.

    The file is created, or emptied, when the first record is written: a run that fails before
    leaves an older file as it is.
    """

    def __init__(self, path: Path | None = None, *, errors: str = "backslashreplace") -> None:
        self._path = path
        self._errors = errors
        self._own: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            os.close(self._own)
            self._own = None

    def write(self, text: str) -> None:
        """Writes the text, whole, before it returns.

        Raises:
            ResnestError: the file cannot be created or written, or stdout is closed.
        """
        if self._path is not None and self._own is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
            with writing(self._path):
                self._own = os.open(self._path, flags, 0o666)
        if self._own is None and sys.stdout is None:
            raise ResnestError(CLOSED)
        if self.terminal:
            # The terminal's own layer: on Windows it is not a stream of bytes.
            encoding = sys.stdout.encoding
            sys.stdout.write(text.encode(encoding, self._errors).decode(encoding, "replace"))
            sys.stdout.flush()
            return
        try:
            if self._own is not None:
                _write_whole(self._own, text.encode("utf-8", self._errors))
                return
            sys.stdout.flush()
            data = text.encode(sys.stdout.encoding or "utf-8", self._errors)
            _write_whole(sys.stdout.fileno(), data)
        except BrokenPipeError:
            raise closed_pipe() from None
        except OSError as error:
            if self._path is None:
                raise stdout_error(error) from error
            raise ResnestError(f"{cannot_write(self._path, error)} {_WHOLE}") from error

    @property
    def terminal(self) -> bool:
        """Whether people see what is written, as it is."""
        return self._path is None and sys.stdout is not None and sys.stdout.isatty()


def emit(text: str) -> None:
    """Text on stdout, at once."""
    Sink().write(text)


def _write_whole(descriptor: int, data: bytes) -> None:
    done = 0
    try:
        while done < len(data):
            done += os.write(descriptor, data[done:])
    except OSError:
        with contextlib.suppress(OSError):  # a pipe or a device: what is gone is gone
            if done:
                end = os.lseek(descriptor, 0, os.SEEK_CUR) - done
                os.ftruncate(descriptor, end)
                os.lseek(descriptor, end, os.SEEK_SET)
        raise


def stdout_error(error: OSError) -> ResnestError:
    """What to say where standard output fails."""
    if error.errno == errno.EBADF:
        return ResnestError(CLOSED)
    return ResnestError(f"{cannot_write('standard output', error)} {_WHOLE}")


def closed_pipe() -> SystemExit:
    """The end of a program whose reader has gone."""
    # Python flushes stdout once more at exit; what is left must go somewhere.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
    return SystemExit(141)
