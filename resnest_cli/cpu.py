"""This machine's processor: the cores that this process may use, and the instruction sets."""

import hashlib
import os
import sys
from functools import lru_cache
from pathlib import Path

_UNLIMITED = 1 << 16
_limit = _UNLIMITED


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
    return max(1, min(cores, _quota(), _limit))


def _quota() -> int:
    """Cores that the control group grants (cgroup v2, then v1), rounded up; many if unlimited."""
    limit, _, period = _text("/sys/fs/cgroup/cpu.max").partition(" ")
    if not period:
        limit = _text("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
        period = _text("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    try:
        quota = -(-int(limit) // int(period))
    except (ValueError, ZeroDivisionError):  # "max", or no control groups
        return _UNLIMITED
    return quota if quota > 0 else _UNLIMITED


def _text(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


@lru_cache(maxsize=1)
def cpu_features() -> str:
    """A short name for the platform and the instruction sets of this CPU."""
    machine = os.environ.get("PROCESSOR_ARCHITECTURE", "")
    if hasattr(os, "uname"):
        machine = os.uname().machine
    names = " ".join(sorted(cpu_feature_names()))
    return f"{sys.platform}-{machine}-{hashlib.sha256(names.encode()).hexdigest()[:12]}"


def cpu_feature_names() -> tuple[str, ...]:
    """The instruction sets of this CPU, such as AVX2, the newest last.

    Numpy finds them out at its import, on every platform: no file is read for it. The interface
    is private; without it the platform alone counts, and ONNX Runtime's own checks remain.
    """
    import numpy as np  # noqa: F401 - not at the top: `resnest models` has no use for it

    numpy_core = sys.modules.get("numpy._core._multiarray_umath") or sys.modules.get(
        "numpy.core._multiarray_umath"  # numpy 1
    )
    found = getattr(numpy_core, "__cpu_features__", {})
    return tuple(name for name, there in found.items() if there)
