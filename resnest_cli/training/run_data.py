"""A run's data: found and checked, kept in its folder, and found again when it goes on.

`args.toml` has absolute paths, so that a run goes on from any folder. Data that were moved are
found again where `--resume DATA` names them, if they are the same: every photo of `split.csv` under
its name, with the content that it had; of shards all names, sizes and hashes.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from resnest_cli.cpu import usable_cores
from resnest_cli.data.dataset import (
    DataSet,
    Sample,
    in_threads,
    load_dataset,
    read_split,
    sharded_dataset,
    write_split,
)
from resnest_cli.data.labelled_photos import reading_file
from resnest_cli.data.photo_paths import base_place
from resnest_cli.data.shards import SHARD_SIDES, find_shards, from_text, is_shards, to_text
from resnest_cli.data.tar import Shard, is_remote
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import write_text, writing
from resnest_cli.model.variants import find_variant
from resnest_cli.progress import Progress, silent
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.settings import Config

_LOOKED_FOR = 1000  # photos, before a run goes on
_NAMED = 5  # that differ
_MISSING, _CHANGED = "is missing", "has another content"


def load_data(config: Config, progress: Progress = silent) -> DataSet:
    """The photos of a folder or a table, checked and split; or the shards that are named.

    Raises:
        UsageError: as `load_dataset` and `find_shards`.
        ResnestError: what is there cannot be read.
    """
    if is_shards(config.data):
        config.reading.check_no_table(config.data, "shards")
        found = find_shards(
            config.data,
            val_data=config.val_data,
            classes=config.classes,
            progress=progress,
        )
        return sharded_dataset(found, config.class_names)
    if config.val_data is not None:
        raise UsageError(
            f"--val-data goes with shards; {config.data} has folders train and val, a CSV with a "
            "column split, or the share --val-split."
        )
    return load_dataset(
        config.data,
        val_split=config.val_split,
        seed=config.seed,
        classes=config.classes,
        class_names=config.class_names,
        reading=config.reading,
        progress=progress,
    )


def check_sharded(config: Config) -> None:
    """Raises UsageError for a setting that needs photos in any order, or all at once."""
    if config.balanced:
        raise UsageError(
            "--balanced draws photos in any order, and shards are read from one end to the other. "
            "Use --class-weights balanced."
        )
    if config.cache:
        raise UsageError("--cache keeps all photos in memory; shards are read in every epoch.")
    if config.freeze == "backbone" and config.device == "cpu":
        raise UsageError(
            "--freeze backbone: on a CPU it keeps the features of all photos, and shards are read "
            "as they come. Use --freeze stages:4, which trains the same classifier, or none."
        )


def write_data(run: RunFolder, dataset: DataSet) -> None:
    """Keeps in a run's folder what it learns from: `split.csv`, or `shards.json`."""
    if dataset.shards is None:
        write_split(run.split, dataset)
        return
    train, val = (
        tuple(replace(shard, place=_absolute(shard.place)) for shard in dataset.shards.side(side))
        for side in SHARD_SIDES
    )
    index = replace(dataset.shards, class_names=dataset.class_names, train=train, val=val)
    with writing(run.shards):
        write_text(run.shards, to_text(index))


def read_data(run: RunFolder, config: Config) -> DataSet:
    """The data set that `write_data` kept; `config` says where photos of folders lie."""
    if not run.shards.exists():
        return read_split(run.split, config.data, config.base_folder)
    with reading_file(run.shards):
        text = run.shards.read_bytes()
    index = from_text(text, str(run.shards))
    if index is None:
        raise ResnestError(f"{run.shards}: is no list of shards. Start a new run without --resume.")
    return sharded_dataset(index)


def anchored(config: Config) -> Config:
    """The settings with absolute paths in place of those that are relative to this folder."""
    changes: dict[str, Any] = {
        name: place if place is None else _absolute(place)
        for name in ("data", "val_data")
        for place in [getattr(config, name)]
    }
    if config.base_folder is not None:
        changes["base_folder"] = _absolute(base_place(config.base_folder, Path(config.data)))
    files = ["weights", "class_names", "class_weights"]
    files += [] if find_variant(config.model) else ["model"]
    for name in files:  # words that name no file stay
        place = getattr(config, name)
        if place is not None and os.path.exists(place):  # noqa: PTH110
            changes[name] = _absolute(place)
    return replace(config, **changes)


def _absolute(place: str) -> str:
    return place if is_remote(place) else os.path.abspath(place)  # noqa: PTH100


def check_there(dataset: DataSet, config: Config, run: RunFolder) -> None:
    """Raises UsageError for data that are all gone, before a run goes on without them.

    Of the photos, or of a thousand spread over them, none is there; or no shard.
    """
    paths = [sample.path for sample in (*dataset.train, *dataset.val)]
    if dataset.shards is not None:
        shards = (*dataset.shards.train, *dataset.shards.val)
        paths = [shard.place for shard in shards if not shard.remote]
    looked_for = paths[:: max(1, len(paths) // _LOOKED_FOR)]
    if looked_for and not any(map(os.path.exists, looked_for)):
        what = "photos" if dataset.shards is None else "shards"
        flag = "DATA" if config.base_folder is None else "--base-folder DIR"
        raise UsageError(
            f"{run.path}: its {what} are not in {config.base_folder or config.data} any more. Say "
            f"where they lie now: --resume {flag}."
        )


def check_same(
    dataset: DataSet, config: Config, run: RunFolder, lost: Sequence[str], progress: Progress
) -> None:
    """Compares the photos in a new place with those that a run began with.

    `lost` are names of photos that were not there any more in the old place.
    """
    samples, wrong = [*dataset.train, *dataset.val], []
    for sample, error in in_threads(_difference, samples, usable_cores(), progress):
        if error is not None and not (error == _MISSING and sample.name in lost):
            wrong.append(f"{sample.name} {error}")
    if wrong:
        more = f"; and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        also = "" if config.base_folder is None else ", or the --base-folder,"
        raise UsageError(
            f"{config.base_folder or config.data}: these are not the photos that {run.path} began "
            f"with. Of {len(samples):,}, {len(wrong):,} differ: {'; '.join(wrong[:_NAMED])}{more}. "
            f"Name the folder or the CSV{also} that holds the same photos, or start a new run "
            "without --resume."
        )


def _difference(sample: Sample) -> str | None:
    if not Path(sample.path).is_file():
        return _MISSING
    if not sample.digest:  # a run of an earlier version knows names alone
        return None
    try:
        with Path(sample.path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        return f"cannot be read ({(error.strerror or str(error)).lower()})"
    return None if digest.startswith(sample.digest) else _CHANGED


def moved_shards(dataset: DataSet, config: Config, run: RunFolder, progress: Progress) -> DataSet:
    """The shards of a run where `config` says that they lie now."""
    assert dataset.shards is not None
    if not is_shards(config.data):
        raise UsageError(f"{config.data}: {run.path} learns from shards, and these are none.")
    found = find_shards(config.data, val_data=config.val_data, classes=None, progress=progress)
    for side in SHARD_SIDES:
        there, here = (list(map(_facts, one.side(side))) for one in (dataset.shards, found))
        differing = next((a or b for a, b in zip_longest(there, here) if a != b), None)
        if differing is not None:
            raise UsageError(
                f"{config.data}: these are not the shards that {run.path} began with: "
                f"{differing[0]} differs, or is only in one of the two. Name the folder that holds "
                "the same ones, or start a new run without --resume."
            )
    return sharded_dataset(replace(found, class_names=dataset.class_names))


def _facts(shard: Shard) -> tuple[str, int, int, str]:
    return shard.name, shard.photos, shard.size, shard.sha256
