"""Outputs of all shards -> the output that one run over the whole list would have written.

Shard i has the batches b with b % N == i - 1, so one batch of each in turn restores the order. All
must come from the same list, which the hash over it proves, of the same model and options, each
shard once, and each with as many inputs as its share of the list has.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.features.assemble import from_entries, outputs
from resnest_cli.features.differences import differences
from resnest_cli.features.formats import Entry
from resnest_cli.features.job import Shard
from resnest_cli.features.readers import identity_of, read_entries, read_info
from resnest_cli.features.store import Store, discard
from resnest_cli.features.target import check_others
from resnest_cli.files import writing

Info = dict[str, Any]


def merge(parts: Sequence[Path], target: Path, *, overwrite: bool) -> Info:
    """Writes the joined output; what its `feats.json` says.

    A merge that was killed, or could not be written, is simply run again; one that is there already
    is left as it is.

    Raises:
        UsageError: another output exists, or the parts are not all shards of one run, each once.
        ResnestError: a part cannot be read, or the output cannot be written.
    """
    left = Store.load(target)
    if left is not None and left.kind != "merge" and not overwrite:
        raise UsageError(f"{left.folder} holds an unfinished run: finish it, or --overwrite.")
    for part in parts:
        for path in outputs(part):
            if path in outputs(target):
                raise UsageError(f"{path} is one of the parts: give -o another name.")
    found = [(part, read_info(part)) for part in parts]
    shards = _in_order(found)
    info = _info(target, shards)
    existing = [path for path in outputs(target) if path.exists()]
    if existing and left is None and not overwrite:
        if _is_there(target, info):
            return info
        raise UsageError(f"{existing[0]} exists: give -o another name, or --overwrite.")
    check_others(target)
    with writing(target):
        store = Store.create(target, "merge", {})
        try:
            entries = _joined(shards, shards[0][1]["engine"]["batch_size"])
            from_entries(store, target, entries, info)
        except Exception:
            # Names may have been given already: what stays here says that they are a merge's.
            if left is None and not store.published:
                discard(store.folder)
            raise
    return info


def _is_there(target: Path, info: Info) -> bool:
    """Whether the output is this merge: the files are complete once the last name is given."""
    try:
        return all(path.exists() for path in outputs(target)) and read_info(target) == info
    except ResnestError:
        return False


def _info(target: Path, shards: list[tuple[Path, Info]]) -> Info:
    first = shards[0][1]
    inputs = sum(info["counts"]["inputs"] for _, info in shards)
    rows = sum(info["counts"]["rows"] for _, info in shards)
    info = identity_of(first) | {"shard": None, "format": target.suffix.removeprefix(".")}
    info["list"] = first["list"]
    info["counts"] = {"inputs": inputs, "rows": rows, "failed": inputs - rows}
    return info


def _in_order(found: list[tuple[Path, Info]]) -> list[tuple[Path, Info]]:
    """The parts by number of their shard, once it is sure that they make a whole."""
    by_index: dict[int, tuple[Path, Info]] = {}
    first_path, first = found[0]
    for path, info in found:
        shard = info["shard"]
        if shard is None:
            raise UsageError(f"{path} is no shard: it was made without --shard.")
        wrong = differences(_common(first), _common(info))
        if wrong:
            raise UsageError(f"{first_path} and {path} do not belong together: {wrong}.")
        if shard["index"] in by_index:
            other = by_index[shard["index"]][0]
            raise UsageError(f"{other} and {path} are both shard {_name(shard)}.")
        by_index[shard["index"]] = path, info
        own = Shard(**shard).size(info["list"]["inputs"], info["engine"]["batch_size"])
        if own != info["counts"]["inputs"]:
            raise ResnestError(
                f"{path} has {info['counts']['inputs']} inputs instead of its share of {own}."
            )
    count = first["shard"]["count"]
    missing = [f"{index}/{count}" for index in range(1, count + 1) if index not in by_index]
    if missing:
        raise UsageError(f"shard {', '.join(missing)} is missing.")
    return [by_index[index] for index in range(1, count + 1)]


def _name(shard: dict[str, int]) -> str:
    return f"{shard['index']}/{shard['count']}"


def _common(info: Info) -> Info:
    """What must be the same in all parts."""
    identity = {name: value for name, value in identity_of(info).items() if name != "format"}
    count = info["shard"] and {"count": info["shard"]["count"]}
    return identity | {"shard": count, "list": info["list"]}


def _joined(shards: list[tuple[Path, Info]], batch_size: int) -> Iterator[Entry]:
    """One batch of each shard in turn, until all are empty."""
    streams = [read_entries(path, info) for path, info in shards]
    try:
        for stream in cycle(streams):
            batch = list(islice(stream, batch_size))
            yield from batch
            if len(batch) < batch_size:  # the end of the list; later shards have nothing more
                break
        for stream in streams:  # reads to the end, where each sees whether all fits
            if next(stream, None) is not None:
                raise ResnestError("the parts do not fit together: one has more than its share.")
    finally:
        for stream in streams:
            stream.close()
