"""`python -m resnest_cli`, and the console script `resnest`."""

import gc
import os
import sys
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line and exits.

    `predict` begins to get ready in a process of its own while the command line is parsed.
    """
    # Start-up makes a hundred thousand objects and no garbage to look for.
    gc.set_threshold(100_000, 50, 100)
    # Typer validates with pydantic, which would look for plugins in every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    _fill_standard_streams()
    try:
        elsewhere = any(
            word in {"--help", "-h"} or word.startswith("--runner") for word in sys.argv
        )
        if sys.argv[1:2] == ["predict"] and not elsewhere:
            from resnest_cli.commands import predict_job

            predict_job.begin()
        from resnest_cli import app

        app.main()
    except KeyboardInterrupt:  # so early that nobody else could catch it
        sys.exit(130)


def _fill_standard_streams() -> None:
    """Where the shell closed 0, 1 or 2, the next file or pipe would take its number and its role.

    Python's own `sys.stdout` stays None: writing records to it is an error, not a silent loss.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - never closed


if __name__ == "__main__":
    main()
