"""A stream of results that outlives crashes: the work runs in a child process that is replaced.

A decoder is C code fed with other people's bytes: it may crash, hang, or be killed for its memory,
and takes its whole process with it. `supervised` runs the work in a forked child, which notes in
shared memory what it is at (`Journal`) and sends its results through a pipe. When the child dies
or is stuck, another one starts after the last result received, and learns which inputs were in
flight, so that it can handle those, and only those, with care (`images.isolation`).

    caller.py ── results ◄── pipe ── child      runs the work: imports, threads, devices
       └── commands, news ──── keeper.py ──┘    forks the child, waits for it, reads the journal

The keeper is forked first, while this process is small and has one thread, and does nothing but
wait: so a replacement, too, starts from a clean state, whatever threads the caller has by then
(forking a process with threads is unsafe, and Python 3.12 warns). It also ends the child at once
when the caller is gone, `kill -9` included, even if the child hangs while it holds the GIL.

Trade-offs. Ordinary runs pay two forks of a small process (the work begins 4 ms later, which the
caller can use), 2 ms at the end, 5 to 10 µs for a result of 1 kB, and 0.6 µs for each entry of the
journal. What was in flight beside the culprit is handled with care, too. A child is killed, never
unwound: the work must leave nothing behind that `kill -9` would damage. Windows has no fork:
there, and where threads already run, the work runs in this process without protection.
"""

from resnest_cli.supervise.caller import Early, Replay, supervised
from resnest_cli.supervise.keeper import Journal, Start

__all__ = ["Early", "Journal", "Replay", "Start", "supervised"]
