"""The runner of this machine: parts computed one after another in the command's own process."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import UsageError, need
from resnest_cli.images.sources import SourceStats
from resnest_cli.inference.extraction import Extraction
from resnest_cli.jobs.file_output import FileOutput
from resnest_cli.jobs.job import Job, Report, carry_out, go_on, identity
from resnest_cli.jobs.listing import Input, LocalInputs
from resnest_cli.jobs.parts import Manifest, PartInfo, Parts
from resnest_cli.jobs.predict import Ranking, Request, classifier
from resnest_cli.jobs.run import Advance, run
from resnest_cli.model.variants import VARIANTS
from resnest_cli.options import AUTO
from resnest_cli.progress import Progress
from resnest_cli.text import duration

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier

# A kill loses what is not committed: at most so many inputs and bytes of rows, and on a CPU so
# many seconds of work, as estimated: four times as many where it is slow.
MOST_INPUTS = 1024
MOST_BYTES = 64 * 2**20
_SECONDS = 5.0
_DECODING = 0.02  # seconds for a photo
_GMACS = 100.0  # 10^9 multiply-adds of a processor in a second
_UNKNOWN = 64  # inputs of a part where the cost of the network is not known


class LocalRunner:
    """Computes parts in this process; see `run.Runner`."""

    patient = True

    def __init__(self, job: Job, target: Parts) -> None:
        self._job, self._target = job, target
        self._inputs = LocalInputs(job.options, job.model.max_pixels)
        self._classifier: Classifier | None = None

    def close(self) -> None:
        """Lets go of what came on stdin."""
        self._inputs.close()

    def opened(self) -> AbstractContextManager[None]:
        """There is nothing to connect to."""
        return nullcontext()

    def prepare(self, job: Job, manifest: Manifest | None) -> tuple[Job, dict[str, Any]]:
        """Loads the model."""
        del manifest
        if self._classifier is None:
            self._classifier = load(job)
        wanted = job.wanted
        if job.options.batch_size == AUTO:
            from resnest_cli.inference.batch_size import batch_size_for

            result = "logits" if isinstance(wanted, Ranking) else wanted.output
            size = batch_size_for(self._classifier, result, AUTO)
            job = replace(job, options=replace(job.options, batch_size=size))
        self._job = job
        if isinstance(wanted, Ranking):
            from resnest_cli.jobs.compute import described

            return job, described(job, self._classifier)
        found = identity(self._classifier, job.options.batch_size, wanted, job.format, job.shard)
        if wanted.head:
            found["class_names"] = list(self._classifier.class_names)
        return job, found

    def inputs(self, stats: SourceStats) -> Iterator[Input]:
        """The whole list."""
        return self._inputs(stats)

    def cut(self, inputs: Iterator[Input]) -> tuple[Iterator[Input], int]:
        """Parts of whole batches, at least one; a list of any length is cut alike."""
        assert self._classifier is not None
        size, most = self._job.options.batch_size, MOST_INPUTS
        if isinstance(self._job.wanted, Extraction):
            most = min(most, MOST_BYTES // row_bytes(self._job.wanted, self._classifier))
        if self._classifier.engine.device == "cpu":
            most = min(most, inputs_in_time(self._classifier))
        return inputs, max(1, most // size) * size

    def compute(
        self, manifest: Manifest, missing: list[int], advance: Advance
    ) -> Iterator[PartInfo]:
        """Computes these parts in order; each is written while the network is at the next one."""
        from resnest_cli.jobs.compute import Computer

        assert self._classifier is not None
        committed: Future[PartInfo] | None = None
        waiting = 0, 0  # inputs that are being committed, and failed ones
        sizes = manifest.sizes
        parts = ((number, self._target.inputs_of(number)) for number in missing)
        with (
            ThreadPoolExecutor(1, thread_name_prefix="commit") as committing,
            Computer(self._job, self._classifier, self._inputs.source) as computer,
        ):
            in_hand, failed = list[Any](), 0
            for number, results in computer.batches(parts):
                in_hand += results
                failed += sum(result.error is not None for result in results)
                if len(in_hand) == sizes[number]:
                    if committed is not None:
                        yield committed.result()
                    seconds: dict[str, float] = dict(computer.stopwatch.take().items())
                    committed = committing.submit(self._committed, number, in_hand, seconds)
                    waiting = len(in_hand), failed
                    in_hand, failed = [], 0
                advance(waiting[0] + len(in_hand), waiting[1] + failed)
            if committed is not None:
                yield committed.result()

    def _committed(self, part: int, items: list[Any], seconds: dict[str, float]) -> PartInfo:
        start = time.perf_counter()
        info = self._target.commit(part, items)
        return replace(info, seconds=seconds | {"write": time.perf_counter() - start})


def load(job: Job) -> "Classifier":
    """The classifier that a job asks for."""
    if isinstance(job.wanted, Ranking):
        return classifier(job.model, tta=job.wanted.tta, ready_for=job.wanted.output)
    return classifier(job.model, ready_for=job.wanted.output)


def row_bytes(extraction: Extraction, classifier: "Classifier") -> int:
    """Bytes of a photo's row."""
    shape = extraction.row_shape(classifier.model, classifier.preprocessing.size)
    return extraction.row_bytes(shape)


def inputs_in_time(classifier: "Classifier") -> int:
    """How many inputs a processor computes in the time that a kill may lose."""
    own = classifier.model.variant
    published = own if own.gmacs is not None else VARIANTS.get(own.id)  # of other classes
    if published is None or published.gmacs is None:
        return _UNKNOWN
    scale = (classifier.preprocessing.size / published.preprocessing.size) ** 2
    return max(1, int(_SECONDS / (scale * published.gmacs / _GMACS + _DECODING)))


def predict_in_parts(asked: Request) -> None:
    """Runs `predict` with -o FOLDER/ or FILE.parquet, and says how it went; see `carry_out`."""
    name, format_ = asked.output or "", asked.format or "parquet"
    if format_ not in {"parquet", "jsonl"}:
        raise UsageError(f"--format {format_}: a folder holds parquet or jsonl.")
    if format_ == "parquet":
        need("pyarrow", name)
    from resnest_cli.jobs.folder import FolderOutput, ParquetOutput

    model, again = asked.model, go_on("predict")
    job = Job(name, asked.run, model, asked.ranking, format_, model.model, go_on=again)
    target = FolderOutput(name, format_) if asked.to_folder else ParquetOutput(Path(name))
    runner, resume, overwrite = LocalRunner(job, target), asked.resume, asked.overwrite
    carry_out(
        lambda bar: run(job, target, runner, bar, resume=resume, overwrite=overwrite),
        again,
        target.summary_text,
    )


def run_command(job: Job, **how: Any) -> None:
    """Runs `features` and says how it went; see `features` and `carry_out`."""
    carry_out(
        lambda progress: features(job, progress, **how),
        job.go_on,
        lambda report: _summary_of(job, report),
    )


def features(job: Job, progress: Progress, *, resume: bool, overwrite: bool, **how: Any) -> Report:
    """Computes what is missing of the files of an output, and writes them; see `run.run`."""
    target = FileOutput(job)
    with closing(LocalRunner(job, target)) as runner:
        report = run(job, target, runner, progress, resume=resume, overwrite=overwrite, **how)
        if target.retry_again and report.info["counts"]["failed"]:
            again = run(job, target, runner, progress, resume=True, overwrite=False, retry=True)
            again.skipped, again.damaged = report.skipped, report.damaged
            return again
        return report


def _summary_of(job: Job, report: Report) -> str:
    """The summary of a run, for people."""
    counts, extraction = report.info["counts"], report.info["extraction"]
    steps = ("read", "decode", "network", "write")
    times = ", ".join(f"{step} {duration(report.seconds.get(step, 0.0))}" for step in steps)
    lines = Path(job.output).with_suffix(".csv")
    return report.text(
        times if report.photos else "",
        f"{lines} says",
        f"{job.output}: {extraction['dtype']} {(counts['rows'], *extraction['row_shape'])}",
    )
