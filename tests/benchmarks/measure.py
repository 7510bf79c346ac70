"""Whole-process measurements, two commands in turn on one machine."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Run:
    """One process: wall seconds and peak resident memory in MB."""

    seconds: float
    megabytes: float


def run(command: Sequence[str]) -> Run:
    """Runs a command to its end; its output is dropped, a failure raises."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed ({process.returncode}):\n{errors}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, else KiB
    return Run(seconds, usage.ru_maxrss * unit / 1e6)


def in_turn(ours: Sequence[str], theirs: Sequence[str], pairs: int) -> tuple[list[Run], list[Run]]:
    """One warm-up of each, then `pairs` of ours and theirs, one after the other."""
    run(ours), run(theirs)
    results: tuple[list[Run], list[Run]] = ([], [])
    for _ in range(pairs):
        results[0].append(run(ours))
        results[1].append(run(theirs))
    return results


def report(title: str, ours: list[Run], theirs: list[Run]) -> None:
    """Prints the medians of both sides and their ratios."""
    print(f"{title}: medians of {len(ours)} pairs in turn")
    print(f"{'':20}{'ours':>10}{'reference':>12}{'ratio':>8}")
    for name in ("seconds", "megabytes"):
        a, b = (median(getattr(r, name) for r in side) for side in (ours, theirs))
        print(f"{name:20}{a:>10.2f}{b:>12.2f}{a / b:>8.2f}")
