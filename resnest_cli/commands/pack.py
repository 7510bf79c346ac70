"""`resnest pack`: class folders -> tar shards, for training from object storage."""

from pathlib import Path
from typing import Annotated

import typer

from resnest_cli import output
from resnest_cli.commands.flags import command
from resnest_cli.data.labelled_photos import Reading
from resnest_cli.errors import UsageError
from resnest_cli.options import Option
from resnest_cli.progress import checking

PAGE = "shards"
FIRST = "output_ photos_per_shard val_split classes workers overwrite quiet"
EXAMPLES = """
resnest pack data/ -o shards/
resnest pack photos.csv -o shards/ --shard-size 1000 --workers 16
resnest pack data/ -o shards/ --photos-per-shard 10000 --val-split 0.1
resnest train shards/
"""

_ONE_LABEL = "shards hold one label of each photo. Train on the folder or the table itself."


@command
def pack(
    *,
    data: Annotated[
        str,
        Option(
            "A folder of class folders (or with train/ and val/), or a table: path,label.",
            "DATA",
            argument=True,
        ),
    ],
    output_: Annotated[Path | None, Option("The folder of the shards. Required.", "-o DIR")] = None,
    val_split: Annotated[
        float, Option("Share of each class that validates, where the data have no split.")
    ] = 0.2,
    shard_size: Annotated[float, Option("Most megabytes of a shard.", "MB [0.01, inf)")] = 256.0,
    photos_per_shard: Annotated[
        int | None, Option("Photos of a shard, whatever its size.", "[1, inf)")
    ] = None,
    classes: Annotated[
        int | None, Option("How many classes you expect; another number is an error.")
    ] = None,
    class_names: Annotated[
        str | None, Option("Readable names of the folders: lines id,name.", "FILE")
    ] = None,
    reading: Reading,
    seed: Annotated[int, Option("Of the split and of the order.", "[0, inf)")] = 0,
    workers: Annotated[
        int | None, Option("Threads that check and write: one for each core.", "-j [0, 256]")
    ] = None,
    overwrite: Annotated[bool, Option("Replace other shards in that folder.")] = False,
) -> None:
    """Pack photos into tar shards, from which `resnest train` reads in order.

    Every photo is checked as for training, and the same photos train and validate as without
    shards. The shards are in WebDataset's form (KEY.jpg beside KEY.cls), the photos' bytes
    unchanged, shuffled by the seed; index.json beside them tells what is in each. The same data and
    options give the same bytes. Each shard is read back and compared before it gets its name. When
    it was interrupted, the same command goes on.
    """
    from resnest_cli.cpu import usable_cores
    from resnest_cli.data.dataset import load_dataset
    from resnest_cli.data.pack import PackJob
    from resnest_cli.data.pack import pack as write
    from resnest_cli.data.shard_files import tar_iterators
    from resnest_cli.data.shards import photos
    from resnest_cli.output.training import TrainingDisplay
    from resnest_cli.signals import StoppedError, StopRequest

    if output_ is None:
        raise UsageError("name the folder of the shards with -o: shards/")
    if not 0 < val_split < 1:
        raise UsageError(f"--val-split: {val_split:g} is not a number in (0, 1).")
    if output_.exists() and not output_.is_dir():
        raise UsageError(f"{output_}: is a file. Give the name of a folder with -o.")
    tar_iterators()
    job = PackJob(
        output=output_,
        val_split=val_split,
        seed=seed,
        shard_bytes=round(shard_size * 1e6),
        photos_per_shard=photos_per_shard,
        workers=usable_cores() if workers is None else max(1, workers),
        overwrite=overwrite,
    )
    display = TrainingDisplay()
    with StopRequest() as stop, display:
        try:
            with display.showing("Checking photos") as scanned:
                dataset = load_dataset(
                    data,
                    val_split=val_split,
                    seed=seed,
                    classes=classes,
                    class_names=class_names,
                    reading=reading,
                    one_label=_ONE_LABEL,
                    workers=job.workers,
                    progress=checking(scanned, stop.check),
                )
            display.data(dataset, "index.json")
            with display.showing("") as progress:
                packed = write(job, dataset, progress, stop.check)
        except StoppedError:
            output.message("Stopped; the same command goes on with what is there.")
            raise typer.Exit(stop.exit_code) from None
    index = packed.index
    kept = f", of which {packed.kept:,} were there" if packed.kept else ""
    output.message(
        f"{output_}: {photos(index.train):,} photos in {len(index.train):,} shards to train on, "
        f"{photos(index.val):,} in {len(index.val):,} to validate{kept}; all verified."
    )
    if dataset.bad:
        raise typer.Exit(3)
