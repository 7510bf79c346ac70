"""Data that are tar shards, as a run sees them: counts in place of lists of photos.

A photo of a shard is known by its number on its side, and read only when its turn comes. What needs
any photo at any time, or all of them in memory, is refused.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import write_text
from resnest_cli.shards.fetching import Files
from resnest_cli.shards.finding import find_shards, is_shards
from resnest_cli.shards.index import Index, Shard, Side, from_text, to_text
from resnest_cli.shards.reading import RawPhoto, read_photos
from resnest_cli.training.config import Config
from resnest_cli.training.dataset import DataSet, Progress, load_dataset, readable_names
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.split import read_split, write_split


def load_data(config: Config, progress: Progress | None = None) -> DataSet:
    """The photos of a folder or a manifest, checked and split; or the shards that are named.

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
            progress=progress or (lambda _done, _total: None),
        )
        return dataset_of(found, config.class_names)
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


def dataset_of(index: Index, class_names: str | None = None) -> DataSet:
    """The data set of shards; `class_names` is a file of readable names."""
    names, notes = index.class_names, list[str]()
    if class_names is not None:
        names, notes = readable_names(index.class_ids, class_names)
    return DataSet(index.class_ids, names, (), (), notes=tuple(notes), own_split=True, shards=index)


def write_shards(path: Path, dataset: DataSet) -> None:
    """Which shards a run learns from, for when it goes on.

    Raises:
        ResnestError: the file cannot be written.
    """
    assert dataset.shards is not None
    index = dataset.shards
    named = Index(
        index.class_ids,
        dataset.class_names,
        _anchored(index.train),
        _anchored(index.val),
        index.train_counts,
        index.val_counts,
    )
    try:
        write_text(path, to_text(named))
    except OSError as error:
        raise ResnestError(f"{path}: cannot be written: {error.strerror or error}.") from error


def _anchored(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """The same with absolute paths, to be opened from any folder."""
    return tuple(
        shard if shard.remote else replace(shard, place=os.path.abspath(shard.place))  # noqa: PTH100
        for shard in shards
    )


def read_shards(path: Path) -> DataSet:
    """The data set that `write_shards` wrote.

    Raises:
        ResnestError: missing or damaged.
    """
    try:
        index = from_text(path.read_bytes(), str(path))
    except OSError as error:
        raise ResnestError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if index is None:
        raise ResnestError(f"{path}: is no list of shards. Start a new run without --resume.")
    return dataset_of(index)


def write_data(run: RunFolder, dataset: DataSet) -> None:
    """Keeps in a run's folder what it learns from: `split.csv`, or `shards.json`.

    Raises:
        ResnestError: the file cannot be written.
    """
    if dataset.shards is None:
        write_split(run.split, dataset)
    else:
        write_shards(run.shards, dataset)


def read_data(run: RunFolder, config: Config) -> DataSet:
    """The data set that `write_data` kept; `config` says where photos of folders lie.

    Raises:
        ResnestError: missing or damaged.
    """
    if run.shards.exists():
        return read_shards(run.shards)
    return read_split(run.split, config.data, config.base_folder)


def check_sharded(config: Config) -> None:
    """Tells settings that need photos in any order, or all at once.

    Raises:
        UsageError: names the setting, and what serves instead.
    """
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


def first_photos(dataset: DataSet, side: Side, count: int) -> Sequence[RawPhoto]:
    """The first photos of the first shard, encoded; `count` or as many as it has.

    Raises:
        ResnestError: the shard cannot be had or read.
    """
    assert dataset.shards is not None
    shard = dataset.shards.side(side)[0]
    return _first_photos(shard, len(dataset.class_ids))[:count]


@lru_cache(maxsize=4)  # the plan and a picture want the same, and a shard may be far away
def _first_photos(shard: Shard, classes: int) -> tuple[RawPhoto, ...]:
    files = Files([shard])
    try:
        with files.open(0) as file:
            return tuple(islice(read_photos(shard, file, classes), _FIRST))
    finally:
        files.close()


_FIRST = 16
