"""What the work is told, and what it tells while it runs."""

import mmap
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar


class Journal:
    """The inputs that are being worked on, in memory that other processes see, too.

    Threads may share it: taking a slot is one atomic operation, as is each write of 8 bytes, so
    that a crash at any moment leaves whole entries. At most `SLOTS` entries at a time.
    """

    SLOTS = 1024

    def __init__(self) -> None:
        # Pairs: the index + 1, or 0 where the slot is free; and the start in ns. Last, `begun`.
        self._table = memoryview(mmap.mmap(-1, 16 * self.SLOTS + 8)).cast("q")
        self._free = list(range(self.SLOTS))
        self._slot: dict[int, int] = {}

    def begin(self, index: int) -> None:
        """Work on this input begins; it must not be in flight already."""
        slot = self._slot[index] = self._free.pop()
        self._table[2 * slot + 1] = time.monotonic_ns()
        self._table[2 * slot] = index + 1
        if index >= self._table[-1]:  # threads may race here; one too low does no harm
            self._table[-1] = index + 1

    def end(self, index: int) -> None:
        """Work on this input has ended, well or not."""
        slot = self._slot.pop(index)
        self._table[2 * slot] = 0
        self._free.append(slot)

    def in_flight(self) -> dict[int, int]:
        """Index of each input in flight -> when it began, in ns of the monotonic clock."""
        table = self._table.tolist()
        return {table[at] - 1: table[at + 1] for at in range(0, 2 * self.SLOTS, 2) if table[at]}

    def begun(self) -> int:
        """All inputs that ever began have a lower index."""
        return self._table[-1]


@dataclass(frozen=True, slots=True)
class Start:
    """Where the work begins: after `skip` inputs; `suspects` are to be handled in isolation.

    What may crash is noted in the `journal`, where there is one; suspects are not.
    """

    skip: int = 0
    suspects: frozenset[int] = frozenset()
    journal: Journal | None = None


T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[Start], Generator[T, None, R]]
