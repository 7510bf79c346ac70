"""The folder of parts beside an output that is files, and how the files are made of it.

    feats.npy.parts/part-00000.rows   and what else `parts` says
                    plan              of an update: where the entries come from
                    rows              of an update: a copy of the old rows
                    assembled.npy     and assembled.csv, .json and .stat: the files of the output
                    _assembled.json   how far they are made, or that they are whole

All files are made in the folder and synced; only when all of them are whole, which is noted, they
are renamed, and the folder is removed. For .npy a part goes as soon as its bytes are synced in the
assembled files and that is noted, so that the disk needs room for little more than one copy; a
start after a kill goes on behind the parts that are gone. The other formats are made again.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import free_bytes, reading, sync_folder
from resnest_cli.jobs.filesystems import read
from resnest_cli.jobs.formats import (
    HEADER,
    SUFFIXES,
    EntriesByNumber,
    Matrix,
    matrix_of,
    npy_header,
    read_entries,
    with_files,
    write,
)
from resnest_cli.jobs.job import Item, summed, without
from resnest_cli.jobs.listing import STAT_BYTES, Chain, Mark
from resnest_cli.jobs.part_files import read_part
from resnest_cli.jobs.parts import Info, Manifest, PartInfo, Parts, earlier, info_of
from resnest_cli.jobs.update import Plan

_CHUNK = 2**20
_SPARE = 2**20  # bytes for the small files
_DIGITS = 12  # of a row's number, which parts do not hold


def outputs(target: Path) -> list[Path]:
    """The files of an output, the one that is named last."""
    beside = [target.with_suffix(suffix) for suffix in (".csv", ".json", ".stat")]
    return [path for path in beside if path != target] + [target]


class FileParts(Parts):
    """The parts of one output."""

    ours = re.compile(
        r"\.?(part-\d{5,}\.rows|_(manifest|assembled)\.json)(\.\w+\.tmp)?"
        r"|assembled\.\w+|plan|rows"
        # Of earlier versions:
        r"|\d{6,}\.(rows|csv)(\.tmp)?|\.?(state\.json|index\.jsonl)(\..*)?"
        r"|listing\.(jsonl|stat)|plan\.stat|lock"
    )
    tries = 1

    def __init__(self, target: Path) -> None:
        self.target = target
        self.beside = target.with_name(target.name + ".parts")
        super().__init__(str(self.beside), "rows")

    def read_manifest(self) -> Manifest | None:
        """What was begun; UsageError where an earlier version did that."""
        if (self.beside / "state.json").exists():
            raise earlier(self.beside)
        return super().read_manifest()

    @property
    def assembled(self) -> dict[str, Any]:
        """How many parts have gone to the files, and what is to be known of these."""
        path = self.path("_assembled.json")
        done: dict[str, Any] = {"parts": 0, "rows": 0, "bytes": {}, "failures": {}, "whole": False}
        with reading(path, damage=(ValueError,), then="--overwrite starts afresh."):
            done |= json.loads(read(self._system, path) or b"{}")
        return done

    def made(self, suffix: str) -> Path:
        """One of the files of the output, before it has its name."""
        return self.beside / f"assembled{suffix}"

    def whole_parts(self, manifest: Manifest) -> list[PartInfo]:
        """The parts that are there, or have gone to files that are."""
        found, sizes, done = super().whole_parts(manifest), manifest.sizes, self.assembled
        gone = done["parts"]
        if any(_size(self.made(suffix)) < size for suffix, size in done["bytes"].items()):
            with self.writing():
                (self.beside / "_assembled.json").unlink()
            self.damaged += sum(sizes[:gone])
            gone = 0
        # Their failures are known together only.
        moved = [PartInfo(n, sizes[n], {} if n else done["failures"]) for n in range(gone)]
        return moved + [info for info in found if info.part >= gone]

    def entries(self, row_bytes: int) -> Iterator[Item]:
        """The inputs of all parts; without their rows where `row_bytes` is 0."""
        for part in range(len(self.manifest.sizes)):
            yield from read_part(Path(self.part_path(part)), row_bytes)

    def make_room(self, needed: int, keep: tuple[str, ...] = ()) -> None:
        """Removes what a kill has left of an assembly, but for some, and sees what is free."""
        for path in self.beside.glob("assembled.*"):
            if path.suffix not in keep:
                path.unlink()
        needed += _SPARE
        free = free_bytes(self.beside)
        if free is not None and free < needed:
            raise ResnestError(
                f"{self.beside.parent}: the output needs about {needed / 1e6:,.0f} MB more, and "
                f"{free / 1e6:,.0f} MB are free: {(needed - free) / 1e6:,.1f} MB are missing."
            )

    def publish(self, info: Info) -> None:
        """Writes `feats.json`, notes that all files are whole, and gives them their names."""
        self.made(".json").write_bytes(json.dumps(info, indent=2).encode() + b"\n")
        for path in self.beside.glob("assembled.*"):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        sync_folder(self.beside)
        self.put_json("_assembled.json", self.assembled | {"whole": True})
        self.rename()

    def rename(self) -> None:
        """Gives the files their names, the matrix last, and removes the parts."""
        for path in outputs(self.target):
            made = self.made(path.suffix.lower())
            if made.exists():  # else it was renamed before a kill
                made.replace(path)
        sync_folder(self.target.parent)
        self.clear()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def from_parts(parts: FileParts, failed: int) -> Info:
    """Makes the files of the output of a complete run."""
    manifest, suffix = parts.manifest, parts.target.suffix.lower()
    rows = manifest.inputs - failed
    info = info_of(manifest.identity, manifest.listing, manifest.inputs, rows)
    matrix = matrix_of(info)
    if suffix == ".npy":
        _append_parts(parts, matrix)
        parts.publish(info)
    else:
        sizes = (_size(Path(parts.part_path(part))) for part in range(len(manifest.sizes)))
        beside = sum(sizes) - rows * matrix.row_bytes  # lines, and sizes and times
        from_entries(parts, parts.entries(matrix.row_bytes), info, 2 * beside)
    return info


def retried(parts: FileParts, old: Info, failed: int) -> Info:
    """Puts what was computed again in its place among the old entries."""
    counts, manifest, target = old["counts"], parts.manifest, parts.target
    rows = counts["rows"] + manifest.inputs - failed
    info = info_of(manifest.identity, Mark(**old["list"]), counts["inputs"], rows)
    fresh = parts.entries(matrix_of(info).row_bytes)
    entries = (entry if entry.error is None else next(fresh) for entry in read_entries(target, old))
    from_entries(parts, entries, info)
    return info


def updated(parts: FileParts, old: Info) -> Info:
    """The old entries, with what is new or changed among them as the plan says."""
    plan, chain, copy, matrix = Plan(parts.beside), Chain(), parts.beside / "rows", matrix_of(old)
    copy.unlink(missing_ok=True)  # of a start that was killed
    parts.make_room(0 if parts.target.suffix == ".npy" else matrix.rows * matrix.row_bytes)
    with EntriesByNumber(parts.target, old, copy) as known:
        entries = chain(plan.entries(known, parts.entries(0)))
        rows = sum(entry.error is None for entry in entries)
        # Made by another version perhaps; else of the same model and settings.
        identity = parts.manifest.identity | without(old, "list", "counts")
        info = info_of(identity, chain.mark, chain.count, rows)
        fresh = parts.entries(matrix.row_bytes)
        from_entries(parts, plan.entries(known, fresh), info)
    return info


def from_entries(parts: FileParts, entries: Iterator[Item], info: Info, lines: int = 0) -> None:
    """Makes the files of the output of entries, whose lines have so many bytes more or less."""
    matrix, suffix = matrix_of(info), parts.target.suffix.lower()
    parts.make_room(matrix.bytes_in(suffix) + STAT_BYTES * matrix.inputs + lines)
    with ExitStack() as stack:

        def made(name: str) -> BinaryIO:
            return stack.enter_context(parts.made(name).open("wb", buffering=_CHUNK))

        beside = None
        if suffix != ".csv":  # which has the lines in itself
            beside = made(".csv")
            beside.write(HEADER.encode())
        write(parts.made(suffix), with_files(entries, beside, made(".stat")), matrix)
    parts.publish(info)


def _append_parts(parts: FileParts, matrix: Matrix) -> None:
    """Rows, lines and stats of all parts behind those that are there; each part goes then."""
    done, sizes = parts.assembled, parts.manifest.sizes
    begin, row, failures = done["parts"], done["rows"], done["failures"]
    left = [Path(parts.part_path(part)) for part in range(begin, len(sizes))]
    suffixes = (".npy", ".csv", ".stat")
    parts.make_room(max(map(_size, left), default=0) + _DIGITS * matrix.inputs, keep=suffixes)
    with ExitStack() as stack:
        files = {
            suffix: stack.enter_context(parts.made(suffix).open("rb+" if begin else "wb"))
            for suffix in suffixes
        }
        rows, lines, stats = files.values()
        for suffix, file in files.items():
            file.seek(done["bytes"].get(suffix, 0))
            file.truncate()
        if begin:
            parts.remove_part(begin - 1)  # a kill may have come before that
        else:
            npy_header(rows, matrix.dtype, matrix.shape)
            lines.write(HEADER.encode())
        for part, path in enumerate(left, start=begin):
            info = parts.part(part, sizes[part])
            if info is None:
                raise ResnestError(f"{path} has changed: --resume computes it again.")
            for item in with_files(read_part(path, matrix.row_bytes), lines, stats, row):
                rows.write(item.row or b"")
            row += info.inputs - info.failed
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            failures = summed((failures, info.failures))
            ends = {suffix: file.tell() for suffix, file in files.items()}
            done |= {"parts": part + 1, "rows": row, "bytes": ends, "failures": failures}
            parts.put_json("_assembled.json", done)
            parts.remove_part(part)


def check_others(target: Path) -> None:
    """Whether nothing of another format has, or will have, files of the same names."""
    lines, info = target.with_suffix(".csv"), target.with_suffix(".json")
    for suffix in SUFFIXES:
        other = target.with_suffix(suffix)
        if other == target:
            continue
        if other.exists() and other not in outputs(target) and info.exists():
            raise UsageError(
                f"{other} is there: its {lines.name} and {info.name} would be replaced. Remove it, "
                "or give -o another name."
            )
        parts = FileParts(other)
        try:
            begun = parts.read_manifest()
            unfinished = begun is not None and "ranking" not in begun.identity  # of `predict`
        except ResnestError:
            unfinished = True
        if unfinished:
            raise UsageError(
                f"{parts.beside} holds an unfinished run, which writes {info}, too: "
                f"finish that with -o {other} --resume, remove the folder, or give -o another name."
            )
