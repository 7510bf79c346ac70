"""The signals that ask a long command to end: Ctrl-C, SIGTERM, and SIGHUP of a closed terminal.

All three are answered alike: what was done is saved, and the exit code is 128 + the number. What
was ignored at the start, as `nohup` leaves SIGHUP, stays ignored.
"""

import signal

STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
)


def heeded() -> tuple[signal.Signals, ...]:
    """Those of `STOPPING` that nobody asked this process to ignore."""
    return tuple(one for one in STOPPING if signal.getsignal(one) is not signal.SIG_IGN)


def leave_to_parent() -> None:
    """In a process that works for another: a signal to all of them is for that one to answer."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
