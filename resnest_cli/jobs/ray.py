"""The runner on Ray: actors compute parts, tasks on any node read their photos ahead.

Each actor has two parts at most: one that it computes, and one whose photos a task reads meanwhile;
Ray moves what the task returns to the actor, and frees it when the actor is done. So nothing grows
with the number of inputs. A part is written by the one call that computed it, under a name that its
number decides: whatever is done twice, since a worker has died, writes the same file again. What
comes back only describes a part; its content never passes through the driver.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from resnest_cli import output
from resnest_cli.cpu import limit_cores
from resnest_cli.errors import CheckpointError, ResnestError, UsageError, need
from resnest_cli.images.sources import Source, SourceStats
from resnest_cli.inference.extraction import Extraction
from resnest_cli.jobs import local
from resnest_cli.jobs.folder import FolderOutput
from resnest_cli.jobs.inputs import PartPhotos, iter_inputs, looked_into, part_photos
from resnest_cli.jobs.job import Job, carry_out, go_on, portable
from resnest_cli.jobs.listing import Input
from resnest_cli.jobs.parts import Manifest, PartInfo, Parts
from resnest_cli.jobs.predict import Ranking
from resnest_cli.jobs.ray_cluster import (
    READ_CPUS,
    Pool,
    connected,
    in_tasks,
    is_fault,
    nodes,
    on_a_worker,
    ours,
    pool_for,
    task,
)
from resnest_cli.jobs.run import Advance, run
from resnest_cli.options import AUTO, ModelOptions, RayOptions, RunOptions
from resnest_cli.paths import is_address

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.jobs.compute import Computer

ALL_CORES = -1  # as many decoding processes as a worker has cores
MOST_INPUTS = 1024  # of a part
LEAST_INPUTS = 32

_MOST_BYTES = 64 * 2**20  # of a part's rows
_PARTS_EACH = 4  # for a worker, where there are few inputs
_LOOKED_AT = 65_536  # inputs at most that are held to see whether they are few
_MOST_LOOKED_AT = 64  # shards; the names in each are held
_ROUNDS = 5  # in a row without a part
_TICK = 1.0  # seconds between two looks at the nodes
_IN_FLIGHT = 2  # parts of each worker: one that is computed, one whose photos are read
_MOST_DEATHS = 8  # at one part, which may be by chance
_MOST_THREADS = 256


def run_command(
    options: RunOptions,
    model: ModelOptions,
    ray: RayOptions,
    wanted: Extraction | Ranking,
    output_: str | None,
    *,
    format_: str | None = None,
    resume: bool,
    overwrite: bool,
    retry: bool = False,
) -> None:
    """Runs `features` or `predict` on Ray and says how it went.

    Raises:
        UsageError: there is no folder to write to, or the options do not go together.
        ResnestError: Ray is missing, or whatever else prevents it.
        SystemExit: with 3 if an input failed, with 128 + n after signal n.
    """
    if output_ is None or output_ == "-":
        raise UsageError("name the folder to write with -o: --runner ray writes many files.")
    if format_ not in {None, "parquet", "jsonl"}:
        raise UsageError(f"--format {format_} is for --runner local; Ray's are parquet and jsonl.")
    if options.batch_size == AUTO:
        raise UsageError("--batch-size auto is for --runner local: nodes differ. Name a size.")
    for module in ("ray", "pyarrow"):
        need(module, "--runner ray")
    job = Job(
        output=output_,
        options=options,
        model=portable(model),
        wanted=wanted,
        format=format_ or "parquet",
        name=model.model,
        path_column=ray.path_column or "path",
        address=ray.ray_address,
        gpus=ray.gpus_per_worker,
        concurrency=ray.concurrency,
        go_on=go_on("predict" if isinstance(wanted, Ranking) else "features"),
    )
    target = FolderOutput(output_, job.format)
    runner = RayRunner(job, target, debug=output.debug_wanted())
    carry_out(
        lambda progress: run(
            job, target, runner, progress, resume=resume, overwrite=overwrite, retry=retry
        ),
        job.go_on,
        target.summary_text,
    )


class RayRunner:
    """Computes the parts of a folder on a cluster of Ray; see `run.Runner`."""

    patient = False  # a part may take minutes

    def __init__(self, job: Job, target: FolderOutput, *, debug: bool = False) -> None:
        self._job, self._debug = job, debug
        self._folder = job.output if is_address(job.output) else target.folder

    def opened(self) -> AbstractContextManager[None]:
        """Connects to the cluster, or starts one."""
        return connected(self._job.address, debug=self._debug)

    def prepare(self, job: Job, manifest: Manifest | None) -> tuple[Job, dict[str, Any]]:  # noqa: ARG002
        """Loads the model where a worker would; what it says of itself."""
        self._job = job
        self._pool = self._find_pool(job.concurrency)
        if not self._pool.gpus and job.model.device == "auto":
            job = replace(job, model=replace(job.model, device="cpu"))
        identity, self._row_bytes = on_a_worker(self._pool, found, job, self._pool.threads)
        engine = identity["engine"]["engine"]
        self._job = replace(job, model=replace(job.model, engine=engine))
        return self._job, identity

    def _find_pool(self, concurrency: int | None) -> Pool:
        job = self._job
        return pool_for(
            list(nodes().values()),
            gpus=job.gpus,
            concurrency=concurrency,
            cpu_only=job.model.device == "cpu" or job.model.engine == "onnx",
        )

    def inputs(self, stats: SourceStats) -> Iterator[Input]:
        """What was named. Of several nodes all look into shards: far away these are read whole."""
        from ray.exceptions import RayError

        there = nodes().values()
        how: dict[str, Any] = {}
        if len(there) > 1:
            cores = sum(node.get("CPU", 0) for node in there)
            how["at_once"] = min(_MOST_LOOKED_AT, max(1, int(cores / READ_CPUS)))
            how["look"] = in_tasks(looked_into)
        try:
            yield from iter_inputs(self._job.options, self._job.path_column, stats, **how)
        except RayError as error:
            raise ours(error) from error

    def cut(self, inputs: Iterator[Input]) -> tuple[Iterator[Input], int]:
        """Parts of many inputs, of fewer where these would not keep all workers busy."""
        few = min(_LOOKED_AT, MOST_INPUTS * _PARTS_EACH * self._pool.size)
        head = list(islice(inputs, few))
        size = part_size_for(
            len(head) if len(head) < few else None,
            workers=self._pool.size,
            batch_size=self._job.options.batch_size,
            row_bytes=self._row_bytes,
        )
        return chain(head, inputs), size

    def compute(
        self, manifest: Manifest, missing: list[int], _advance: Advance
    ) -> Iterator[PartInfo]:
        """Rounds over what is missing, until nothing is; lost nodes are skipped."""
        left, rounds = dict.fromkeys(missing), _ROUNDS
        while left:
            before = len(left)
            actors = Actors(self._job, self._folder, manifest, self._pool, left)
            try:
                with closing(actors.computed()) as computed:
                    for info in computed:
                        del left[info.part]
                        yield info
            except NodesLostError:
                output.message(_NODE_GONE)
                self._pool = self._find_pool(None)
            rounds = _ROUNDS if len(left) < before else rounds - 1
            if not rounds:
                go_on_ = self._job.go_on
                raise ResnestError(f"the cluster loses its nodes. Go on with:\n  {go_on_}")


def part_size_for(inputs: int | None, *, workers: int, batch_size: int, row_bytes: int) -> int:
    """How many inputs a part has: whole batches, several parts for each worker, rows that fit.

    `inputs` is None where there are many.
    """
    size = min(MOST_INPUTS, _MOST_BYTES // row_bytes)
    if inputs is not None:
        size = min(size, max(LEAST_INPUTS, inputs // (_PARTS_EACH * workers)))
    return max(1, -(-size // batch_size)) * batch_size


class NodesLostError(Exception):
    """The nodes that are left have no room for the workers."""


_NODE_GONE = "A node is gone: going on without it."


class Actors:
    """The actors of a round, and the parts that each has been given.

    Ray would restart actors by itself; but what it cannot know is which part has ended them, and
    that those of a lost node may find no room elsewhere.
    """

    def __init__(
        self, job: Job, folder: str, manifest: Manifest, pool: Pool, parts: Iterable[int]
    ) -> None:
        import ray

        self._job, self._folder, self._manifest, self._pool = job, folder, manifest, pool
        self._waiting = deque(parts)
        self._died = Counter[int]()  # how often each part was lost with what worked on it
        self._calls: dict[Any, dict[Future[Any], int]] = {}  # of each actor, in order
        self._nodes = nodes()
        self._alone = len(self._nodes) == 1
        self._actor: Any = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus)(PartWorker)
        self._read = task(read_part, num_cpus=READ_CPUS, max_retries=_MOST_DEATHS)

    def computed(self) -> Generator[PartInfo, None, None]:
        """Computes the parts; each comes out as soon as it is written, in any order.

        Raises:
            NodesLostError: begin again with a pool for the nodes that are left.
            ResnestError: a part cannot be computed or written.
        """
        try:
            while self._waiting or any(self._calls.values()):
                self._hire()
                self._hand_out()
                calls = [call for calls in self._calls.values() for call in calls]
                # Not ray.wait: it swallows what a handler of signals raises.
                done, _ = wait(calls, timeout=_TICK, return_when=FIRST_COMPLETED)
                for call in done:
                    if self._answered(call):
                        yield call.result()
        finally:
            for actor in self._calls:
                _kill(actor)

    def _hire(self) -> None:
        """Starts actors as wanted, where there is room; ends those that lost nodes leave none."""
        now = nodes()
        room = self._pool.room(now.values())
        if not room:
            raise NodesLostError
        while len(self._calls) > room:
            self._end(next(reversed(self._calls)))
        while len(self._calls) < min(self._pool.size, room, len(self._waiting) + len(self._calls)):
            actor = self._actor.remote(self._job, self._folder, self._manifest, self._pool.threads)
            actor.load.remote()
            self._calls[actor] = {}
        if room < self._pool.size and self._nodes.keys() - now.keys():
            output.message(_NODE_GONE)
        self._nodes = now

    def _end(self, actor: Any) -> None:
        """Its parts wait again."""
        self._waiting.extendleft(reversed(self._calls.pop(actor).values()))
        _kill(actor)

    def _hand_out(self) -> None:
        """Gives each actor one part to compute and one whose photos are read meanwhile."""
        while self._waiting:
            actor, calls = min(self._calls.items(), key=lambda item: len(item[1]))
            if len(calls) == _IN_FLIGHT:
                return
            part, offline = self._waiting.popleft(), self._job.model.offline
            photos = self._read.remote(self._folder, part, offline=offline, alone=self._alone)
            calls[actor.compute.remote(part, photos).future()] = part

    def _answered(self, call: Future[Any]) -> bool:
        """Whether a call that is done brings a part; else the part waits again."""
        from ray.exceptions import RayActorError

        actor = next((one for one, calls in self._calls.items() if call in calls), None)
        if actor is None:  # its actor has been ended
            return False
        calls, error = self._calls[actor], call.exception()
        if error is None:
            del calls[call]
            return True
        if isinstance(error, RayActorError):
            part = next(iter(calls.values()))  # the one in hand
            self._end(actor)
        elif is_fault(error):  # a task that read has died, or a node with what it gave
            part = calls.pop(call)
            self._waiting.appendleft(part)
        else:
            raise ours(error) from error
        self._died[part] += 1
        if self._died[part] == _MOST_DEATHS:
            path = Parts(self._folder, self._job.format).part_path(part)
            raise ResnestError(
                f"{path}: {_MOST_DEATHS} workers have died of this part, although its photos are "
                "decoded in processes of their own: memory may be short. A smaller --batch-size "
                "needs less."
            ) from error
        return False


def _kill(actor: Any) -> None:
    """Ends an actor, unless it or the whole cluster has died already."""
    import ray

    with suppress(ray.exceptions.RayError):
        ray.kill(actor)


class PartWorker:
    """An actor: the photos of a part -> its rows, computed and written."""

    def __init__(self, job: Job, folder: str, manifest: Manifest, threads: int) -> None:
        workers = threads if job.options.workers < 0 else job.options.workers
        options = replace(job.options, workers=min(workers, _MOST_THREADS))
        self._job, self._threads = replace(job, options=options), threads
        self._target = Parts(folder, job.format, manifest)
        self._sources: Iterator[Source] = iter(())
        self._stack = ExitStack()

    @cached_property
    def _computer(self) -> "Computer":
        """Made at the first use, so that an error of ours reaches the driver as it is.

        Raises:
            CheckpointError: this node has other weights than the one that began the run.
        """
        from resnest_cli.jobs.compute import Computer

        classifier = load(self._job, self._threads)
        model = classifier.model
        if model.sha256() != self._target.manifest.identity["weights_sha256"]:
            raise CheckpointError(
                f"{model.path}: this node ({os.uname().nodename}) has other weights under this "
                "name than the others. Put the same file on every node, or name one that all can "
                "read."
            )
        computer = Computer(self._job, classifier, lambda _: next(self._sources))
        return self._stack.enter_context(computer)

    def load(self) -> None:
        """Loads the network while the first photos are read; `compute` raises what is wrong."""
        with suppress(ResnestError):
            self._computer  # noqa: B018

    def compute(self, part: int, photos: PartPhotos) -> PartInfo:
        """Writes a part, unless it is there; with the seconds of reading and of this.

        Raises:
            ResnestError: the network cannot be loaded, or the part cannot be written.
        """
        begun = time.monotonic()
        info = self._target.part(part, len(photos.inputs))
        if info is None:
            self._sources = photos.sources(offline=self._job.model.offline)
            batches = self._computer.batches([(part, photos.inputs)])
            info = self._target.commit(part, [result for _, batch in batches for result in batch])
        seconds = {"workers": time.monotonic() - begun, "reading": photos.seconds}
        return replace(info, seconds=seconds)

    def close(self) -> None:
        """Ends its decoders, as the end of this process does."""
        self._stack.close()


def read_part(folder: str, part: int, *, offline: bool, alone: bool) -> PartPhotos:
    """A task: the photos of a part."""
    return part_photos(Parts(folder, "").inputs_of(part), offline=offline, alone=alone)


def found(job: Job, threads: int) -> tuple[dict[str, Any], int]:
    """Loads the model in this process: what decides the output, and bytes of a photo's row."""
    from resnest_cli.jobs.compute import described

    classifier, size = load(job, threads), 1024
    if isinstance(job.wanted, Extraction):
        size = local.row_bytes(job.wanted, classifier)
    return described(job, classifier), size


def load(job: Job, threads: int) -> "Classifier":
    """The classifier, with so many threads in this process."""
    limit_cores(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # Ray has set that to the CPUs of the actor
    return local.load(job)
