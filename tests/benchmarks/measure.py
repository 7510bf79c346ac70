"""Whole-process measurements, two commands in turn on one machine."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Run:
    """One process: wall seconds and peak resident memory in MB."""

    seconds: float
    megabytes: float


# A child's peak memory starts at that of the process it was forked from (getrusage(2) keeps it over
# exec), so a small process stands between: not this one, which has torch loaded.
_LAUNCHER = """
import os, sys, time
start = time.perf_counter()
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                         file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(process, 0)
print(os.waitstatus_to_exitcode(status), time.perf_counter() - start, usage.ru_maxrss)
"""


def run(command: Sequence[str]) -> Run:
    """Runs a command to its end; its output is dropped, a failure raises."""
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(launcher, capture_output=True, text=True, check=True)
    code, seconds, peak = done.stdout.split()
    if code != "0":
        raise SystemExit(f"{' '.join(command)} failed ({code}):\n{done.stderr}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, else KiB
    return Run(float(seconds), int(peak) * unit / 1e6)


def in_turn(
    ours: Sequence[str],
    theirs: Sequence[str],
    pairs: int,
    *,
    before: Callable[[], None] = lambda: None,
) -> tuple[list[Run], list[Run]]:
    """One warm-up of each, then `pairs` of ours and theirs, one after the other.

    `before` is called, untimed, before each of ours.
    """
    run(ours), run(theirs)
    results: tuple[list[Run], list[Run]] = ([], [])
    for _ in range(pairs):
        before()
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
