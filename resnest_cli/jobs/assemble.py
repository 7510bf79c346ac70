"""Parts, or the outputs of all shards -> the files of the output. Any kill may come in between.

All files are made in the folder of parts, under the name `assembled`, and synced; only when all of
them are whole, which the index notes, they are renamed, and the folder is removed. For .npy each
part is removed as soon as its bytes are synced in the assembled file, so that the disk needs room
for little more than one copy; a start after a kill goes on behind the parts that are gone.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import free_bytes, writing
from resnest_cli.jobs.formats import (
    HEADER,
    Matrix,
    matrix_of,
    npy_header,
    read_entries,
    read_info,
    with_lines,
    write,
)
from resnest_cli.jobs.job import Item, differences, without
from resnest_cli.jobs.listing import Mark, Shard
from resnest_cli.jobs.parts import Store, check_others, discard, outputs, publish

_CHUNK = 2**20
_SPARE = 2**20  # bytes for the small files

Info = dict[str, Any]  # what `feats.json` says


def from_parts(store: Store, target: Path) -> Info:
    """Makes the files of the output of a complete run."""
    info = _info(store.identity, store.parts[-1].mark, store.inputs, store.rows)
    if not store.published:
        matrix, suffix = matrix_of(info), target.suffix.lower()
        lines = sum(part.line_bytes for part in store.parts)
        if suffix == ".npy":
            _append_parts(store, matrix, lines)
            with (store.folder / "assembled.csv").open("wb") as file:
                file.write(HEADER.encode())
                for part in filter(lambda part: part.inputs, store.parts):
                    with store.lines_path(part).open("rb") as source:
                        shutil.copyfileobj(source, file, _CHUNK)
        else:
            _make_room(store, 2 * lines + matrix.bytes_in(suffix))
            _write_entries(store, _entries(store, matrix), matrix, suffix)
        _finish(store, info)
    publish(store, target)
    return info


def retried(store: Store, target: Path, old: Info) -> Info:
    """Puts what was computed again in its place among the old entries."""
    counts, mark = old["counts"], Mark.of(old["list"])
    info = _info(store.identity, mark, counts["inputs"], counts["rows"] + store.rows)
    fresh = _entries(store, matrix_of(info))
    entries = (entry if entry.error is None else next(fresh) for entry in read_entries(target, old))
    _from_entries(store, target, entries, info)
    return info


def _from_entries(store: Store, target: Path, entries: Iterator[Item], info: Info) -> None:
    matrix, suffix = matrix_of(info), target.suffix.lower()
    _make_room(store, matrix.bytes_in(suffix))
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


def _make_room(store: Store, needed: int, keep: Path | None = None) -> None:
    """Removes what a kill has left of an assembly, but for one file, and sees what is free."""
    for path in store.folder.glob("assembled.*"):
        if path != keep:
            path.unlink()
    needed += _SPARE
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
    parts = [part for part in store.parts if part.rows]
    gone = [at for at, part in enumerate(parts) if not store.rows_path(part).exists()]
    begin = gone[-1] + 1 if gone else 0  # all before are in the file, synced
    with path.open("rb+" if begin else "wb") as file:
        npy_header(file, matrix.dtype, matrix.shape)
        file.seek(file.tell() + sum(part.bytes for part in parts[:begin]))
        file.truncate()
        largest = max((part.bytes for part in parts[begin:]), default=0)
        _make_room(store, largest + spare, keep=path)
        for part in parts[begin:]:
            rows, before = store.rows_path(part), file.tell()
            with rows.open("rb") as source:
                shutil.copyfileobj(source, file, _CHUNK)
            if file.tell() - before != part.bytes:
                raise ResnestError(f"{rows} has changed. --overwrite starts the run afresh.")
            file.flush()
            os.fsync(file.fileno())
            rows.unlink()
    for part in store.parts:  # of inputs that all failed: they have no rows
        store.rows_path(part).unlink(missing_ok=True)


def _write_entries(store: Store, entries: Iterator[Item], matrix: Matrix, suffix: str) -> None:
    path = store.folder / f"assembled{suffix}"
    if suffix == ".csv":  # has the lines in itself
        write(path, entries, matrix)
        return
    with (store.folder / "assembled.csv").open("wb", buffering=_CHUNK) as lines:
        write(path, with_lines(entries, lines), matrix)


def _entries(store: Store, matrix: Matrix) -> Iterator[Item]:
    """What the parts hold."""
    for part in filter(lambda part: part.inputs, store.parts):
        with store.rows_path(part).open("rb", buffering=_CHUNK) as rows:
            for line in store.lines_of(part):
                row = rows.read(matrix.row_bytes) if line.error is None else None
                yield Item(line.name, line.error, row)


def merge(parts: Sequence[Path], target: Path, *, overwrite: bool) -> Info:
    """Joins the outputs of all shards to the one that a run over the whole list would have written.

    Shard i has the batches b with b % N == i - 1, so one batch of each in turn restores the order.
    All must come from the same list, which the hash over it proves, of the same model and options,
    each shard once, and each with as many inputs as its share of the list has. A merge that was
    killed, or could not be written, is simply run again; one that is there already is left.

    Raises:
        UsageError: another output exists, or the parts are not all shards of one run, each once.
        ResnestError: a part cannot be read, or the output cannot be written.
    """
    left = Store.load(target)
    if left is not None and left.kind != "merge" and not overwrite:
        raise UsageError(f"{left.folder} holds an unfinished run: finish it, or --overwrite.")
    for path in (path for part in parts for path in outputs(part)):
        if path in outputs(target):
            raise UsageError(f"{path} is one of the parts: give -o another name.")
    shards = _in_order([(part, read_info(part)) for part in parts])
    info = _merged_info(target, [info for _, info in shards])
    existing = [path for path in outputs(target) if path.exists()]
    if existing and left is None and not overwrite:
        if _is_there(target, info):
            return info
        raise UsageError(f"{existing[0]} exists: give -o another name, or --overwrite.")
    check_others(target)
    with writing(target):
        store = Store.create(target, "merge", {})
        try:
            _from_entries(store, target, _joined(shards), info)
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


def _merged_info(target: Path, infos: list[Info]) -> Info:
    first = infos[0]
    identity = without(first, "list", "counts") | {
        "shard": None,
        "format": target.suffix.removeprefix("."),
    }
    mark = Mark.of(first["list"])
    inputs, rows = (sum(info["counts"][name] for info in infos) for name in ("inputs", "rows"))
    return _info(identity, mark, inputs, rows)


def _in_order(found: list[tuple[Path, Info]]) -> list[tuple[Path, Info]]:
    """The parts by number of their shard, once it is sure that they make a whole."""
    by_index: dict[int, tuple[Path, Info]] = {}
    first_path, first = found[0]
    for path, info in found:
        shard = info["shard"]
        if shard is None:
            raise UsageError(f"{path} is no shard: it was made without --shard.")
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
    return without(info, "format", "counts") | {"shard": count}


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
