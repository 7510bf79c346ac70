"""How many inputs there are, counted ahead in the background while the first are worked on."""

import threading
from contextlib import suppress
from typing import Self

from resnest_cli.errors import ResnestError
from resnest_cli.features.job import FeaturesJob
from resnest_cli.images.sources import iter_sources


class Counting:
    """A context in which a thread reads the list once more, for its length alone.

    That costs a look at each name (some µs, against tens of ms in the network) and no memory. A
    list on stdin cannot be read ahead: `total` stays None.
    """

    def __init__(self, job: FeaturesJob) -> None:
        self._job = job
        self._count = 0
        self._stop = False
        stdin = "-" in (*job.options.inputs, job.options.from_file)
        self._thread = None if stdin else threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        if self._thread is not None:
            self._thread.join(1.0)  # a folder on a slow disk may hold it up longer

    @property
    def total(self) -> int | None:
        """How many of our inputs have been counted by now."""
        if self._thread is None:
            return None
        return self._job.shard.size(self._count, self._job.options.batch_size)

    def _run(self) -> None:
        options = self._job.options
        with suppress(ResnestError, OSError):  # the working process will tell
            for _ in iter_sources(
                options.inputs,
                recursive=options.recursive,
                from_file=options.from_file,
                null_separated=options.null_separated,
            ):
                self._count += 1
                if self._stop:
                    return
