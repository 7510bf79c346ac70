"""What `features` and `predict` do with `--runner ray`, apart from their command lines."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast

import typer

from resnest_cli import output
from resnest_cli.cluster.job import ClusterJob, PartFormat, Ranking
from resnest_cli.commands import predict_job
from resnest_cli.commands.inputs import go_on, picked
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.features.failures import summary
from resnest_cli.options import AUTO, ModelOptions, RunOptions

if TYPE_CHECKING:
    from resnest_cli.cluster.session import Report
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.inference.extraction import Extraction

_AS_THREADS = -1  # decoding threads: as many as a worker has cores


def run(
    command: Literal["features", "predict"],
    given: Mapping[str, Any],
    wanted: "Extraction | Ranking",
    resume: bool,
    overwrite: bool,
    retry: bool = False,
) -> None:
    """Runs a command on Ray and says how it went; `given` are the arguments of the command.

    Raises:
        UsageError: there is no folder to write to, or the options do not go together.
        ResnestError: Ray is missing, or whatever else prevents it.
        typer.Exit: with 3 if an input failed, with 128 + n after signal n.
    """
    job = _job(command, given, wanted)
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise ResnestError('--runner ray needs Ray. Run: pip install "resnest-cli[ray]"')
    from resnest_cli.cluster import session
    from resnest_cli.signals import StoppedError

    debug = output.debug_wanted()
    try:
        with _Progress() as progress:
            report = session.run(
                job, progress, resume=resume, overwrite=overwrite, retry=retry, debug=debug
            )
    except StoppedError as end:
        output.message(f"{end}: what is done is kept. Go on with:\n  {job.go_on}")
        raise typer.Exit(end.exit_code) from None
    output.message(told(job, report))
    if report.summary["counts"]["failed"] and not report.finished_before:
        raise typer.Exit(3)


def _job(command: str, given: Mapping[str, Any], wanted: "Extraction | Ranking") -> ClusterJob:
    name = given["output_"]
    if name is None or name == "-":
        raise UsageError("name the folder to write with -o: --runner ray writes many files.")
    format_ = given.get("format_") or "parquet"
    if format_ not in {"parquet", "jsonl"}:
        raise UsageError(f"--format {format_} is for --runner local; Ray's are parquet and jsonl.")
    if given["batch_size"] == AUTO:
        raise UsageError("--batch-size auto is for --runner local: nodes differ. Name a size.")
    # predict's own default of one thread is for a few photos.
    workers = given["workers"] if command == "features" else None
    options = picked(
        RunOptions,
        given,
        inputs=tuple(given["photos"] or ()),
        batch_size=given["batch_size"] or 0,
        workers=_AS_THREADS if workers is None else workers,
        time_limit=predict_job.DECODING_LIMIT,
    )
    model = picked(ModelOptions, {"labels": None, **given})
    return ClusterJob(
        output=name,
        options=options,
        model=model,
        wanted=wanted,
        build=classifier,
        name=model.model,
        format=cast("PartFormat", format_),
        path_column=given["path_column"] or "path",
        address=given["ray_address"],
        gpus=given["gpus_per_worker"],
        concurrency=given["concurrency"],
        go_on=go_on(command),
    )


def classifier(model: ModelOptions, wanted: "Extraction | Ranking") -> "Classifier":
    """The classifier of a worker.

    Raises:
        ResnestError: the model, its weights, its labels or the device cannot be had.
    """
    if isinstance(wanted, Ranking):
        return predict_job.classifier(model, tta=wanted.tta)
    return predict_job.classifier(model, ready_for=wanted.output)


class _Progress:
    """A bar on a terminal, and messages."""

    def __init__(self) -> None:
        self._bar = output.RecordProgress(None, beside_records=False)
        self._total: int | None = None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()

    def begin(self, done: int, failed: int, total: int) -> None:
        """A run over `total` inputs begins, or goes on after so many of them."""
        self._total = total
        self._bar.begin(done)
        if done:
            output.message(f"Going on after {done:,} inputs, {failed:,} of them failed.")

    def update(self, done: int, failed: int) -> None:
        """So many inputs are done, so many of them failed."""
        self._bar.update(done, failed, self._total)

    def tell(self, text: str) -> None:
        """Something that a user should know."""
        output.message(text)


def told(job: ClusterJob, report: "Report") -> str:
    """The summary of a run, for people."""
    counts, parts = report.summary["counts"], report.summary["parts"]
    if report.finished_before:
        lines = ["All was finished already."]
    else:
        seconds = report.summary["seconds"]
        lines = [
            f"{report.summary['photos']:,} photos, "
            f"{report.summary['photos_per_second']:.1f} photos/s; {seconds['total']:.1f} s in all."
        ]
    if report.skipped:
        lines.append(
            f"{report.skipped:,} other file(s) without a known image extension were skipped."
        )
    if counts["failed"]:
        kinds = summary(report.summary["failures"])
        lines.append(
            f"{counts['failed']:,} of {counts['inputs']:,} input(s) could not be read ({kinds}): "
            "their rows say why."
        )
    found = f", {parts['found']:,} of them found" if parts["found"] else ""
    count = parts["computed"] + parts["found"]
    lines.append(f"{job.output}: {counts['inputs']:,} rows in {count:,} part(s){found}")
    return "\n".join(lines)
