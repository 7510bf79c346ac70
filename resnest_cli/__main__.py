"""`python -m resnest_cli`, and the console script `resnest`."""

import gc
import os
import sys
from typing import NoReturn

from resnest_cli import standard_streams


def main() -> NoReturn:
    """Runs the command line and exits.

    `predict` begins to get ready in a process of its own while the command line is parsed.
    """
    # Start-up makes a hundred thousand objects and no garbage to look for.
    gc.set_threshold(100_000, 50, 100)
    # Typer validates with pydantic, which would look for plugins in every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    standard_streams.prepare()
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


if __name__ == "__main__":
    main()
