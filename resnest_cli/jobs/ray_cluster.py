"""A cluster of Ray: connecting, how many workers fit on it, and parts that stream through them.

A worker gets as many whole cores as make all workers fit, less half a core; the two read tasks that
feed it share that half. So on two cores one worker runs the network with two threads, and no third
process competes.

Ray Data reads ahead in tasks on any node, holds the bytes back by its memory budget, keeps the pool
of actors that run the network, and gives the work of a dead task or actor to another. What it
cannot know is whose rows are already safe. So a part is written by the one call that computed it,
under a name that its number decides: whatever is done twice writes the same file again. The rows
that come back only describe a part; its content never passes through the driver.
"""

import json
import logging
import os
import queue
import re
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from resnest_cli import errors
from resnest_cli.cpu import usable_cores
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.jobs.job import ClusterJob
from resnest_cli.jobs.ray_output import PartInfo
from resnest_cli.jobs.ray_worker import HELD, PartWorker, Run, part_row
from resnest_cli.text import one_line

T = TypeVar("T")

READ_CPUS = 0.25

_READS = 2  # tasks for each worker
_STORE = 2**31  # bytes of the object store at most, of a cluster on this machine
_SHARE = 0.3  # of the memory, where that is less
_ANSWER = 10.0  # seconds for an address to answer
_TICK = 1.0  # seconds between two looks at the nodes
_END = 30.0  # seconds for Ray Data to end
_TASKS = 10_000  # read tasks at most: the driver knows of each
_IN_FLIGHT = 2  # parts of each worker: one that is computed, one that lies ready


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
    raise UsageError(f"--concurrency {concurrency}: the cluster has room for {room} worker(s).")


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
    import ray.data  # sets up its logger

    warnings.filterwarnings("ignore", module=r"ray\.")
    # What raylets report of dead workers goes to stdout, which is for records.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    for name in ("ray", "ray.data"):
        for handler in logging.getLogger(name).handlers:
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


def on_a_worker(pool: Pool, function: Callable[..., T], *arguments: Any) -> T:
    """Runs a function where a worker would run."""
    import ray

    remote = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus, max_retries=3)(function)
    try:
        result: T = ray.get(remote.remote(*arguments))
    except Exception as error:
        raise ours(error) from error
    return result


def in_tasks(function: Callable[..., T]) -> Callable[..., Future[T]]:
    """The function as a task that any node may run; the future raises what `ours` understands."""
    import ray

    remote = ray.remote(num_cpus=READ_CPUS, max_retries=3)(function)

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
    # Where an actor dies while it begins, only the text of its traceback comes through.
    text = str(error)
    for found in re.finditer(r"resnest_cli\.errors\.(\w+): (.+)", text):
        kind = getattr(errors, found[1], ResnestError)
        return kind(found[2])
    lines = [line for line in text.splitlines() if line.strip()]
    return ResnestError(f"Ray: {one_line(lines[-1]) if lines else type(error).__name__}")


class NodesLostError(Exception):
    """Workers have lost their nodes, and there is no room for them on the others."""


def streamed(
    job: ClusterJob, run: Run, pool: Pool, parts: list[int]
) -> Iterator[tuple[PartInfo, float, float]]:
    """Computes these parts; each comes out as soon as it is written, in any order.

    With it come the seconds of reading, and of its worker.

    Ray Data restarts actors and repeats their calls as often as they die. It waits, though, for
    actors of a node that is gone to find room elsewhere, for ever where there is none.

    Raises:
        NodesLostError: begin again with a pool for the nodes that are left.
        ResnestError: a part cannot be computed or written.
    """
    alive = nodes()
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    executors: list[Any] = []

    def collect() -> None:
        """In a thread, so that the caller can watch the nodes and be interrupted."""
        try:
            for row in _dataset(job, run, pool, parts, executors).iter_rows():
                results.put(row)
        except BaseException as error:
            results.put(error)
        else:
            results.put(None)

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    try:
        while True:
            try:
                result = results.get(timeout=_TICK)
            except queue.Empty:
                now = nodes()
                if alive.keys() - now.keys() and pool.room(now.values()) < pool.size:
                    raise NodesLostError from None
                continue
            if result is None:
                return
            if isinstance(result, BaseException):
                raise ours(result) from result
            info, reading, working = json.loads(result["done"])
            yield PartInfo(**info), reading, working
    finally:
        deadline = time.monotonic() + _END
        while thread.is_alive() and time.monotonic() < deadline:
            for executor in executors:
                executor.shutdown(force=True)
            thread.join(_TICK)


def _dataset(job: ClusterJob, run: Run, pool: Pool, parts: list[int], executors: list[Any]) -> Any:
    """Rows that say what `PartWorker` has done; what computes them goes into `executors`."""
    import ray
    from ray.data import DataContext, ExecutionResources

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = -1  # the first part of a large network takes its time
    context.execution_options.resource_limits = ExecutionResources(
        object_store_memory=2 * HELD * (_IN_FLIGHT + _READS) * pool.size
    )
    tasks = min(len(parts), _TASKS)
    row = partial(part_row, job.output, offline=job.model.offline, alone=len(nodes()) == 1)
    read = ray.data.read_datasource(
        _source(row, parts, tasks),
        override_num_blocks=tasks,
        num_cpus=READ_CPUS,
        concurrency=min(tasks, _READS * pool.size),
    )
    dataset = read.map_batches(
        PartWorker,
        fn_constructor_args=(job, run),
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        compute=ray.data.ActorPoolStrategy(
            size=min(pool.size, len(parts)), max_tasks_in_flight_per_actor=_IN_FLIGHT
        ),
    )
    # Ray Data has no public way to end what it has begun. Left alone, its threads would go on after
    # the end of a round, and Ray ends the process when they find the connection closed. So the
    # executor is noted, in those versions where this method makes it.
    if create := getattr(dataset, "_create_executor", None):

        def created(*arguments: Any, **options: Any) -> Any:
            executors.append(create(*arguments, **options))
            return executors[-1]

        dataset._create_executor = created
    return dataset


def _source(row: Callable[[int], Any], parts: list[int], tasks: int) -> Any:
    """A source of Ray Data that gives a row for each of these parts, in at most so many tasks."""
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    def task(group: list[int]) -> Any:
        about = BlockMetadata(
            num_rows=len(group), size_bytes=None, input_files=None, exec_stats=None
        )
        return ReadTask(lambda: map(row, group), about)

    class Photos(Datasource):
        """Rows of `part_row`."""

        def get_name(self) -> str:
            return "Photos"

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
            each = -(-len(parts) // tasks)
            return [task(parts[at : at + each]) for at in range(0, len(parts), each)]

    return Photos()  # type: ignore[no-untyped-call]
