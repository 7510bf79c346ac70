"""Parts, or finished outputs -> the files of the output. Any kill may come in between.

All files are made in the folder of parts, under the name `assembled`, and synced; only when all of
them are whole, which the index notes, they are renamed, and the folder is removed. For .npy each
part is removed as soon as its bytes are synced in the assembled file, so that the disk needs room
for little more than one copy; a start after a kill goes on behind the parts that are gone.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any, BinaryIO

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import free_bytes, writing
from resnest_cli.jobs.formats import (
    Matrix,
    matrix_of,
    npy_header,
    read_entries,
    read_info,
    read_stats,
    with_lines,
    with_stats,
    write,
)
from resnest_cli.jobs.job import Item, differences, without
from resnest_cli.jobs.listing import STAT_BYTES, Chain, Mark, Shard
from resnest_cli.jobs.parts import Store, check_others, discard, empty, outputs, publish
from resnest_cli.jobs.update import Plan, digest, list_of

_CHUNK = 2**20
_SPARE = 2**20  # bytes for the small files

Info = dict[str, Any]  # what `feats.json` says
# What may differ between outputs that are joined one behind the other.
_OF_ITS_OWN = ("format", "counts", "list", "versions", "class_names")


def from_parts(store: Store, target: Path) -> Info:
    """Makes the files of the output of a complete run."""
    manifest = store.manifest
    info = _info(manifest.identity, manifest.listing, store.inputs, store.rows)
    if not store.published:
        matrix, suffix = matrix_of(info), target.suffix.lower()
        lines = sum(part.line_bytes for part in store.in_order)
        if suffix == ".npy":
            _append_parts(store, matrix, lines + STAT_BYTES * store.inputs)
            for _ in _beside(store, store.lines(), suffix):
                pass
        else:
            _make_room(store, 2 * lines + matrix.bytes_in(suffix), store.inputs)
            _write_entries(store, store.entries(matrix.row_bytes), matrix, suffix)
        _finish(store, info)
    publish(store, target)
    return info


def retried(store: Store, target: Path, old: Info) -> Info:
    """Puts what was computed again in its place among the old entries."""
    counts, mark = old["counts"], Mark.of(old["list"])
    identity = store.manifest.identity
    info = _info(identity, mark, counts["inputs"], counts["rows"] + store.rows)
    fresh = store.entries(matrix_of(info).row_bytes)
    entries = (entry if entry.error is None else next(fresh) for entry in read_entries(target, old))
    _from_entries(store, target, entries, info, stats=_has_stats(target, old))
    return info


def updated(store: Store, target: Path, old: Info) -> Info:
    """The old entries, with what is new or changed among them as the plan says."""
    plan, final = Plan(store.folder), store.final
    assert final is not None
    rows = sum(entry.error is None for entry in plan.entries(list_of(target, old), store.lines()))
    # Made by another version perhaps; else of the same model and settings.
    identity = store.manifest.identity | without(old, "list", "counts")
    info = _info(identity, final, final.listed, rows)
    fresh = store.entries(matrix_of(info).row_bytes)
    _from_entries(store, target, plan.entries(read_entries(target, old), fresh), info)
    return info


def _has_stats(target: Path, info: Info) -> bool:
    inputs = info["counts"]["inputs"]
    return inputs == 0 or next(read_stats(target, inputs), None) is not None


def _from_entries(
    store: Store, target: Path, entries: Iterator[Item], info: Info, *, stats: bool = True
) -> None:
    matrix, suffix = matrix_of(info), target.suffix.lower()
    _make_room(store, matrix.bytes_in(suffix), matrix.inputs)
    if not stats:
        entries = (entry._replace(stat=None) for entry in entries)
    _write_entries(store, entries, matrix, suffix)
    _finish(store, info)
    publish(store, target)


def _info(identity: dict[str, Any], mark: Mark, inputs: int, rows: int) -> Info:
    """Nothing in it depends on when or how often a run was started."""
    return identity | {
        "list": mark.about,
        "counts": {"inputs": inputs, "rows": rows, "failed": inputs - rows},
    }


def _finish(store: Store, info: Info) -> None:
    (store.folder / "assembled.json").write_bytes(json.dumps(info, indent=2).encode() + b"\n")
    for path in store.folder.glob("assembled.*"):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    store.publish()


def _make_room(store: Store, needed: int, inputs: int = 0, keep: Path | None = None) -> None:
    """Removes what a kill has left of an assembly, but for one file, and sees what is free."""
    for path in store.folder.glob("assembled.*"):
        if path != keep:
            path.unlink()
    needed += STAT_BYTES * inputs + _SPARE
    free = free_bytes(store.folder)
    if free is not None and free < needed:
        raise ResnestError(
            f"{store.folder.parent}: the output needs about {needed / 1e6:,.0f} MB more, and "
            f"{free / 1e6:,.0f} MB are free: {(needed - free) / 1e6:,.1f} MB are missing."
        )


def _append_parts(store: Store, matrix: Matrix, spare: int) -> None:
    """The rows of all parts behind a header; each part goes when it is synced there.

    Besides there must be room for `spare` bytes.
    """
    path = store.folder / "assembled.npy"
    parts = [part for part in store.in_order if part.rows]
    gone = [at for at, part in enumerate(parts) if not store.rows_path(part.number).exists()]
    begin = gone[-1] + 1 if gone else 0  # all before are in the file, synced
    with path.open("rb+" if begin else "wb") as file:
        npy_header(file, matrix.dtype, matrix.shape)
        file.seek(file.tell() + sum(part.bytes for part in parts[:begin]))
        file.truncate()
        largest = max((part.bytes for part in parts[begin:]), default=0)
        _make_room(store, largest + spare, keep=path)
        for part in parts[begin:]:
            rows, before = store.rows_path(part.number), file.tell()
            with rows.open("rb") as source:
                shutil.copyfileobj(source, file, _CHUNK)
            if file.tell() - before != part.bytes:
                raise ResnestError(f"{rows} has changed. --overwrite starts the run afresh.")
            file.flush()
            os.fsync(file.fileno())
            rows.unlink()
    for number in store.parts:  # of inputs that all failed: they have no rows
        store.rows_path(number).unlink(missing_ok=True)


def _write_entries(store: Store, entries: Iterator[Item], matrix: Matrix, suffix: str) -> None:
    write(store.folder / f"assembled{suffix}", _beside(store, entries, suffix), matrix)


def _beside(store: Store, entries: Iterator[Item], suffix: str) -> Iterator[Item]:
    """Hands the entries on, and writes the files beside the matrix on the way."""
    with ExitStack() as stack:

        def made(name: str) -> BinaryIO:
            path = store.folder / f"assembled{name}"
            return stack.enter_context(path.open("wb", buffering=_CHUNK))

        entries = with_stats(entries, made(".stat"))
        if suffix != ".csv":  # which has the lines in itself
            entries = with_lines(entries, made(".csv"))
        yield from entries


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
    left = None if overwrite else Store.load(target)
    if left is not None and left.kind != "merge":
        raise UsageError(f"{left.folder} holds an unfinished run: finish it, or --overwrite.")
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
    with writing(target):
        empty(Store.folder_of(target), but="state.json")  # which says what was here, until replaced
        store = Store.create(target, "merge", None)
        try:
            stats = all(_has_stats(part, info) for part, info in found)
            _from_entries(store, target, entries, info, stats=stats)
        except Exception:
            # Names may have been given already: what stays here says that they are a merge's.
            if left is None and not store.published:
                discard(store.folder)
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
        return _info(identity, Mark.of(infos[0]["list"]), inputs, rows)
    return _info(identity, _list_of_all(found), inputs, rows)


def _list_of_all(found: list[tuple[Path, Info]]) -> Mark:
    """The end of the list of outputs behind each other, once it is sure that they fit."""
    first, expected = found[0][0], without(found[0][1], *_OF_ITS_OWN)
    chain, seen = Chain(), dict[bytes, int]()
    for number, (path, info) in enumerate(found):
        if wrong := differences(expected, without(info, *_OF_ITS_OWN)):
            raise UsageError(f"{first} and {path} do not belong together: {wrong}.")
        for line in chain(list_of(path, info)):
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
