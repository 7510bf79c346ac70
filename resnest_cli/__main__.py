"""`python -m resnest_cli`, and the console script `resnest`: its streams first, then the program.

stdin, stdout and stderr are taken whatever the shell has made of them. A stderr that fails loses
its messages and nothing more: records and exit codes stay as they are. A stdout that fails is an
error in words, whoever writes to it: records, tables, help.
"""

import atexit
import gc
import io
import os
import sys
from typing import Any, NoReturn

# Commands that begin with a photo, and those whose threads C code may hold up when they end.
_DECODING = {"predict", "features", "evaluate", "explain"}
_THREADED = _DECODING | {"benchmark", "search"}


def main() -> NoReturn:
    """Runs the command line and exits.

    While it is parsed, the process that decodes the first photo gets ready.
    """
    # Start-up makes a hundred thousand objects and no garbage to look for.
    gc.set_threshold(100_000, 50, 100)
    # Typer validates with pydantic, which would look for plugins in every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    prepare_streams()
    elsewhere = any(word in {"--help", "-h"} or word.startswith("--runner") for word in sys.argv)
    command = None if elsewhere else next(iter(sys.argv[1:]), None)
    try:
        if command in _DECODING:
            from resnest_cli.images import pool

            pool.begin()
        from resnest_cli import app

        app.main()
    except KeyboardInterrupt:  # so early that nobody else could catch it
        sys.exit(130)
    except SystemExit as end:
        if command in _THREADED and isinstance(end.code, int):
            _leave(end.code)
        raise


def _leave(code: int) -> None:
    """Exits without waiting for threads; returns where something cannot be written."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (Exception, SystemExit):
        return
    atexit._run_exitfuncs()  # what libraries clean up
    os._exit(code)


def prepare_streams() -> None:
    """Fills descriptors that the shell closed, and puts ours in place of Python's streams.

    The next file or pipe would take the number of a closed one, and its role. A closed stdout stays
    one that cannot be written: records that are lost are an error.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # open takes the lowest number that is free: this one
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
    if os.name != "posix":  # a console of Windows is no file
        if sys.stderr is None:
            sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        return
    sys.stdout = _stream(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _stream(_Messages(2, "w", closefd=False), sys.stderr)


def _stream(raw: io.FileIO, old: Any) -> io.TextIOWrapper:
    """A text stream like the old one, or like those of Python where there was none."""
    buffered = io.BufferedWriter(raw)
    if old is None:
        return io.TextIOWrapper(buffered, "utf-8", "backslashreplace", line_buffering=True)
    return io.TextIOWrapper(
        buffered,
        old.encoding,
        old.errors,
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )


class _Messages(io.FileIO):
    """Drops what cannot be written: a full disk, a reader that has gone, a terminal hung up."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


class _Output(io.FileIO):
    """Says once what is wrong; what comes then, as when Python flushes at its end, is dropped."""

    _failed = False

    def write(self, data: Any, /) -> int:
        if self._failed or not len(data):
            return len(data)
        try:
            return super().write(data)
        except BrokenPipeError:
            self._failed = True
            raise SystemExit(141) from None
        except OSError as error:
            self._failed = True
            from resnest_cli.output.sink import stdout_error

            raise stdout_error(error) from error


if __name__ == "__main__":
    main()
