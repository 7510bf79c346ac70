"""The cores that a process may use."""

import os

import pytest

from resnest_cli import cpu as module


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 1 << 16),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, 1 << 16),
        ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "10000 100000"}, 1),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000",
          "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
          "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 1 << 16),
    ],
)  # fmt: skip
def test_a_containers_quota(
    files: dict[str, str], cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_text", lambda path: files.get(path, ""))
    assert module._quota() == cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_affinity_and_hyperthreads(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/sys/devices/system/cpu/smt/active": "1"}
    files |= {
        f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{n % 4},{n % 4 + 4}"
        for n in range(8)
    }
    monkeypatch.setattr(module, "_text", lambda path: files.get(path, ""))
    for allowed, cores in ((set(range(8)), 4), ({0, 4}, 1), ({0, 1, 2}, 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, allowed=allowed: allowed)
        assert module.usable_cores() == cores


def test_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_limit", 1 << 16)
    before = module.usable_cores()
    module.limit_cores(1)
    assert module.usable_cores() == 1
    module.limit_cores(before + 1)
    assert module.usable_cores() == before
