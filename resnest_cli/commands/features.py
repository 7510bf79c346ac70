"""`resnest features`: photos -> a matrix on disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from resnest_cli import options, output
from resnest_cli.commands.inputs import check_inputs, check_not_read, check_runner, go_on, picked
from resnest_cli.errors import UsageError
from resnest_cli.images.limits import MAX_PIXELS
from resnest_cli.inference.extraction import Dtype, Extraction, Head, Pool
from resnest_cli.inference.run_options import ModelOptions, RunOptions
from resnest_cli.model.variants import DEFAULT_MODEL

if TYPE_CHECKING:
    from resnest_cli.features.job import Shard

EPILOG = """Examples:

  resnest features photos/ -o feats.npy

  resnest features photos/ -o feats.npy --resume

  resnest features photos/ -o feats.npy --retry-failed

  resnest features photos/ -o maps.npy --stage 3 --pool none --dtype float16

  resnest features photos/ -o feats-1.npy --shard 1/4

  find . -name "*.png" -print0 | resnest features --from-file - -0 -o feats.parquet

  resnest features s3://bucket/photos/ -o s3://bucket/feats/ --runner ray --ray-address auto

  resnest features "shards/*.tar" -o feats/ --runner ray"""


def features(
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PHOTO...]", help="Files, folders, quoted globs, URLs; - for stdin."
        ),
    ] = None,
    output_: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The matrix: .npy, .npz, .csv or .parquet; a folder with --runner ray. Required.",
        ),
    ] = None,
    model: options.Model = DEFAULT_MODEL,
    pool: Annotated[
        Pool, typer.Option(help="avg averages over a map; none keeps the map.")
    ] = "avg",
    stage: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=4,
            help="The map of this stage, not the last one; 0 is the stem.",
        ),
    ] = None,
    head: Annotated[
        Head | None, typer.Option(help="The classifier's output, not the features before it.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="How numbers are stored.")] = "float32",
    normalize: Annotated[
        Literal["l2"] | None, typer.Option(help="Give every row the length 1.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run was interrupted.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there under this name.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Read again what could not be read; resumes.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Only one of N parts of the inputs; `resnest merge` joins them."
        ),
    ] = None,
    weights: options.Weights = None,
    trust_onnx: options.TrustOnnx = False,
    from_file: options.FromFile = None,
    null_separated: options.NullSeparated = False,
    recursive: options.Recursive = True,
    batch_size: options.KeptBatchSize = None,
    workers: options.AutoWorkers = None,
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
    isolate: options.Isolate = False,
    runner: options.Runner = "local",
    ray_address: options.RayAddress = None,
    gpus_per_worker: options.GpusPerWorker = None,
    concurrency: options.Concurrency = None,
    path_column: options.PathColumn = None,
    mirror: options.Mirror = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Turn photos into features: a matrix with a row for each, in the order of the inputs.

    Beside FILE stand a .csv that says for every input which row is its own, or why it has none, and
    a .json that says how the rows were made. Work in progress lies in FILE.parts: whatever ends a
    run, --resume goes on and gives the same bytes. With --runner ray the output is a folder of
    Parquet files, and inputs may lie on any file system or in tar shards.
    """
    given = locals()
    inputs = tuple(photos or ())
    check_inputs(inputs, from_file)
    check_runner(given)
    if overwrite and (resume or retry_failed):
        raise UsageError("--overwrite starts afresh: it excludes --resume and --retry-failed.")
    extraction = Extraction(pool, stage, head, dtype, normalize)
    if runner == "ray":
        from resnest_cli.commands import cluster_job

        if shard is not None:
            raise UsageError("--shard is for --runner local: Ray divides the inputs itself.")
        cluster_job.run("features", given, extraction, resume, overwrite, retry_failed)
        return
    if output_ is None:
        raise UsageError("name the file to write with -o: feats.npy, .npz, .csv or .parquet.")
    target = Path(output_)
    from resnest_cli.commands import features_job
    from resnest_cli.commands.predict_job import DECODING_LIMIT
    from resnest_cli.features.formats import check_suffix
    from resnest_cli.features.job import FeaturesJob
    from resnest_cli.features.session import run
    from resnest_cli.features.stopping import InterruptedRunError
    from resnest_cli.features.target import check_name, held

    check_name(target)
    check_not_read(target, (*inputs, from_file, model, weights))
    check_suffix(target.suffix)
    job = FeaturesJob(
        target=target,
        options=picked(
            RunOptions,
            given,
            inputs=inputs,
            batch_size=batch_size or 0,
            workers=_cores() if workers is None else workers,
            time_limit=DECODING_LIMIT,
        ),
        model=picked(ModelOptions, given, labels=None),
        extraction=extraction,
        shard=_shard(shard),
        quiet=quiet,
        go_on=go_on("features"),
    )
    try:
        with held(target), features_job.FeaturesProgress() as progress:
            report = run(
                job,
                features_job.start,
                progress,
                resume=resume,
                overwrite=overwrite,
                retry=retry_failed,
                find_batch_size=features_job.find_batch_size,
            )
    except InterruptedRunError as end:
        output.message(f"{end}: what is done is kept. Go on with:\n  {job.go_on}")
        raise typer.Exit(end.exit_code) from None
    finally:
        features_job.close()
    output.message(features_job.told(job, report))
    if report.info["counts"]["failed"] and not report.finished_before:
        raise typer.Exit(3)


def _shard(text: str | None) -> "Shard":
    """`2/8` as a shard; all of the list without one."""
    from resnest_cli.features.job import WHOLE, Shard

    if text is None:
        return WHOLE
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {text}: write 1/4 for the first of four, up to 4/4.")
    return Shard(int(index), int(count))


def _cores() -> int:
    """Threads that decode: as many as there are cores, so that no network waits for a decoder."""
    from resnest_cli.inference.cores import usable_cores

    return usable_cores()
