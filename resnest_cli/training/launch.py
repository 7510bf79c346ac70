"""`--devices N`: one process for each device of this machine, started by torch's own launcher.

The same as `torchrun --nproc-per-node N -m resnest_cli ...`, but that the exit code is that of the
process that failed, and that nothing is started anew.
"""

import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from resnest_cli.errors import ResnestError, one_line

_ASKED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_HANDLED = "TORCHELASTIC_SIGNALS_TO_HANDLE"


def is_worker(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or something that sets the same variables, started this process."""
    return all(name in environment for name in _ASKED)


def is_follower(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is one of several processes, and not the first: it prints nothing."""
    return is_worker(environment) and environment["RANK"] != "0"


def launch(devices: int, arguments: Sequence[str]) -> int:
    """Runs `resnest ARGUMENTS...` in so many processes; the exit code.

    Raises:
        ResnestError: a process was killed.
    """
    import logging

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
    """Of the process that brought the others down: one that was killed, or the first that failed.

    Raises:
        ResnestError: it was killed.
    """
    asked = -int(signal.SIGTERM)  # as the launcher ends the others
    killed = {rank: f for rank, f in failures.items() if f.exitcode < 0 and f.exitcode != asked}
    for rank, failure in killed.items():
        name = str(-failure.exitcode)
        with suppress(ValueError):
            name = signal.Signals(-failure.exitcode).name
        advice = " Linux does that when memory runs out." if name == "SIGKILL" else ""
        raise ResnestError(
            f"process {rank} was killed by {name}, and the others were ended.{advice} What was "
            "saved before is whole: go on with --resume."
        )
    return max(1, int(failures[min(failures)].exitcode))


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """The launcher installs its own and leaves them; what is ignored, as by nohup, stays so."""
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    heeded = [number.name for number in numbers if before[number] is not signal.SIG_IGN]
    os.environ.setdefault(_HANDLED, ",".join(heeded))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
