"""The processes of a run on several devices: who starts them, and how they keep together.

torchrun, or `--devices` with torch's own launcher (`launch`), starts one process for each device
and says in the environment which it is; torch.nn.parallel.DistributedDataParallel adds up
gradients. What is here is the rest: every process must end, save and stop at the same step, and no
process may wait for one that is gone.

- Numbers and decisions travel over gloo on the CPU, gradients by nccl where there are GPUs. A peer
  that is gone, or more than a minute behind within a step, ends the process with an error.
- What the first process does alone, such as checking the data or writing a state, may take longer:
  the others wait for it at a key in the store, without that limit.
- torchrun gives each process a session of its own, so that killing torchrun would leave orphans: a
  process whose parent has changed stops as on SIGTERM.

Statistics of batch norms are those that the first process saw, as DistributedDataParallel has it:
the others take them over before each validation.
"""

import contextlib
import inspect
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from resnest_cli.cpu import usable_cores
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.signals import StopRequest
from resnest_cli.text import one_line

_BEHIND = timedelta(seconds=60)  # how long a step waits for the slowest process
_ENDING = 20.0  # seconds that an orphan, or a process group, gets to end by itself
_LEAVING = 5.0  # seconds that the first process waits for the others to leave before it
_LOST = ("gloo", "nccl", "connection", "peer", "timed out", "socket", "broken pipe")
_WORKER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class PeerLostError(ResnestError):
    """Another process of the run has ended, or does not answer."""


@dataclass(slots=True)
class World:
    """Which of the processes of a run this is; the default is a run of one.

    `rank` is its number among all `size` of them, `local_rank` that among the `local_size` of this
    machine. `job` names what torchrun was started for, "" without it; `restarted` says that it has
    started the processes before. Whatever needs the others raises PeerLostError without them.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    job: str = ""
    restarted: bool = False
    _store: Any = None
    _met: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def exchange(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every process, by rank; each gives as many."""
        if self.size == 1:
            return [list(numbers)]
        mine = torch.tensor(list(numbers), dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with _peers():
            dist.all_gather(found, mine)
        return [tensor.tolist() for tensor in found]

    def gathered(self, value: Any) -> list[Any]:
        """A picklable value of every process, by rank."""
        found = [value] * self.size
        if self.size > 1:
            with _peers():
                dist.all_gather_object(found, value)
        return found

    def share(self, value: Any) -> Any:
        """The first process's value, picklable, in every process."""
        box = [value]
        if self.size > 1:
            with _peers():
                dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def decide(self, stop: StopRequest, *wishes: bool) -> list[bool]:
        """What the first process wishes, in every process; a signal to any comes to all."""
        if self.size == 1:
            return list(wishes)
        rows = self.exchange([float(stop.signal or 0), *map(float, wishes)])
        signals = [int(row[0]) for row in rows if row[0]]
        if signals and stop.signal is None:
            stop.signal = signal.Signals(signals[0])
        return [bool(wish) for wish in rows[0][1:]]

    def share_buffers(self, *networks: nn.Module) -> None:
        """Running statistics of the first process, in every process."""
        for network in networks if self.size > 1 else ():
            buffers = [b for b in network.buffers() if b.is_floating_point()]
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
            with _peers():
                dist.broadcast(flat, src=0)
            parts = torch.split(flat, [buffer.numel() for buffer in buffers])
            for buffer, part in zip(buffers, parts, strict=True):
                buffer.copy_(part.view_as(buffer))

    def meet(self) -> None:
        """Waits, however long it takes, until every process is here."""
        if self.size == 1:
            return
        self._met += 1
        key = f"meet/{self._met}"
        with _peers():
            if self._store.add(key, 1) == self.size:
                self._store.set(f"{key}/all", "1")
        self._wait(f"{key}/all")

    def begin(self, plan: Any) -> None:
        """The first process is ready, and gives the others what `await_main` returns."""
        if self.size > 1:
            with _peers():
                self._store.set("begin", "go")
            self.share(plan)

    def dismiss(self, exit_code: int) -> None:
        """The first process ends without any training; so do the others."""
        if self.size > 1:
            with contextlib.suppress(RuntimeError):
                self._store.set("begin", str(exit_code))

    def await_main(self) -> tuple[int, Any]:
        """Exit code and None of a first process that ends before training; else 0 and its plan."""
        self._wait("begin")
        with _peers():
            word = self._store.get("begin").decode()
        return (0, self.share(None)) if word == "go" else (int(word), None)

    def _wait(self, key: str) -> None:
        """Polls, so that signals are answered meanwhile."""
        pause = 0.001
        with _peers():
            while not self._store.check([key]):
                time.sleep(pause)
                pause = min(0.5, 1.5 * pause)

    def learner(self, network: nn.Module, *, unused: bool) -> nn.Module:
        """The network, its gradient averaged over all processes; itself in a run of one.

        `unused`: parts may be without gradient in some epochs; what ever gets one has it now.
        """
        if self.size == 1:
            return network
        # Gradients of convolutions of 1 x 1 have other strides, in the same place in memory.
        warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        apart: dict[str, Any] = {name: False}  # it was renamed
        with _peers():
            return DistributedDataParallel(network, find_unused_parameters=unused, **apart)

    @contextlib.contextmanager
    def adding(self, learner: nn.Module, last: bool) -> Iterator[None]:
        """Around forward and backward pass: only the step's last gradient is averaged."""
        if not isinstance(learner, DistributedDataParallel):
            yield
            return
        with _peers(), contextlib.nullcontext() if last else learner.no_sync():
            yield

    def device(self, asked: str) -> str:
        """Where this process computes; "cuda" is then its own GPU."""
        if self.size == 1:
            return asked
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
            return "cpu"
        if asked not in {"auto", "cuda"}:
            raise UsageError(
                f"--device {asked}: with several devices it is cuda, of which every process takes "
                "its own, or cpu."
            )
        if self.local_size > count:
            raise UsageError(
                f"{self.local_size} processes need as many GPUs; torch {torch.__version__} sees "
                f"{count} here. Start fewer, or use --device cpu."
            )
        torch.cuda.set_device(self.local_rank)
        return "cuda"

    def close(self) -> None:
        """Ends the process group, by force what is stuck in it."""
        if self.size == 1 or not dist.is_initialized():
            return
        alarm = threading.Timer(_ENDING, os._exit, [1])
        alarm.daemon = True
        alarm.start()
        with contextlib.suppress(RuntimeError):
            # The first process goes last: it may hold the store that the others still look into.
            left, end = self._store.add("left", 1), time.monotonic() + _LEAVING
            while self.main and left < self.size and time.monotonic() < end:
                time.sleep(0.02)
                left = self._store.add("left", 0)
            dist.destroy_process_group()
        alarm.cancel()


def is_worker(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or something that sets the same variables, started this process."""
    return all(name in environment for name in _WORKER)


def is_follower(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is one of several processes, and not the first: it prints nothing."""
    return is_worker(environment) and environment["RANK"] != "0"


def join(environment: Mapping[str, str] = os.environ) -> World:
    """The world that torchrun's environment describes; a run of one without it."""
    if not is_worker(environment):
        return World()
    world = World(
        rank=int(environment["RANK"]),
        size=int(environment["WORLD_SIZE"]),
        local_rank=int(environment["LOCAL_RANK"]),
        local_size=int(environment.get("LOCAL_WORLD_SIZE", environment["WORLD_SIZE"])),
    )
    _end_with_parent()
    restarts = int(environment.get("TORCHELASTIC_RESTART_COUNT", "0"))
    job = environment.get("TORCHELASTIC_RUN_ID", "none")
    if job == "none":  # nobody named it
        job = f"{socket.gethostname()}:{os.getppid()}"
    if world.size == 1:
        world.job, world.restarted = job, restarts > 0
        return world
    torch.set_num_threads(max(1, usable_cores() // world.local_size))
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    # The agent's store outlives its processes: the addresses of those before must not be found.
    attempt = restarts if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else 0
    with _peers():
        store, _, _ = next(rendezvous("env://", timeout=_BEHIND))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=dist.PrefixStore(f"group/{attempt}", store),  # type: ignore[attr-defined]
            rank=world.rank,
            world_size=world.size,
            timeout=_BEHIND,
        )
        # Keys of processes that were started before may still be in the store.
        prefix = f"resnest/{world.share(os.urandom(8).hex())}"
        world._store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
    world.job = world.share(job)
    # A machine that was replaced counts from 0.
    world.restarted = max(row[0] for row in world.exchange([restarts])) > 0
    return world


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Turns the many ways in which a peer can be gone into one error."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed.DistError is one
        text = str(error).lower()
        if not isinstance(error, dist.DistError) and not any(word in text for word in _LOST):
            raise
        raise PeerLostError(
            "another process of this run has ended, or is more than a minute behind; what it said "
            "stands above. What was saved before is whole: go on with --resume."
        ) from error


def _end_with_parent() -> None:
    """Stops this process as SIGTERM does when what started it is gone; a little later by force."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ENDING)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def interleaved(rows: Sequence[Sequence[Any]]) -> list[Any]:
    """What all processes have, batch after batch: the first of each, the second of each, ..."""
    longest = max(map(len, rows), default=0)
    return [row[index] for index in range(longest) for row in rows if index < len(row)]


def launch(devices: int, arguments: Sequence[str]) -> int:
    """Runs `resnest ARGUMENTS...` in so many processes; the exit code.

    The same as `torchrun --nproc-per-node N -m resnest_cli ...`, but that the exit code is that of
    the process that failed, and that nothing is started anew.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    with _handlers_restored():
        try:
            elastic_launch(config, sys.executable)("-m", "resnest_cli", *arguments)
        except ChildFailedError as error:
            return _exit_code(error.failures)
        except RendezvousError as error:
            raise ResnestError(
                f"--devices: the processes cannot meet on this machine: {one_line(str(error))} "
                "It may refuse more processes or threads (`ulimit -u` and the pids limit of a "
                "container say how many), or connections to localhost."
            ) from error
        except SignalException as error:
            return 128 + int(error.sigval)
    return 0


def _exit_code(failures: Mapping[int, Any]) -> int:
    """Of the first process that failed; raises ResnestError where one was killed."""
    for rank, failure in failures.items():
        if failure.exitcode >= 0 or failure.exitcode == -signal.SIGTERM:
            continue  # with SIGTERM the launcher ends the others
        name = str(-failure.exitcode)
        with contextlib.suppress(ValueError):
            name = signal.Signals(-failure.exitcode).name
        advice = " Linux does that when memory runs out." if name == "SIGKILL" else ""
        raise ResnestError(
            f"process {rank} was killed by {name}, and the others were ended.{advice} What was "
            "saved before is whole: go on with --resume."
        )
    return max(1, int(failures[min(failures)].exitcode))


@contextlib.contextmanager
def _handlers_restored() -> Iterator[None]:
    """The launcher installs its own and leaves them; what is ignored, as by nohup, stays so."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    heeded = [number.name for number in numbers if before[number] is not signal.SIG_IGN]
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", ",".join(heeded))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
