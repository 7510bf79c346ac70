"""A supervised run that begins before it is known what it has to do."""

import mmap
import os
import pickle
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from resnest_cli.supervise.caller import supervised
from resnest_cli.supervise.journal import Start

J = TypeVar("J")
T = TypeVar("T")
R = TypeVar("R")


class Early(Generic[J, T, R]):
    """Starts a child that gets ready while this process finds out the job, and then is told it.

    Create it first of all: a command line takes as long to parse as its libraries to import, and
    there is more than one core. A child that replaces a crashed one finds the job already told.

    Args:
        ready: gets ready; imports what the work needs.
        work: the job and where to begin -> results; see `supervised`.
        time_limit: as in `supervised`.
        room: bytes that the pickled job may take at most.
    """

    def __init__(
        self,
        ready: Callable[[], None],
        work: Callable[[J, Start], Generator[T, None, R]],
        *,
        time_limit: float,
        room: int,
    ) -> None:
        self._ready, self._work = ready, work
        self._job = mmap.mmap(-1, 8 + room)  # pages that nobody writes cost nothing
        self._told, self._tell = os.pipe()
        self._results = supervised(self._run, time_limit=time_limit)

    def tell(self, job: J) -> Generator[T, None, R]:
        """Hands over the job, which must be picklable; its results."""
        data = pickle.dumps(job, pickle.HIGHEST_PROTOCOL)
        self._job[8 : 8 + len(data)] = data
        self._job[:8] = len(data).to_bytes(8, "little")
        os.write(self._tell, b"!")
        return self._results

    def _run(self, start: Start) -> Generator[T, None, R]:
        self._ready()
        if not any(self._job[:8]):
            os.read(self._told, 1)
        size = int.from_bytes(self._job[:8], "little")
        job: Any = pickle.loads(self._job[8 : 8 + size])
        return (yield from self._work(job, start))
