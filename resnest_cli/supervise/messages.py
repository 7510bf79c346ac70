"""What the processes say to each other, and how it goes through a pipe."""

import os
import pickle
import signal
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from resnest_cli.errors import ResnestError

CHUNK = 2**16  # bytes read at a time
LENGTH = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class Item:
    """One result of the work."""

    value: Any


@dataclass(frozen=True, slots=True)
class Done:
    """The work has ended; the value that its generator returned."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """The work has raised this; the text is its traceback."""

    error: BaseException
    text: str


@dataclass(frozen=True, slots=True)
class Death:
    """How a child ended: its exit code, negative for a signal, and what it was at."""

    code: int
    in_flight: frozenset[int]
    begun: int  # every input that it had ever begun has a lower index

    def error(self) -> ResnestError:
        """What to tell if no other child could do better."""
        if self.code >= 0:
            return ResnestError(f"the working process ended unexpectedly with code {self.code}")
        name = signal.Signals(-self.code).name
        if self.code == -signal.SIGKILL:
            return ResnestError(
                f"the working process was killed by {name}, probably because memory ran out; "
                "smaller batches and fewer workers need less."
            )
        return ResnestError(f"the working process was killed by {name}")


class Frames:
    """Cuts a stream of bytes into the messages that `send` wrote."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[Any]:
        """The messages that are complete with this chunk."""
        self._buffer += chunk
        messages, at, size = [], 0, len(self._buffer)
        while size - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer, at)
            end = at + LENGTH.size + length
            if end > size:
                break
            messages.append(pickle.loads(self._buffer[at + LENGTH.size : end]))
            at = end
        del self._buffer[:at]
        return messages


def send(fd: int, message: object) -> None:
    """Writes all of a message; waits for the reader."""
    payload = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    view = memoryview(LENGTH.pack(len(payload)) + payload)
    while view:
        view = view[os.write(fd, view) :]


def flush() -> None:
    """What was printed goes out before this process forks or ends."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or its reader has gone
            stream.flush()
