"""`resnest features`: photos -> a matrix on disk."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from resnest_cli.commands.flags import Without, command
from resnest_cli.commands.inputs import (
    check_inputs,
    check_runner,
    files_read,
)
from resnest_cli.errors import UsageError
from resnest_cli.inference.extraction import Dtype, Extraction, Head, Pool
from resnest_cli.options import (
    AutoWorkers,
    ModelOptions,
    Option,
    RayOptions,
    RunOptions,
    batch_size_or_auto,
)
from resnest_cli.paths import check_not_read

if TYPE_CHECKING:
    from resnest_cli.jobs.listing import ListShard

FIRST = "model output_ resume update stage head shard device runner quiet"
EXAMPLES = """
resnest features photos/ -o feats.npy
resnest features photos/ -o feats.npy --resume
resnest features photos/ -o feats.npy --retry-failed
resnest features photos/ -o feats.npy --update
resnest features photos/ -o maps.npy --stage 3 --pool none --dtype float16
resnest features photos/ -o feats-1.npy --shard 1/4
find . -name "*.png" -print0 | resnest features --from-file - -0 -o feats.npy
resnest features photos.zip -o feats.npy
resnest features clips/ --every 1s -o feats.npy
resnest features s3://bucket/photos/ -o s3://bucket/feats/ --runner ray
resnest features "shards/*.tar" -o feats/ --runner ray
"""


@command
def features(
    *,
    run: Annotated[RunOptions, Without("batch_size workers")],
    output_: Annotated[
        str | None,
        Option(
            "The matrix: .npy, .npz, .csv or .parquet; a folder with --runner ray. Required.",
            "-o FILE",
            after="inputs",
        ),
    ] = None,
    model: Annotated[ModelOptions, Without("labels")],
    pool: Annotated[Pool, Option("avg averages over a map; none keeps the map.")] = "avg",
    stage: Annotated[
        int | None, Option("The map of this stage, not the last one; 0 is the stem.", "[0, 4]")
    ] = None,
    head: Annotated[
        Head | None, Option("The classifier's output, not the features before it.")
    ] = None,
    dtype: Annotated[Dtype, Option("How numbers are stored.")] = "float32",
    normalize: Annotated[Literal["l2"] | None, Option("Give every row the length 1.")] = None,
    resume: Annotated[bool, Option("Go on where an earlier run was interrupted.")] = False,
    overwrite: Annotated[bool, Option("Replace what is there under this name.")] = False,
    retry_failed: Annotated[bool, Option("Read again what could not be read; resumes.")] = False,
    update: Annotated[
        bool, Option("Add rows of new photos, and compute those of changed ones again.")
    ] = False,
    prune: Annotated[
        bool, Option("With --update: drop rows of photos that are gone, not of whole folders.")
    ] = False,
    prune_folders: Annotated[
        bool, Option("The same, and of folders that are empty or gone: no disk is missing.")
    ] = False,
    shard: Annotated[
        str | None, Option("Only one of N parts of the inputs; `resnest merge` joins them.", "I/N")
    ] = None,
    batch_size: Annotated[
        int | None,
        Option(
            "Photos that the network sees at once: 8, or what an interrupted run had; auto tries "
            "out which is best here.",
            "-b N|auto",
            env=True,
            parser=batch_size_or_auto,
            after="recursive",
        ),
    ] = None,
    workers: AutoWorkers = None,
    ray: RayOptions,
) -> None:
    """Turn photos into features: a matrix with a row for each, in the order of the inputs.

    Beside FILE stand a .csv that says for every input which row is its own, or why it has none, a
    .json that says how the rows were made, and a .stat with sizes and times, by which --update
    knows changed photos. Work in progress lies in FILE.parts: whatever ends a run, --resume goes on
    and gives the same bytes. With --runner ray the output is a folder of
    Parquet files, and inputs may lie on any file system or in tar shards.
    """
    check_inputs(run)
    check_runner(ray, run, output_)
    if overwrite and (resume or retry_failed or update):
        raise UsageError(
            "--overwrite starts afresh: it excludes --resume, --retry-failed and --update."
        )
    if (prune or prune_folders) and not update:
        raise UsageError("--prune and --prune-folders go with --update.")
    if update and retry_failed:
        raise UsageError("--update and --retry-failed exclude each other: one after the other.")
    if update and shard is not None:
        raise UsageError(
            "--update goes without --shard: new photos would move the others to other shards. "
            "Join the shards with `resnest merge`, and update that."
        )
    extraction = Extraction(pool, stage, head, dtype, normalize)
    if ray.runner == "ray":
        from resnest_cli.jobs.ray import ALL_CORES, run_command

        if shard is not None:
            raise UsageError("--shard is for --runner local: Ray divides the inputs itself.")
        if update:
            raise UsageError("--update is for --runner local.")
        threads = ALL_CORES if workers is None else workers
        run = replace(run, batch_size=batch_size or 0, workers=threads)
        run_command(
            run, model, ray, extraction, output_,
            resume=resume, overwrite=overwrite, retry=retry_failed,
        )  # fmt: skip
        return
    if output_ is None:
        raise UsageError("name the file to write with -o: feats.npy, .npz, .csv or .parquet.")
    target = Path(output_)
    from resnest_cli.cpu import usable_cores
    from resnest_cli.jobs.file_output import check_name
    from resnest_cli.jobs.job import Job, go_on
    from resnest_cli.jobs.local import run_command as run_here

    check_name(target)
    check_not_read(target, files_read(run, model))
    threads = usable_cores() if workers is None else workers
    job = Job(
        output=output_,
        options=replace(run, batch_size=batch_size or 0, workers=threads),
        model=model,
        wanted=extraction,
        format=target.suffix.removeprefix("."),
        shard=_shard(shard),
        go_on=go_on("features"),
    )
    run_here(
        job, resume=resume, overwrite=overwrite, retry=retry_failed, update=update,
        prune="folders" if prune_folders else "photos" if prune else None,
    )  # fmt: skip


def _shard(text: str | None) -> "ListShard":
    """`2/8` as a shard; all of the list without one."""
    from resnest_cli.jobs.listing import WHOLE, ListShard

    if text is None:
        return WHOLE
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {text}: write 1/4 for the first of four, up to 4/4.")
    return ListShard(int(index), int(count))
