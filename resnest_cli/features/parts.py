"""Items -> parts, committed in the background while the next one is filled.

The working process must not wait for the disk: it sends through a pipe that holds a few rows, so
whoever reads that must not stand still for the second that syncing 64 MB takes.
"""

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from resnest_cli.features.failures import kind_of
from resnest_cli.features.job import Item, Mark
from resnest_cli.features.lines import formatted
from resnest_cli.features.store import Part, Store, temporary

# A kill loses what is not committed: at most so many seconds of work. In bytes, a part is what the
# disk needs as room beside the output while that is assembled.
MOST_SECONDS = 20.0
MOST_BYTES = 64 * 2**20
MOST_INPUTS = 2**16

_BUFFER = 2**20


@dataclass(slots=True)
class _Filled:
    """What has been written of a part."""

    inputs: int = 0
    rows: int = 0
    bytes: int = 0
    line_bytes: int = 0
    failures: dict[str, int] = field(default_factory=dict)


class PartWriter:
    """Writes items to the parts of a store; only whole batches are ever committed.

    All methods raise OSError where the disk is full or fails; what was committed stays valid.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._number = store.parts[-1].number + 1 if store.parts else 0
        self._row = store.rows
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        self._begun = 0.0
        self._now = _Filled()
        self._marked: tuple[_Filled, Mark] | None = None  # at the end of the last whole batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._pending: Future[None] | None = None
        self._adding = self._committing = 0.0  # seconds, each of one thread

    @property
    def seconds(self) -> float:
        """Time that was spent writing, in both threads."""
        return self._adding + self._committing

    def add(self, item: Item) -> None:
        """One more input."""
        start = time.perf_counter()
        rows, lines = self._files or self._open()
        now = self._now
        row = None
        if item.row is None:
            kind = kind_of(item.error or "")
            now.failures[kind] = now.failures.get(kind, 0) + 1
        else:
            row = self._row
            self._row += 1
            now.rows += 1
            now.bytes += rows.write(item.row)
        now.line_bytes += lines.write(formatted(item.name, row, item.error))
        now.inputs += 1
        self._adding += time.perf_counter() - start

    def reached(self, mark: Mark, *, commit: bool = False) -> None:
        """A batch is whole; the part is committed if it is due, or if that is asked for."""
        now = self._now
        self._marked = (
            _Filled(now.inputs, now.rows, now.bytes, now.line_bytes, dict(now.failures)),
            mark,
        )
        late = time.monotonic() - self._begun > MOST_SECONDS
        if commit or late or now.bytes >= MOST_BYTES or now.inputs >= MOST_INPUTS:
            self._hand_over(mark)
        if commit:
            self._wait()

    def finish(self, mark: Mark, skipped: int) -> None:
        """All inputs are done: commits what is left, with the end."""
        if self._files is None:
            self._wait()
            number = self._number
            self._store.commit(Part(number, 0, 0, 0, 0, mark, {}, end=True, skipped=skipped))
        else:
            self._hand_over(mark, end=True, skipped=skipped)
            self._wait()

    def salvage(self) -> None:
        """Commits the batches that are whole; the rest of an interrupted one is dropped."""
        if self._files is None or self._marked is None:
            return
        filled, mark = self._marked
        for file, size in zip(self._files, (filled.bytes, filled.line_bytes), strict=True):
            file.flush()
            os.ftruncate(file.fileno(), size)
        self._now = filled
        self._hand_over(mark)
        self._wait()

    def close(self) -> None:
        """Drops what is not committed; never raises."""
        for file in self._files or ():
            with suppress(OSError):
                file.close()
        self._files = None
        self._thread.shutdown(wait=True)
        with suppress(OSError):
            self._store.tidy()  # a full disk needs the room

    def _open(self) -> tuple[BinaryIO, BinaryIO]:
        part = Part(self._number, 0, 0, 0, 0, Mark(0, ""), {})
        paths = self._store.rows_path(part), self._store.lines_path(part)
        rows, lines = (temporary(path).open("wb", buffering=_BUFFER) for path in paths)
        self._files = rows, lines
        self._begun = time.monotonic()
        return self._files

    def _hand_over(self, mark: Mark, *, end: bool = False, skipped: int = 0) -> None:
        """Has the part committed in the background, once the one before is."""
        self._wait()
        assert self._files is not None
        now = self._now
        part = Part(
            self._number,
            now.inputs,
            now.rows,
            now.bytes,
            now.line_bytes,
            mark,
            now.failures,
            end=end,
            skipped=skipped,
        )
        files, self._files = self._files, None
        self._now, self._marked = _Filled(), None
        self._number += 1
        self._pending = self._thread.submit(self._commit, files, part)

    def _commit(self, files: tuple[BinaryIO, BinaryIO], part: Part) -> None:
        start = time.perf_counter()
        try:
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        finally:
            for file in files:
                with suppress(OSError):
                    file.close()
        self._store.commit(part)
        self._committing += time.perf_counter() - start

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
