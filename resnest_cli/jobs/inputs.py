"""What the command line names -> inputs, one at a time, wherever they lie; and their bytes.

Paths on this machine mean what they mean to the local runner; see `images.sources`. In addition: an
address of any file system of pyarrow or fsspec stands for a file, a folder or a glob there, a .tar
for the photos in it, a .parquet or .csv for the files that its path column lists. What a list or a
manifest holds is a photo or a shard, taken literally; only a folder on this machine is read.
"""

import io
import os
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ErrorKind, ImageError, ResnestError, UsageError
from resnest_cli.images import folders
from resnest_cli.images.sources import Source, SourceStats, is_photo, iter_sources
from resnest_cli.jobs.filesystems import NO_MATCH, opened, remote_files
from resnest_cli.jobs.listing import Input
from resnest_cli.options import RunOptions
from resnest_cli.paths import is_address, is_http
from resnest_cli.text import one_line

_AT_ONCE = 8  # shards that are looked into by threads
_ROWS = 8192  # of a manifest at a time
_MANIFESTS = (".parquet", ".csv")
_BLOCK = 4 * 2**20
_TRUNCATED = "is a tar shard that is truncated or damaged: more photos may have been in it"
_OPEN = 16  # shards
_MOST = 2**30  # bytes of a photo; decoding refuses more
_PHOTOS = 16  # remote ones that are read at once
HELD = 96 * 2**20  # bytes of a part's photos; what is beyond is left for the worker to read


Looked = tuple[list[Input], int]  # the photos of a shard, and how many other files it has


def iter_inputs(
    options: RunOptions,
    path_column: str,
    stats: SourceStats,
    look: Callable[[Input], Future[Looked]] | None = None,
    at_once: int = _AT_ONCE,
) -> Iterator[Input]:
    """The inputs that the options name, in order, the photos of a shard in its place.

    So many shards are looked into ahead, by `look` or in threads: one far away answers slowly.

    Raises:
        UsageError: a list cannot be read, or a photo on stdin is asked for.
    """
    waiting: deque[Looked | Future[Looked]] = deque()

    def first() -> list[Input]:
        looked = waiting.popleft()
        found, skipped = looked if isinstance(looked, tuple) else looked.result()
        stats.skipped += skipped
        return found

    pool = ThreadPoolExecutor(at_once)  # has no threads until it gets work
    look = look or (lambda shard: pool.submit(looked_into, shard))
    try:
        for item in _files(options, path_column, stats):
            shard = item.kind == "file" and item.where.endswith(".tar")
            waiting.append(look(item) if shard else ([item], 0))
            while waiting and (isinstance(waiting[0], tuple) or len(waiting) > at_once):
                yield from first()
        while waiting:
            yield from first()
    finally:
        pool.shutdown(cancel_futures=True)


def looked_into(shard: Input) -> Looked:
    """The photos of a shard, and how many other files were passed over."""
    stats = SourceStats()
    return list(members(shard, stats)), stats.skipped


def _files(options: RunOptions, path_column: str, stats: SourceStats) -> Iterator[Input]:
    """The inputs, shards as they are."""
    for text in options.inputs:
        if text == "-":
            raise UsageError("a photo on standard input (-) is for --runner local.")
        yield from map(_absolute, _named(text, options, path_column, stats))
    if options.from_file is not None:
        sources = iter_sources(
            (), recursive=options.recursive, from_file=options.from_file,
            null_separated=options.null_separated, stats=stats,
        )  # fmt: skip
        yield from map(_absolute, map(Input.of, sources))


def _named(text: str, options: RunOptions, path_column: str, stats: SourceStats) -> Iterator[Input]:
    if text.lower().endswith(_MANIFESTS) and not is_http(text) and not folders.is_folder(text):
        for number, path in enumerate(_rows(text, path_column), start=1):
            if path is None:
                yield Input(f"{text}:{number}", "missing", f"has no {path_column} in this row")
            else:
                yield Input(path, "url" if is_http(path) else "file", path)
    elif is_address(text):
        yield from map(_of_entry, remote_files(text, recursive=options.recursive, stats=stats))
    elif folders.is_glob(text) and text.endswith(".tar"):
        found = map(_of_entry, folders.expand(text))
        none = _of_entry(folders.Entry("", text, error=NO_MATCH))
        yield next(found, none)
        yield from found
    else:
        yield from map(Input.of, iter_sources([text], recursive=options.recursive, stats=stats))


def _of_entry(entry: folders.Entry) -> Input:
    if entry.error:
        kind: ErrorKind = "matched nothing" if entry.error == NO_MATCH else "unreadable"
        return Input(entry.path, kind, entry.error)
    return Input(entry.path, "file", entry.path)


def _absolute(item: Input) -> Input:
    """The same where the folder that a process works in is another one."""
    if item.kind != "file" or is_address(item.where):
        return item
    return item._replace(where=os.path.abspath(item.where))  # noqa: PTH100 - odd bytes


def _rows(manifest: str, column: str) -> Iterator[str | None]:
    """The paths and addresses of a manifest, in order; None where a row has none."""
    import pyarrow as pa
    from pyarrow import csv, dataset

    system, path = opened(manifest)
    kind: Any = "parquet"
    if not manifest.lower().endswith(".parquet"):
        kind = dataset.CsvFileFormat(
            convert_options=csv.ConvertOptions(column_types={column: pa.string()})
        )
    try:
        there = None if system.type_name == "local" else system
        found = dataset.dataset(path, filesystem=there, format=kind)
        names = found.schema.names
        if column not in names:
            have = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise UsageError(
                f"{manifest}: there is no column {column!r} with paths; it has {have}. "
                "Name the column with --path-column."
            )
        for batch in found.to_batches(columns=[column], batch_size=_ROWS):
            for value in batch.column(0).cast(pa.string()).to_pylist():
                yield value or None
    except (OSError, pa.ArrowException) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else one_line(str(error))
        raise UsageError(f"cannot read the list of inputs {manifest}: {reason}") from error


def members(shard: Input, stats: SourceStats) -> Iterator[Input]:
    """The photos of a tar shard, in its order; an error stands where it cannot be read further.

    Every member with a known image extension. Only headers are wanted here: a member lies in the
    shard as it is, so that its place and size are all that a reader needs. Far away a header costs
    as much time as megabytes do: there a shard is read in blocks.
    """
    begun, error = False, ""
    kind: ErrorKind = "damaged"
    try:
        system, path = opened(shard.where)
        raw: Any = system.open_input_file(path)
        end = raw.size()
        with (
            raw if system.type_name == "local" else io.BufferedReader(raw, _BLOCK) as file,
            tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive,
        ):
            while (member := archive.next()) is not None:
                begun = True
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                if not member.isfile():
                    continue
                shown = member.name.rpartition("/")[2]
                if shown.startswith(".") or not is_photo(shown):
                    stats.pass_over(shown)
                    continue
                if member.offset_data + member.size > end:
                    error = _TRUNCATED
                    break
                name = f"{shard.name}/{member.name}"
                yield Input(name, "member", shard.where, member.offset_data, member.size)
            else:
                file.seek(archive.offset)
                # Where a header is damaged or cut, tarfile ends as if that were the end mark.
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    error = _TRUNCATED
    except FileNotFoundError:
        error, kind = "does not exist", "missing"
    except tarfile.TarError as wrong:
        unread = f"is no tar shard that can be read: {one_line(str(wrong))}"
        error = _TRUNCATED if begun else unread
    except OSError as wrong:
        error, kind = f"cannot be read: {one_line(str(wrong))}", "unreadable"
    if error:
        yield Input(shard.name, kind, error)


class OpenShards:
    """Shards that stay open: to open one far away takes as long as to read a photo of it.

    Threads may share it. What it drops, or leaves, is closed when its last reader is done.
    """

    def __init__(self) -> None:
        self._files: dict[str, Any] = {}
        self._lock = Lock()

    def read(self, item: Input) -> bytes:
        """The bytes of a member, fewer where the shard ends before."""
        with self._lock:
            file = self._files.get(item.where)
            if file is None:
                system, path = opened(item.where)
                file = system.open_input_file(path)
                if len(self._files) >= _OPEN:
                    del self._files[next(iter(self._files))]
                self._files[item.where] = file
        return bytes(file.read_at(item.size, item.offset))


def fetched(item: Input, *, offline: bool, shards: OpenShards | None = None) -> bytes | str:
    """The bytes of an input, or the path of a local file that is too large to be held.

    Raises:
        ImageError: it cannot be read; the message goes on after the input's name.
    """
    if item.is_error:
        raise ImageError(item.where, kind=item.source.kind or "other")
    if item.kind == "url":
        from resnest_cli.images.remote import fetch_photo

        return fetch_photo(item.where, offline=offline)
    if item.kind == "file" and item.is_local:
        from resnest_cli.images.decode import read_file

        return read_file(item.where)
    try:
        if item.kind == "member":
            size = _checked(item.size)
            data = (shards or OpenShards()).read(item)
        else:
            system, path = opened(item.where)
            with system.open_input_file(path) as file:
                size = _checked(file.size())
                data = bytes(file.read(size))
    except FileNotFoundError:
        raise ImageError("does not exist", kind="missing") from None
    except ImageError:
        raise
    except (OSError, ResnestError) as error:
        raise ImageError(f"cannot be read: {one_line(str(error))}", kind="unreadable") from error
    if len(data) < size:
        raise ImageError("is truncated: its shard ends before it", kind="truncated")
    return data


def _checked(size: int) -> int:
    if size > _MOST:
        text = f"is larger than a photo can be ({size / 1e9:.1f} GB)"
        raise ImageError(text, kind="too large")
    return size


@dataclass(frozen=True, slots=True)
class PartPhotos:
    """The inputs of a part, each with its bytes or its error, and the seconds of reading them.

    None is left for the worker to read when it comes to it. Bytes are arrays uint8: Ray's processes
    share these, and copy none before its turn.
    """

    inputs: list[Input]
    contents: list[NDArray[Any] | ImageError | None]
    seconds: float = 0.0

    def sources(self, *, offline: bool) -> Iterator[Source]:
        """What there is to decode, one at a time."""
        shards = OpenShards()
        for item, content in zip(self.inputs, self.contents, strict=True):
            found: Any = content
            if content is None and (item.kind == "member" or is_address(item.where)):
                found = _attempted(partial(fetched, item, offline=offline, shards=shards))
            if found is None:
                yield item.source  # read by what decodes it
            elif isinstance(found, ImageError):
                yield Source(item.name, error=str(found), kind=found.kind)
            else:
                yield Source(item.name, data=bytes(found))


def part_photos(inputs: list[Input], *, offline: bool, alone: bool = False) -> PartPhotos:
    """Reads the photos of a part, up to `HELD` bytes, so that Ray's object store can bear them.

    The files of this machine are left where it is the only one (`alone`): their way through the
    store gains nothing.
    """
    begun, held = time.monotonic(), 0
    photos = PartPhotos(inputs, [])
    for item, get in _ahead(inputs, offline):
        found: Any = None
        if held <= HELD and not (alone and item.is_local):
            found = _attempted(get)
        if isinstance(found, bytes):
            held += len(found)
            found = np.frombuffer(found, np.uint8)
        large = isinstance(found, str)  # the path of a file that is not held
        photos.contents.append(None if large else found)
    return replace(photos, seconds=time.monotonic() - begun)


def _attempted(get: Callable[[], bytes | str]) -> bytes | str | ImageError:
    try:
        return get()
    except ImageError as error:
        return error


def _ahead(inputs: list[Input], offline: bool) -> Iterator[tuple[Input, Callable[[], bytes | str]]]:
    """Each input with what gives its bytes; remote ones are fetched before they are asked for."""
    get = partial(fetched, offline=offline, shards=OpenShards())
    if all(item.is_error or item.is_local for item in inputs):
        for item in inputs:
            yield item, partial(get, item)
        return
    with ThreadPoolExecutor(_PHOTOS) as pool:
        for begin in range(0, len(inputs), _PHOTOS):
            group = inputs[begin : begin + _PHOTOS]
            waiting = [pool.submit(get, item) for item in group]
            for item, future in zip(group, waiting, strict=True):
                yield item, future.result
