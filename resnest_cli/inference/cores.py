"""How many cores this process may use. No numpy."""

import os
from collections.abc import Callable
from pathlib import Path

_limit = 1 << 16


def limit_cores(count: int) -> None:
    """Grants this process so many cores at most, where it shares a machine with others of ours.

    Call it before an engine is made.
    """
    global _limit  # noqa: PLW0603 - of this process
    _limit = count


def usable_cores() -> int:
    """Physical cores that this process may use: its affinity, within the container's quota."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return max(1, min(os.cpu_count() or 1, _limit))
    cores = len(allowed)
    if _text("/sys/devices/system/cpu/smt/active") == "1":
        siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
        cores = len({_text(siblings.format(cpu)) or cpu for cpu in allowed})
    return max(1, min(cores, _quota(_text), _limit))


def _quota(read: Callable[[str], str]) -> int:
    """Cores that the control group grants (cgroup v2, then v1), rounded up; many if unlimited."""
    limit, _, period = read("/sys/fs/cgroup/cpu.max").partition(" ")
    if not period:
        limit = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
        period = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    try:
        quota = -(-int(limit) // int(period))
    except (ValueError, ZeroDivisionError):  # "max", or no control groups
        return 1 << 16
    return quota if quota > 0 else 1 << 16


def _text(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
