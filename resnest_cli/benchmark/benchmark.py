"""What `resnest benchmark` does: a network -> how fast it is here.

Everything runs in one working process, in turn. This one waits, so that Ctrl-C ends at once what a
library would not let go of for seconds, and a process that the system kills for its memory becomes
a message.
"""

import tempfile
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

from resnest_cli.benchmark import BenchmarkJob
from resnest_cli.errors import EngineError
from resnest_cli.progress import Notify, Progress, silent
from resnest_cli.signals import PatientStop
from resnest_cli.supervise import Start, supervised

Step = tuple[int, int, str]  # so many are done of so many, and what comes next

_NO_LIMIT = 86_400.0  # seconds; nothing here is watched one by one


def benchmark(job: BenchmarkJob, notify: Notify, progress: Progress = silent) -> dict[str, Any]:
    """The figures, JSON-ready; `notify` gets what the user should know.

    Call it before numpy is imported, whose threads would leave the work without protection.

    Raises:
        UsageError: an unknown model or device, or an engine that does not run on it.
        ResnestError: the network cannot be run, or no photo can be read.
    """
    temporary = tempfile.TemporaryDirectory(prefix="resnest-", ignore_cleanup_errors=True)
    with PatientStop(), temporary as folder:  # gone after a signal, too
        steps = supervised(partial(_work, job, Path(folder), notify), time_limit=_NO_LIMIT)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                found: dict[str, Any] = end.value
                return found
            done, total, title = step
            progress(done, total, title=title)


def _work(
    job: BenchmarkJob, folder: Path, notify: Notify, start: Start
) -> Generator[Step, None, dict[str, Any]]:
    """In the working process: a step before each thing that takes a while, then the figures."""
    if start.skip:  # the process before this one has died
        raise EngineError(
            "the process that measured was killed, probably because memory ran out: give smaller "
            "batches with --batch-size, or a smaller --img-size."
        )
    yield 0, 1, "getting ready"
    from resnest_cli.benchmark.measure import measure

    return (yield from measure(job, folder, notify))
