"""Processes that a test started, and what they have done: waited for, never slept for."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Returns as soon as it holds; the limit is for a machine under any load.

    Raises:
        TimeoutError: it did not.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.01)


def running(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of it until somebody waits."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    process = Path(f"/proc/{pid}")
    try:  # a zombie whose other threads still end is not yet to be waited for
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(list((process / "task").iterdir())) > 1
    except OSError:
        return sys.platform != "linux"


def wait_until_gone(*pids: int) -> None:
    wait_for(lambda: not any(map(running, pids)))
