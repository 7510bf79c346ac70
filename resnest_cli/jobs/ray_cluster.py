"""A cluster of Ray: connecting, how many workers fit on it, and parts that pass through them.

A worker gets as many whole cores as make all workers fit, less half a core; the two read tasks that
feed it share that half. So on two cores one worker runs the network with two threads, and no third
process competes.

Each worker is an actor with two parts at most: one that it computes, and one whose photos a task
reads meanwhile, on any node; Ray moves what the task returns to the actor, and frees it when the
actor is done. So nothing grows with the number of inputs. A part is written by the one call that
computed it, under a name that its number decides: whatever is done twice, since a worker has died,
writes the same file again. What comes back only describes a part; its content never passes through
the driver.
"""

import logging
import os
import socket
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from resnest_cli import output
from resnest_cli.cpu import usable_cores
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.jobs.job import ClusterJob
from resnest_cli.jobs.ray_output import Output, PartInfo
from resnest_cli.jobs.ray_worker import PartWorker, Run, part_photos
from resnest_cli.text import one_line

T = TypeVar("T")

READ_CPUS = 0.25

_READS = 2  # tasks for each worker
_STORE = 2**31  # bytes of the object store at most, of a cluster on this machine
_SHARE = 0.3  # of the memory, where that is less
_ANSWER = 10.0  # seconds for an address to answer
_TICK = 1.0  # seconds between two looks at the nodes
_IN_FLIGHT = 2  # parts of each worker: one that is computed, one whose photos are read
_MOST_DEATHS = 8  # at one part, which may be by chance


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


def _task(function: Callable[..., Any], **options: Any) -> Any:
    """The function as a task of Ray."""
    import ray

    return ray.remote(**options)(function)


def on_a_worker(pool: Pool, function: Callable[..., T], *arguments: Any) -> T:
    """Runs a function where a worker would run."""
    import ray

    remote = _task(function, num_cpus=pool.cpus, num_gpus=pool.gpus, max_retries=3)
    try:
        result: T = ray.get(remote.remote(*arguments))
    except Exception as error:
        raise ours(error) from error
    return result


def in_tasks(function: Callable[..., T]) -> Callable[..., Future[T]]:
    """The function as a task that any node may run; the future raises what `ours` understands."""
    remote = _task(function, num_cpus=READ_CPUS, max_retries=3)

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


def _is_fault(error: BaseException) -> bool:
    """Whether a process or a node has died, or what it held is gone; no error of what ran there."""
    from ray.exceptions import RayError, RayTaskError

    while isinstance(error, RayTaskError):
        error = error.cause
    return isinstance(error, RayError)


class NodesLostError(Exception):
    """The nodes that are left have no room for the workers."""


class Workers:
    """The actors of a round, and the parts that each has been given.

    Ray would restart actors by itself; but what it cannot know is which part has ended them, and
    that those of a lost node may find no room elsewhere.
    """

    def __init__(self, job: ClusterJob, run: Run, pool: Pool, parts: Iterable[int]) -> None:
        import ray

        self._job, self._run, self._pool = job, run, pool
        self._waiting = deque(parts)
        self._died = Counter[int]()  # how often each part was lost with what worked on it
        self._calls: dict[Any, dict[Future[Any], int]] = {}  # of each actor, in order
        self._nodes = nodes()
        self._alone = len(self._nodes) == 1
        self._actor: Any = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus)(PartWorker)
        self._read = _task(part_photos, num_cpus=READ_CPUS, max_retries=_MOST_DEATHS)

    def computed(self) -> Generator[tuple[PartInfo, float, float], None, None]:
        """Computes the parts; each comes out as soon as it is written, in any order.

        With it come the seconds of reading, and of its worker.

        Raises:
            NodesLostError: begin again with a pool for the nodes that are left.
            ResnestError: a part cannot be computed or written.
        """
        import ray

        try:
            while self._waiting or any(self._calls.values()):
                self._hire()
                self._hand_out()
                calls = [call for calls in self._calls.values() for call in calls]
                # Not ray.wait: it swallows what a handler of signals raises.
                done, _ = wait(calls, timeout=_TICK, return_when=FIRST_COMPLETED)
                if not done and self._room() < len(self._calls):
                    raise NodesLostError
                for call in done:
                    if self._answered(call):
                        yield call.result()
        finally:
            for actor in self._calls:
                ray.kill(actor)

    def _hire(self) -> None:
        """Starts as many actors as are wanted and find room, some of them in place of the dead."""
        wanted = min(self._pool.size, len(self._waiting) + len(self._calls))
        if len(self._calls) == wanted:
            return
        now = nodes()
        room = self._pool.room(now.values())
        while len(self._calls) < min(wanted, room):
            actor = self._actor.remote(self._job, self._run)
            actor.load.remote()
            self._calls[actor] = {}
        if not self._calls:
            raise NodesLostError
        if room < wanted and self._nodes.keys() - now.keys():
            output.message("A node is gone: going on without it.")
        self._nodes = now

    def _hand_out(self) -> None:
        """Gives each actor one part to compute and one whose photos are read meanwhile."""
        while self._waiting:
            actor, calls = min(self._calls.items(), key=lambda item: len(item[1]))
            if len(calls) == _IN_FLIGHT:
                return
            part, offline = self._waiting.popleft(), self._job.model.offline
            photos = self._read.remote(self._job.output, part, offline=offline, alone=self._alone)
            calls[actor.compute.remote(photos).future()] = part

    def _answered(self, call: Future[Any]) -> bool:
        """Whether a call that is done brings a part; else the part waits again."""
        import ray
        from ray.exceptions import RayActorError

        actor = next((one for one, calls in self._calls.items() if call in calls), None)
        if actor is None:  # its actor has died, and its part waits already
            return False
        calls, error = self._calls[actor], call.exception()
        if error is None:
            del calls[call]
        elif isinstance(error, RayActorError):  # the first of its parts was in hand
            first, *others = self._calls.pop(actor).values()
            ray.kill(actor)  # it may only be out of reach
            self._waiting.extendleft(reversed(others))
            self._lost(first, error)
        elif _is_fault(error):  # a task that read has died, or a node with what it gave
            self._lost(calls.pop(call), error)
        else:
            raise ours(error) from error
        return error is None

    def _lost(self, part: int, error: BaseException) -> None:
        self._died[part] += 1
        if self._died[part] == _MOST_DEATHS:
            path = Output(self._job.output, self._job.format).part_path(part)
            raise ResnestError(
                f"{path}: {_MOST_DEATHS} workers have died of this part, although its photos are "
                "decoded in processes of their own: memory may be short. A smaller --batch-size "
                "needs less."
            ) from error
        self._waiting.appendleft(part)

    def _room(self) -> int:
        return self._pool.room(nodes().values())
