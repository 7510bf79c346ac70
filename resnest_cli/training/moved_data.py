"""Where a run's data lie: seen from any folder, and elsewhere than they were when it began.

`args.toml` has absolute paths, so that a run goes on from any folder. Data that were moved are
found again where `--resume DATA` names them, if they are the same: every photo of `split.csv` under
its name, with the content that it had; of shards all names, sizes and hashes.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from resnest_cli.data.photo_paths import base_place
from resnest_cli.errors import UsageError
from resnest_cli.inference.cores import usable_cores
from resnest_cli.model.variants import find_variant
from resnest_cli.shards.finding import find_shards, is_shards
from resnest_cli.shards.index import SIDES, Shard, is_remote
from resnest_cli.training.config import Config
from resnest_cli.training.dataset import DataSet, Progress, Sample
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.sharded import dataset_of

_WINDOW = 512  # photos in flight
_LOOKED_FOR = 1000  # photos, before a run goes on
_NAMED = 5  # that differ


def anchored(config: Config) -> Config:
    """The settings with absolute paths in place of those that are relative to this folder."""
    changes: dict[str, Any] = {
        name: _absolute(getattr(config, name)) for name in ("data", "val_data")
    }
    if config.base_folder is not None:
        changes["base_folder"] = _absolute(base_place(config.base_folder, Path(config.data)))
    for name in ("weights", "class_names", "class_weights"):
        changes[name] = _absolute_file(getattr(config, name))
    if find_variant(config.model) is None:
        changes["model"] = _absolute_file(config.model)
    return replace(config, **changes)


def _absolute(place: str | None) -> str | None:
    return place if place is None or is_remote(place) else os.path.abspath(place)  # noqa: PTH100


def _absolute_file(place: str | None) -> str | None:
    """The same; words that name no file stay."""
    return _absolute(place) if place is not None and os.path.exists(place) else place  # noqa: PTH110


def check_there(dataset: DataSet, config: Config, run: RunFolder) -> None:
    """Tells data that are all gone, before a run goes on without them.

    Raises:
        UsageError: of the photos, or of a thousand spread over them, none is there; or no shard.
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

    Raises:
        UsageError: some are missing or have another content; names them.
    """
    samples = [*dataset.train, *dataset.val]
    wrong = []
    for done, (sample, error) in enumerate(_compared(samples), start=1):
        if error is not None and not (error == _MISSING and sample.name in lost):
            wrong.append(f"{sample.name} {error}")
        progress(done, len(samples))
    if wrong:
        more = f"; and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        also = "" if config.base_folder is None else ", or the --base-folder,"
        raise UsageError(
            f"{config.base_folder or config.data}: these are not the photos that {run.path} began "
            f"with. Of {len(samples):,}, {len(wrong):,} differ: {'; '.join(wrong[:_NAMED])}{more}. "
            f"Name the folder or the CSV{also} that holds the same photos, or start a new run "
            "without --resume."
        )


_MISSING, _CHANGED = "is missing", "has another content"


def _compared(samples: Sequence[Sample]) -> Iterator[tuple[Sample, str | None]]:
    remaining = iter(samples)
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="compare") as pool:
        while window := list(islice(remaining, _WINDOW)):
            yield from zip(window, pool.map(_difference, window), strict=True)


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
    """The shards of a run where `config` says that they lie now.

    Raises:
        UsageError: they are not the same shards; names the first that differs.
        ResnestError: one cannot be read.
    """
    assert dataset.shards is not None
    if not is_shards(config.data):
        raise UsageError(f"{config.data}: {run.path} learns from shards, and these are none.")
    found = find_shards(config.data, val_data=config.val_data, classes=None, progress=progress)
    for side in SIDES:
        there, here = (list(map(_facts, one.side(side))) for one in (dataset.shards, found))
        if there != here:
            differing = next((a or b for a, b in zip_longest(there, here) if a != b), None)
            assert differing is not None
            raise UsageError(
                f"{config.data}: these are not the shards that {run.path} began with: "
                f"{differing[0]} differs, or is only in one of the two. Name the folder that holds "
                "the same ones, or start a new run without --resume."
            )
    return dataset_of(replace(found, class_names=dataset.class_names))


def _facts(shard: Shard) -> tuple[str, int, int, str]:
    return shard.name, shard.photos, shard.size, shard.sha256
