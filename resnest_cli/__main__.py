"""`python -m resnest_cli`, and the console script `resnest`."""

import gc
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line and exits.

    `predict` begins to get ready in a process of its own while the command line is parsed.
    """
    # Start-up makes a hundred thousand objects and no garbage to look for.
    gc.set_threshold(100_000, 50, 100)
    if sys.argv[1:2] == ["predict"] and not {"--help", "-h"} & set(sys.argv):
        from resnest_cli.commands import predict_job

        predict_job.begin()
    from resnest_cli import app

    app.main()


if __name__ == "__main__":
    main()
