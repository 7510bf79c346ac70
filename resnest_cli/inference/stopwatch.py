"""Where the time of a run goes: seconds spent reading, decoding and in the network."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar

from resnest_cli.images.decode import read_file

if TYPE_CHECKING:
    from resnest_cli.images.batches import Float32, Photo

A = TypeVar("A")
B = TypeVar("B")
Step = Literal["read", "decode", "network"]


class Stopwatch:
    """Adds up seconds by step, over all threads: two that decode for one second make two."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[Step, float] = {}

    @contextmanager
    def running(self, step: Step) -> Iterator[None]:
        """What is done inside counts for this step, however it ends."""
        start = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - start
            with self._lock:
                self._seconds[step] = self._seconds.get(step, 0.0) + passed

    def timed(self, step: Step, function: Callable[[A], B]) -> Callable[[A], B]:
        """The function, whose time counts for this step."""

        def run(argument: A) -> B:
            with self.running(step):
                return function(argument)

        return run

    def preparation(
        self, preparation: "Callable[[Photo], Float32]"
    ) -> "Callable[[Photo], Float32]":
        """A preparation that reads a file whole before it decodes it, so that both can be told."""

        def prepare(photo: "Photo") -> "Float32":
            if isinstance(photo, str):
                with self.running("read"):
                    photo = read_file(photo)
            with self.running("decode"):
                return preparation(photo)

        return prepare

    def take(self) -> dict[Step, float]:
        """The seconds since the last call."""
        with self._lock:
            taken, self._seconds = self._seconds, {}
        return taken
