"""The missing parts, streamed through Ray Data: read tasks -> a pool of actors -> what they wrote.

The rows that come back only tell of a part; its content never passes through the driver. Ray Data
restarts actors and repeats their calls as often as they die. It waits, though, for actors of a node
that is gone to find room elsewhere, for ever where there is none: then `streamed` ends, and the
caller starts a smaller pool for what is still missing.
"""

import json
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from resnest_cli.cluster.batch import PartWorker, Run
from resnest_cli.cluster.job import ClusterJob
from resnest_cli.cluster.machines import READ_CPUS, READS, Pool, nodes, ours
from resnest_cli.cluster.reading import HELD, source

_TICK = 1.0  # seconds between two looks at the nodes
_PATIENCE = 30.0  # seconds for Ray Data to end
_TASKS = 10_000  # read tasks at most: the driver knows of each
_IN_FLIGHT = 2  # parts of each worker: one that is computed, one that lies ready


@dataclass(frozen=True, slots=True)
class Done:
    """A part that is written; the seconds are those of its worker and of reading."""

    part: int
    inputs: int
    failures: dict[str, int]
    computed: bool
    read: float
    seconds: float


class NodesLostError(Exception):
    """Workers have lost their nodes, and there is no room for them on the others."""


def streamed(job: ClusterJob, run: Run, pool: Pool, parts: list[int]) -> Iterator[Done]:
    """Computes these parts; tells of each as soon as it is written, in any order.

    Raises:
        NodesLostError: begin again with a pool for the nodes that are left.
        ResnestError: a part cannot be computed or written.
    """
    alive = nodes()
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    execution = _Execution()
    thread = threading.Thread(
        target=_collect, args=(job, run, pool, parts, execution, results), daemon=True
    )
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
            yield Done(**(result | {"failures": json.loads(result["failures"])}))
    finally:
        execution.end(thread)


class _Execution:
    """Ends what Ray Data has begun, from another thread.

    Ray Data has no public way to that. Without it, its threads would go on after the end of a
    round, and Ray ends the process when they find the connection closed. So the executor is noted
    when the data set makes it, in those versions of Ray where it does so by this method.
    """

    def __init__(self) -> None:
        self._executors: list[Any] = []

    def follow(self, dataset: Any) -> Any:
        """The same data set, whose execution can be ended."""
        create = getattr(dataset, "_create_executor", None)
        if create is None:
            return dataset

        def created(*arguments: Any, **options: Any) -> Any:
            executor = create(*arguments, **options)
            self._executors.append(executor)
            return executor

        dataset._create_executor = created
        return dataset

    def end(self, thread: threading.Thread) -> None:
        """Ends it, if it has not ended, and waits for the thread that it runs for."""
        deadline = time.monotonic() + _PATIENCE
        while thread.is_alive() and time.monotonic() < deadline:
            for executor in self._executors:
                executor.shutdown(force=True)
            thread.join(_TICK)


def _collect(
    job: ClusterJob,
    run: Run,
    pool: Pool,
    parts: list[int],
    execution: _Execution,
    results: "queue.SimpleQueue[Any]",
) -> None:
    """In a thread, so that the caller can watch the nodes and be interrupted."""
    try:
        for row in execution.follow(_dataset(job, run, pool, parts)).iter_rows():
            results.put(row)
    except BaseException as error:
        results.put(error)
    else:
        results.put(None)


def _dataset(job: ClusterJob, run: Run, pool: Pool, parts: list[int]) -> Any:
    import ray
    from ray.data import DataContext, ExecutionResources

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = -1  # the first part of a large network takes its time
    context.execution_options.resource_limits = ExecutionResources(
        object_store_memory=2 * HELD * (_IN_FLIGHT + READS) * pool.size
    )
    tasks = min(len(parts), _TASKS)
    read = ray.data.read_datasource(
        source(job.output, parts, tasks, offline=job.model.offline, alone=len(nodes()) == 1),
        override_num_blocks=tasks,
        num_cpus=READ_CPUS,
        concurrency=min(tasks, READS * pool.size),
    )
    return read.map_batches(
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
