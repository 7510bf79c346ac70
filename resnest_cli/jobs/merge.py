"""Finished outputs -> one. Any kill may come in between."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.jobs.assemble import FileParts, check_others, from_entries, outputs
from resnest_cli.jobs.formats import read_entries, read_info
from resnest_cli.jobs.job import Item, differences, without
from resnest_cli.jobs.listing import Chain, ListShard, Mark
from resnest_cli.jobs.parts import Info, Manifest, info_of
from resnest_cli.jobs.update import digest

# What may differ between outputs that are joined one behind the other.
_OF_ITS_OWN = ("format", "counts", "list", "versions", "class_names")


def merge(parts: Sequence[Path], target: Path, *, overwrite: bool) -> Info:
    """Joins finished outputs of one model, made with the same options, to one.

    Those of all shards of a list become what a run over the whole list would have written: shard i
    has the batches b with b % N == i - 1, so one batch of each in turn restores the order. Others
    stand one behind the other, and no input may stand in two of them. A merge that was killed, or
    could not be written, is simply run again; one that is there already is left.

    Raises:
        UsageError: another output exists, or the parts do not belong together.
        ResnestError: a part cannot be read, or the output cannot be written.
    """
    folder = FileParts(target)
    left = None if overwrite else folder.read_manifest()
    if left is not None and left.kind != "merge":
        raise UsageError(f"{folder.beside} holds an unfinished run: finish it, or --overwrite.")
    for path in (path for part in parts for path in outputs(part)):
        if path in outputs(target):
            raise UsageError(f"{path} is one of the parts: give -o another name.")
    found = [(part, read_info(part)) for part in parts]
    sharded = [info["shard"] is not None for _, info in found]
    if any(sharded) and not all(sharded):
        whole, shard = found[sharded.index(False)][0], found[sharded.index(True)][0]
        raise UsageError(
            f"{whole} is no shard, and {shard} is one: join the shards first, then the others."
        )
    found = _in_order(found) if all(sharded) else found
    info = _merged_info(target, found)
    existing = [path for path in outputs(target) if path.exists()]
    if existing and left is None and not overwrite:
        if _is_there(target, info):
            return info
        raise UsageError(f"{existing[0]} exists: give -o another name, or --overwrite.")
    check_others(target)
    entries = _joined(found) if all(sharded) else _behind_each_other(found)
    with folder.writing(str(target)):
        folder.clear(keep="_manifest.json")  # which says what was here, until replaced
        try:
            folder.begin(Manifest({}, Mark(0, ""), 1, 0, 0, kind="merge"))
            from_entries(folder, entries, info)
        except Exception:
            # Names may have been given already: what stays here says that they are a merge's.
            if left is None and not folder.assembled["whole"]:
                folder.clear()
            raise
    return info


def _is_there(target: Path, info: Info) -> bool:
    """Whether the output is this merge: the files are complete once the last name is given."""
    needed = [path for path in outputs(target) if path.suffix != ".stat"]  # new since then
    try:
        return all(path.exists() for path in needed) and read_info(target) == info
    except ResnestError:
        return False


def _merged_info(target: Path, found: list[tuple[Path, Info]]) -> Info:
    """What the joined output says of itself, once it is sure that the others are whole."""
    infos = [info for _, info in found]
    named = [{"class_names": info["class_names"]} for info in infos if "class_names" in info]
    identity = without(infos[0], "list", "counts") | (named[0] if named else {})
    identity |= {"shard": None, "format": target.suffix.removeprefix(".")}
    inputs, rows = (sum(info["counts"][name] for info in infos) for name in ("inputs", "rows"))
    if infos[0]["shard"] is not None:
        return info_of(identity, Mark(**infos[0]["list"]), inputs, rows)
    return info_of(identity, _list_of_all(found), inputs, rows)


def _list_of_all(found: list[tuple[Path, Info]]) -> Mark:
    """The end of the list of outputs behind each other, once it is sure that they fit."""
    first, expected = found[0][0], without(found[0][1], *_OF_ITS_OWN)
    chain, seen = Chain(), dict[bytes, int]()
    for number, (path, info) in enumerate(found):
        if wrong := differences(expected, without(info, *_OF_ITS_OWN)):
            raise UsageError(f"{first} and {path} do not belong together: {wrong}.")
        for line in chain(read_entries(path, info, rows=False)):
            other = seen.setdefault(digest(line.name), number)
            if other != number:
                raise UsageError(f"{line.name!r} stands in {found[other][0]} and in {path}.")
    return chain.mark


def _in_order(found: list[tuple[Path, Info]]) -> list[tuple[Path, Info]]:
    """The parts by number of their shard, once it is sure that they make a whole."""
    by_index: dict[int, tuple[Path, Info]] = {}
    first_path, first = found[0]
    for path, info in found:
        shard = info["shard"]
        if wrong := differences(_common(first), _common(info)):
            raise UsageError(f"{first_path} and {path} do not belong together: {wrong}.")
        if shard["index"] in by_index:
            other, name = by_index[shard["index"]][0], f"{shard['index']}/{shard['count']}"
            raise UsageError(f"{other} and {path} are both shard {name}.")
        by_index[shard["index"]] = path, info
        own = ListShard(**shard).size(info["list"]["inputs"], info["engine"]["batch_size"])
        if own != info["counts"]["inputs"]:
            raise ResnestError(
                f"{path} has {info['counts']['inputs']} inputs instead of its share of {own}."
            )
    count = first["shard"]["count"]
    missing = [f"{index}/{count}" for index in range(1, count + 1) if index not in by_index]
    if missing:
        raise UsageError(f"shard {', '.join(missing)} is missing.")
    return [by_index[index] for index in range(1, count + 1)]


def _common(info: Info) -> Info:
    """What must be the same in all parts."""
    count = info["shard"] and {"count": info["shard"]["count"]}
    return without(info, "format", "counts", "class_names") | {"shard": count}


def _joined(shards: list[tuple[Path, Info]]) -> Iterator[Item]:
    """One batch of each shard in turn, until all are empty."""
    batch_size = shards[0][1]["engine"]["batch_size"]
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


def _behind_each_other(found: list[tuple[Path, Info]]) -> Iterator[Item]:
    for path, info in found:
        yield from read_entries(path, info)
