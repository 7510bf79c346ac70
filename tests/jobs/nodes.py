"""A Ray cluster of several nodes on this machine, commands that use it, and what ends them.

The nodes are processes of their own; a "node" that is removed takes its workers with it. All of
them, and nothing else on the machine, carry a mark in their environment by which they are found.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
HAZARDS = Path(__file__).parent / "hazards"
WORKER = "ray::PartWorker"
READERS = ("ray::read_part", "ray::IDLE")  # a process between two of Ray's tasks is idle
_NODE = {"num_cpus": 1, "object_store_memory": 300 * 2**20}
PATIENCE = 240.0  # seconds for something that has to come


class Nodes:
    """A cluster whose nodes have one CPU each; a context manager.

    `slow` seconds are what each photo takes to decode, as `planted_photos` has it.
    """

    def __init__(self, home: Path, count: int = 2, *, slow: float = 0.0) -> None:
        self.home = home
        self.env = os.environ | {
            "RESNEST_HOME": str(home),
            "PYTHONPATH": f"{HAZARDS}{os.pathsep}{ROOT}",
            "SLOW": str(slow),
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
        }
        self._count = count

    def __enter__(self) -> Self:
        from ray.cluster_utils import Cluster

        with self._environment():
            head = _NODE | {"include_dashboard": False}
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.others: list[Any] = []
        for _ in range(self._count - 1):
            self.add_node()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        return self._cluster.address

    def add_node(self) -> None:
        with self._environment():
            self.others.append(self._cluster.add_node(**_NODE))
        self._cluster.wait_for_nodes()

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """What nodes are started with."""
        before = dict(os.environ)
        os.environ.update(self.env)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def remove_node(self) -> None:
        """A node dies, without a word."""
        self._cluster.remove_node(self.others.pop(), allow_graceful=False)

    def words(self, name: str, *arguments: object) -> list[str]:
        """A command on this cluster."""
        return [name, *map(str, arguments), "--runner", "ray", "--ray-address", self.address]

    def start(self, name: str, *arguments: object) -> subprocess.Popen[str]:
        return self.popen([sys.executable, "-m", "resnest_cli", *self.words(name, *arguments)])

    def popen(self, command: list[str]) -> subprocess.Popen[str]:
        env = self.env | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, name: str, *arguments: object, code: int = 0) -> str:
        """Runs a command to its end, which must be `code`; what it said."""
        return ended(self.start(name, *arguments), code)

    def workers(self) -> list[int]:
        """The processes of the actors that run the network."""
        return [pid for pid in self._ours() if _title(pid).startswith(WORKER)]

    def readers(self) -> list[int]:
        """The processes of the tasks that read."""
        return [pid for pid in self._ours() if _title(pid).startswith(READERS)]

    def _ours(self) -> list[int]:
        mark = f"RESNEST_HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


def ended(process: subprocess.Popen[str], code: int) -> str:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, f"ended with {process.returncode}: {out}{err}"
    return out + err


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for(condition: Any, process: subprocess.Popen[str] | None = None) -> Any:
    """What `condition` returns as soon as that is true; the process must still run."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "never came"
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.05)
    return found


def local_rows(
    photos: Path, model: Path, target: Path, env: dict[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """What the local runner says of each photo of a folder, of which some are damaged, by input."""
    command = [sys.executable, "-m", "resnest_cli", "features", photos, "-m", model, "-o", target]
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    return {row["input"]: row for row in pq.read_table(target).to_pylist()}


def largest_difference(found: dict[str, dict], expected: dict[str, dict]) -> float:
    """Of any feature from that of `local_rows`, as a share of the largest value.

    Fails where inputs are missing, or errors are other ones.
    """
    assert found.keys() == expected.keys(), f"{len(found)} of {len(expected)} rows"
    scale = max(np.abs(row["features"]).max() for row in expected.values() if row["features"])
    worst = 0.0
    for name, row in expected.items():
        assert (found[name]["status"], found[name]["error"]) == (row["status"], row["error"])
        assert (found[name]["feature"] is None) == (row["features"] is None)
        if row["features"] is not None:
            difference = np.subtract(found[name]["feature"], row["features"])
            worst = max(worst, float(np.abs(difference).max() / scale))
    return worst


def parts(output: Path) -> list[Path]:
    return sorted(path for path in output.glob("part-*.*") if path.suffix != ".tmp")


def rows(output: Path) -> dict[str, dict[str, Any]]:
    """The rows of all parts, by input; each input must be there once."""
    found = [row for part in parts(output) for row in pq.read_table(part).to_pylist()]
    counts = Counter(row["input"] for row in found)
    assert max(counts.values(), default=1) == 1, counts.most_common(3)
    return {row["input"]: row for row in found}
