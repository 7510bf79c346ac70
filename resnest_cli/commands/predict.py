"""`resnest predict`: photos -> ranked classes."""

from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any

import typer

from resnest_cli import options, output
from resnest_cli.commands import predict_job
from resnest_cli.commands.inputs import (
    HtmlPage,
    check_inputs,
    check_runner,
    check_written,
    picked,
)
from resnest_cli.commands.predict_job import PredictJob, records
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images.limits import MAX_PIXELS
from resnest_cli.images.sources import is_one
from resnest_cli.inference.records import Record
from resnest_cli.inference.run_options import ModelOptions, RunOptions
from resnest_cli.locks import locked
from resnest_cli.model.variants import DEFAULT_MODEL

EPILOG = """Examples:

  resnest predict dog.jpg --model resnest101e --topk 5

  resnest predict photos/ -o records.csv

  resnest predict photos/ --html page.html

  resnest predict "photos/**/*.jpg" --format jsonl | head -3

  find . -name "*.png" -print0 | resnest predict --from-file - -0

  curl -s https://example.org/dog.jpg | resnest predict -

  resnest predict photo.jpg --model runs/finetune/exp/weights/best.safetensors

  resnest predict s3://bucket/photos/ -o s3://bucket/classes/ --runner ray --ray-address auto"""

_FEW = 8  # explicit photos up to this number get a table each


def predict(
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PHOTO...]", help="Files, folders, quoted globs, URLs; - for stdin."
        ),
    ] = None,
    model: options.Model = DEFAULT_MODEL,
    topk: options.Topk = 5,
    format_: options.RecordFormat = None,
    output_: options.Output = None,
    html: options.Html = None,
    threshold: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0.0, max=1.0, help="Leave out classes less probable than this."
        ),
    ] = 0.0,
    reject_below: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0.0,
            max=1.0,
            help="Answer `unsure` where the best class is less probable than this.",
        ),
    ] = 0.0,
    weights: options.Weights = None,
    trust_onnx: options.TrustOnnx = False,
    labels: options.Labels = None,
    from_file: options.FromFile = None,
    null_separated: options.NullSeparated = False,
    recursive: options.Recursive = True,
    batch_size: options.ChosenBatchSize = 8,
    workers: options.Workers = 1,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    amp: options.HalfPrecision = "off",
    compiled: options.Compiled = False,
    graphs: options.CudaGraphs = False,
    img_size: options.ImgSize = None,
    crop_pct: options.CropPct = None,
    interpolation: options.Interpolation = None,
    crop_mode: options.CropMode = None,
    exif: options.Exif = True,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    fast_decode: options.FastDecode = False,
    gpu_decode: options.GpuDecode = False,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average each photo with its mirror image.")
    ] = False,
    isolate: options.Isolate = False,
    runner: options.Runner = "local",
    ray_address: options.RayAddress = None,
    gpus_per_worker: options.GpusPerWorker = None,
    concurrency: options.Concurrency = None,
    path_column: options.PathColumn = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run was interrupted (ray).")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there under this name (ray).")
    ] = False,
    mirror: options.Mirror = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Say what is in photos: ranked classes with their probabilities.

    One record per input, always: a photo that cannot be read gives its error, and exit code 3 at
    the end. Folders and globs take known image extensions. Weights are downloaded on first use.
    With --runner ray records go to a folder of Parquet files or of JSON lines.
    """
    given = locals()
    inputs = photos or []
    check_inputs(inputs, from_file)
    check_runner(given)
    if runner == "ray":
        _on_ray(given)
        return
    if resume or overwrite:
        raise UsageError("--resume and --overwrite go with --runner ray.")
    if format_ == "parquet":
        raise UsageError("--format parquet goes with --runner ray.")
    target = Path(output_) if output_ not in {None, "-"} else None
    read = (*inputs, from_file, model, weights, labels)
    for path in filter(None, (target, html)):
        check_written(path, read)
    limit = predict_job.DECODING_LIMIT
    run_options = picked(RunOptions, given, inputs=tuple(inputs), time_limit=limit)
    model_options = picked(ModelOptions, given)
    job = PredictJob(run_options, model_options, topk, threshold, reject_below, tta, quiet)
    with locked(target, html):
        _run(job, target, format_, html)


def _run(
    job: PredictJob, target: Path | None, format_: output.Format | None, html: Path | None
) -> None:
    inputs, from_file = job.options.inputs, job.options.from_file
    found = records(job)
    one = len(inputs) == 1 and from_file is None and is_one(inputs[0])
    explicit = from_file is None and all(map(is_one, inputs))
    writer = output.record_writer(
        format_ or _format_of(target),
        target,
        topk=job.topk,
        single=one,
        many=not explicit or len(inputs) > _FEW,
        rejecting=job.reject_below > 0,
    )
    title = f"Predictions of {job.model.model}"
    page = HtmlPage(html, title, job.model.max_pixels) if html is not None else None
    _show(found, writer, page, total=len(inputs) if explicit else None)


def _on_ray(given: dict[str, Any]) -> None:
    """The same on a Ray cluster.

    Raises:
        UsageError: what Ray cannot do is asked for.
    """
    from resnest_cli.cluster.job import Ranking
    from resnest_cli.commands import cluster_job

    if given["html"] is not None:
        raise UsageError("--html is for --runner local.")
    if given["resume"] and given["overwrite"]:
        raise UsageError("--overwrite starts afresh: it excludes --resume.")
    ranking = picked(Ranking, given)
    cluster_job.run("predict", given, ranking, given["resume"], given["overwrite"])


def _format_of(output_: Path | None) -> output.Format:
    """The format that a file's extension asks for; a table for any other."""
    formats: dict[str, output.Format] = {".csv": "csv", ".json": "json", ".jsonl": "jsonl"}
    return formats.get(output_.suffix.lower(), "table") if output_ is not None else "table"


def _show(
    found: Generator[Record, None, int],
    writer: output.RecordWriter,
    page: "HtmlPage | None",
    total: int | None,
) -> None:
    done = failed = 0
    with output.RecordProgress(total) as progress:
        while True:
            try:
                record = next(found)
            except StopIteration as end:
                skipped = int(end.value)
                break
            writer.write(record)
            if page is not None:
                page.add(record)
            done += 1
            failed += record.error is not None
            progress.update(done, failed)
    writer.close()
    if skipped:
        output.message(f"{skipped} other file(s) without a known image extension were skipped.")
    if not done:
        raise ResnestError("no photo found in what was named.")
    if page is not None:
        page.write(f"{done:,} photo(s), {failed:,} of them unreadable")
    if failed:
        output.message(f"{failed} of {done} input(s) could not be read.")
        raise typer.Exit(3)
