"""Parts, or entries from elsewhere, -> the files of the output. Any kill may come in between.

All files are made in the folder of parts, under the name `assembled`, and synced; only when all of
them are whole, which the index notes, they are renamed, and the folder is removed. For .npy each
part is removed as soon as its bytes are synced in the assembled file, so that the disk needs room
for little more than one copy; a start after a kill goes on behind the parts that are gone.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from resnest_cli.errors import ResnestError
from resnest_cli.features.formats import Entry, Matrix, npy_header, with_lines, write
from resnest_cli.features.job import Mark
from resnest_cli.features.lines import HEADER
from resnest_cli.features.readers import matrix_of, read_entries
from resnest_cli.features.store import Store, discard, free_bytes
from resnest_cli.files import sync_folder

_CHUNK = 2**20
_SPARE = 2**20  # bytes for the small files


def info_of(identity: dict[str, Any], mark: Mark, inputs: int, rows: int) -> dict[str, Any]:
    """What `feats.json` holds. Nothing in it depends on when or how often a run was started."""
    return identity | {
        "list": {"inputs": mark.listed, "sha256": mark.chain},
        "counts": {"inputs": inputs, "rows": rows, "failed": inputs - rows},
    }


def from_parts(store: Store, target: Path) -> dict[str, Any]:
    """Makes the files of the output of a complete run; what `feats.json` says.

    Raises:
        ResnestError: there is not enough room.
        OSError: a file cannot be written.
    """
    info = info_of(store.identity, store.parts[-1].mark, store.inputs, store.rows)
    if not store.published:
        matrix = matrix_of(info)
        suffix = target.suffix.lower()
        lines = sum(part.line_bytes for part in store.parts)
        if suffix == ".npy":
            _append_parts(store, matrix, lines)
            _join_lines(store)
        else:
            _make_room(store, 2 * lines + matrix.bytes_in(suffix))
            _write_entries(store, _entries(store, matrix), matrix, suffix)
        _finish(store, info)
    publish(store, target)
    return info


def from_entries(
    store: Store, target: Path, entries: Iterator[Entry], info: dict[str, Any]
) -> None:
    """Makes the files of an output out of entries, as `info` counts them.

    Raises:
        ResnestError: there is not enough room.
        OSError: a file cannot be written.
    """
    matrix = matrix_of(info)
    _make_room(store, matrix.bytes_in(target.suffix.lower()))
    _write_entries(store, entries, matrix, target.suffix.lower())
    _finish(store, info)
    publish(store, target)


def retried(store: Store, target: Path, old: dict[str, Any]) -> dict[str, Any]:
    """Puts what was computed again in its place among the old entries; the new `feats.json`.

    Raises:
        ResnestError: there is not enough room, or the old files are damaged.
        OSError: a file cannot be written.
    """
    counts = old["counts"]
    mark = Mark(old["list"]["inputs"], old["list"]["sha256"])
    info = info_of(store.identity, mark, counts["inputs"], counts["rows"] + store.rows)
    matrix = matrix_of(info)
    fresh = _entries(store, matrix)
    entries = (entry if entry.error is None else next(fresh) for entry in read_entries(target, old))
    from_entries(store, target, entries, info)
    return info


def publish(store: Store, target: Path) -> None:
    """Renames the files of the output into place, the matrix last, and removes the parts."""
    for path in outputs(target):
        made = store.folder / f"assembled{path.suffix.lower()}"
        if made.exists():  # else it was renamed before a kill
            made.replace(path)
    sync_folder(target.parent)
    discard(store.folder)


def outputs(target: Path) -> list[Path]:
    """The files of an output, the one that is named last."""
    beside = [target.with_suffix(suffix) for suffix in (".csv", ".json")]
    return [path for path in beside if path != target] + [target]


def _finish(store: Store, info: dict[str, Any]) -> None:
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
    if free < needed:
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
        npy_header(file, matrix)
        file.seek(file.tell() + sum(part.bytes for part in parts[:begin]))
        file.truncate()
        largest = max((part.bytes for part in parts[begin:]), default=0)
        _make_room(store, largest + spare, keep=path)
        for part in parts[begin:]:
            rows = store.rows_path(part)
            with rows.open("rb") as source:
                _copy(source, file, part.bytes)
            file.flush()
            os.fsync(file.fileno())
            rows.unlink()
    for part in store.parts:  # of inputs that all failed: they have no rows
        store.rows_path(part).unlink(missing_ok=True)


def _copy(source: IO[bytes], file: IO[bytes], size: int) -> None:
    before = file.tell()
    shutil.copyfileobj(source, file, _CHUNK)
    if file.tell() - before != size:
        raise ResnestError(f"{source.name} has changed. --overwrite starts the run afresh.")


def _join_lines(store: Store) -> None:
    with (store.folder / "assembled.csv").open("wb") as file:
        file.write(HEADER.encode())
        for part in store.parts:
            if part.inputs:
                with store.lines_path(part).open("rb") as source:
                    shutil.copyfileobj(source, file, _CHUNK)


def _write_entries(store: Store, entries: Iterator[Entry], matrix: Matrix, suffix: str) -> None:
    path = store.folder / f"assembled{suffix}"
    if suffix == ".csv":  # has the lines in itself
        write(path, entries, matrix)
        return
    with (store.folder / "assembled.csv").open("wb", buffering=_CHUNK) as lines:
        write(path, with_lines(entries, lines), matrix)


def _entries(store: Store, matrix: Matrix) -> Iterator[Entry]:
    """What the parts hold."""
    for part in store.parts:
        if not part.inputs:
            continue
        with store.rows_path(part).open("rb", buffering=_CHUNK) as rows:
            for line in store.lines_of(part):
                row = rows.read(matrix.row_bytes) if line.error is None else None
                yield Entry(line.name, line.error, row)
