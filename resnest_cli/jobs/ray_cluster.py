"""A cluster of Ray: connecting, how many workers fit on it, tasks, and what its errors mean.

A worker gets as many whole cores as make all workers fit, less half a core; the two read tasks that
feed it share that half. So on two cores one worker runs the network with two threads, and no third
process competes.
"""

import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from resnest_cli.cpu import usable_cores
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.text import count, one_line

T = TypeVar("T")

READ_CPUS = 0.25

_READS = 2  # tasks for each worker
_STORE = 2**31  # bytes of the object store at most, of a cluster on this machine
_SHARE = 0.3  # of the memory, where that is less
_ANSWER = 10.0  # seconds for an address to answer


@dataclass(frozen=True, slots=True)
class Pool:
    """`size` workers, each with `threads` cores and `gpus`."""

    size: int
    threads: int
    gpus: float

    @property
    def cpus(self) -> float:
        """What Ray reserves for a worker."""
        return self.threads - _READS * READ_CPUS

    def room(self, nodes: Iterable[Mapping[str, float]]) -> int:
        """How many of these workers fit on nodes with such resources."""
        return sum(_fits(node, self.threads, self.gpus) for node in nodes)


def _fits(node: Mapping[str, float], threads: int, gpus: float) -> int:
    count = int(node.get("CPU", 0) // threads)
    return min(count, int(node.get("GPU", 0) / gpus + 1e-9)) if gpus else count


def pool_for(
    nodes: list[Mapping[str, float]], *, gpus: float | None, concurrency: int | None, cpu_only: bool
) -> Pool:
    """The workers for a cluster: one for each GPU, or one on each node, unless it is said.

    Raises:
        UsageError: so many workers, or workers with so many GPUs, do not fit.
    """
    if gpus is None:
        gpus = 0 if cpu_only or not any(node.get("GPU", 0) >= 1 for node in nodes) else 1
    usable = [n for n in nodes if n.get("CPU", 0) >= 1 and _fits(n, 1, gpus)]
    if not usable and gpus:
        raise UsageError(f"--gpus-per-worker {gpus:g}: no node of the cluster has as many GPUs.")
    if not usable:
        raise ResnestError("no node of the cluster has a CPU for Ray's tasks.")
    if concurrency is None:
        per_node = [int(node["GPU"] / gpus + 1e-9) if gpus else 1 for node in usable]
        threads = min(
            max(1, int(node["CPU"] // count)) for node, count in zip(usable, per_node, strict=True)
        )
        concurrency = Pool(0, threads, gpus).room(usable)
    most = int(max(node["CPU"] for node in usable))
    for threads in range(most, 0, -1):
        pool = Pool(concurrency, threads, gpus)
        if pool.room(usable) >= concurrency:
            return pool
    room = Pool(0, 1, gpus).room(usable)
    has = count(room, "worker")
    raise UsageError(f"--concurrency {concurrency}: the cluster has room for {has}.")


@contextmanager
def connected(address: str | None, *, debug: bool) -> Iterator[None]:
    """Connects to a cluster, or starts one on this machine for as long as it takes."""
    _check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a late thread would start a cluster
    if not debug:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    how: dict[str, Any] = {"address": address, "log_to_driver": debug}
    if address is None:
        try:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            memory = 8 * 2**30
        how |= {
            "address": "local",
            "num_cpus": usable_cores(),
            "include_dashboard": False,
            "object_store_memory": min(_STORE, int(_SHARE * memory)),
        }
    level = logging.INFO if debug else logging.CRITICAL
    try:
        with _quiet(debug):
            ray.init(logging_level=level, **how)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        where = address or "this machine"
        raise ResnestError(f"no Ray cluster at {where}: {one_line(str(error))}") from error
    if not debug:
        _silence()
    # What raylets report of dead workers goes to stdout, which is for records.
    with Path(os.devnull).open("w") as nothing, redirect_stdout(sys.stderr if debug else nothing):
        try:
            yield
        finally:
            with _quiet(debug):
                ray.shutdown()


def _check_address(address: str | None) -> None:
    """Whether anybody answers there: Ray itself would try for minutes."""
    if address is None or address == "auto":
        return
    if "://" in address:
        raise UsageError(f"--ray-address {address}: write HOST:PORT, or auto, on a node of Ray.")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except ValueError:
        raise UsageError(f"--ray-address {address}: write HOST:PORT, or auto.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResnestError(f"no Ray cluster at {address}: {reason.lower()}.") from error


def _silence() -> None:
    """Errors reach us as exceptions; what Ray says of them goes to its files alone."""
    warnings.filterwarnings("ignore", module=r"ray\.")
    for handler in logging.getLogger("ray").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL + 1)


@contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Ray's libraries write to the descriptor itself."""
    if debug:
        yield
        return
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def nodes() -> dict[str, Mapping[str, float]]:
    """The nodes that are alive, by id, with their resources."""
    import ray

    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["Resources"] for node in listed if node["Alive"]}


def task(function: Callable[..., Any], **options: Any) -> Any:
    """The function as a task of Ray."""
    import ray

    return ray.remote(**options)(function)


def on_a_worker(pool: Pool, function: Callable[..., T], *arguments: Any) -> T:
    """Runs a function where a worker would run."""
    import ray

    remote = task(function, num_cpus=pool.cpus, num_gpus=pool.gpus, max_retries=3)
    try:
        result: T = ray.get(remote.remote(*arguments))
    except Exception as error:
        raise ours(error) from error
    return result


def in_tasks(function: Callable[..., T]) -> Callable[..., Future[T]]:
    """The function as a task that any node may run; the future raises what `ours` understands."""
    remote = task(function, num_cpus=READ_CPUS, max_retries=3)

    def begin(*arguments: Any) -> Future[T]:
        future: Future[T] = remote.remote(*arguments).future()
        return future

    return begin


def ours(error: BaseException) -> ResnestError:
    """Our own error out of what Ray has wrapped it in, else one with the gist of Ray's."""
    at: BaseException | None = error
    seen = set[int]()
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, ResnestError) and type(at).__module__ == ResnestError.__module__:
            return at
        at = getattr(at, "cause", None) or at.__cause__ or at.__context__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ResnestError(f"Ray: {one_line(lines[-1]) if lines else type(error).__name__}")


def is_fault(error: BaseException) -> bool:
    """Whether a process or a node has died, or what it held is gone; no error of what ran there."""
    from ray.exceptions import RayError, RayTaskError

    while isinstance(error, RayTaskError):
        error = error.cause
    return isinstance(error, RayError)
