"""What the command line names -> inputs, one at a time, wherever they lie.

Paths on this machine mean what they mean to the local runner; see `images.sources`. In addition: an
address of any file system of pyarrow or fsspec stands for a file, a folder or a glob there, a .tar
for the photos in it, a .parquet or .csv for the files that its path column lists. What a list or a
manifest holds is a photo or a shard, taken literally; only a folder on this machine is read.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple

from resnest_cli.cluster.filesystems import is_address
from resnest_cli.cluster.manifests import SUFFIXES, listed
from resnest_cli.cluster.shards import Member, members
from resnest_cli.cluster.walking import remote_files
from resnest_cli.errors import UsageError
from resnest_cli.images import folders
from resnest_cli.images.sources import Source, SourceStats, is_url, iter_sources
from resnest_cli.options import RunOptions

Kind = Literal["file", "url", "member", "error"]

_AT_ONCE = 8  # shards that are looked into by threads

Looked = tuple[list[Member], int]  # the photos of a shard, and how many other files it has


class Looking(NamedTuple):
    """What looks into shards elsewhere, by their address, and into how many at a time."""

    begin: "Callable[[str], Future[Looked]]"
    at_once: int


class Input(NamedTuple):
    """One input. `where` is an absolute path or an address, or the text of an `error`.

    `offset` and `size`, in bytes, are those of a `member` of a shard.
    """

    name: str
    kind: Kind
    where: str
    offset: int = 0
    size: int = 0


def iter_inputs(
    options: RunOptions, path_column: str, stats: SourceStats, looking: Looking | None = None
) -> Iterator[Input]:
    """The inputs that the options name, in order. Without `looking` threads look into shards.

    Raises:
        UsageError: a list cannot be read, or a photo on stdin is asked for.
    """
    files = _files(options, path_column, stats)
    if looking is not None:
        yield from _with_members(files, stats, looking)
        return
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        looking = Looking(lambda shard: pool.submit(looked_into, shard), _AT_ONCE)
        yield from _with_members(files, stats, looking)
    finally:
        pool.shutdown(cancel_futures=True)


def looked_into(shard: str) -> Looked:
    """The photos of a shard, by its path or address, and how many other files were passed over."""
    stats = SourceStats()
    return list(members(shard, stats)), stats.skipped


def _files(options: RunOptions, path_column: str, stats: SourceStats) -> Iterator[Input]:
    """The inputs, shards as they are."""
    for text in options.inputs:
        if text == "-":
            raise UsageError("a photo on standard input (-) is for --runner local.")
        yield from _named(text, options, path_column, stats)
    if options.from_file is not None:
        found = iter_sources(
            (),
            recursive=options.recursive,
            from_file=options.from_file,
            null_separated=options.null_separated,
            stats=stats,
        )
        yield from _literal(found)


def _named(text: str, options: RunOptions, path_column: str, stats: SourceStats) -> Iterator[Input]:
    if text.lower().endswith(SUFFIXES) and not is_url(text) and not folders.is_folder(text):
        yield from _from_manifest(text, path_column)
    elif is_address(text):
        for found in remote_files(text, recursive=options.recursive, stats=stats):
            if found.error:
                yield Input(found.address, "error", found.error)
            else:
                yield _file(found.address, found.address)
    elif folders.is_glob(text) and text.endswith(".tar"):
        yield from _shards(text)
    else:
        yield from _literal(iter_sources([text], recursive=options.recursive, stats=stats))


def _from_manifest(manifest: str, column: str) -> Iterator[Input]:
    for number, path in enumerate(listed(manifest, column), start=1):
        if path is None:
            yield Input(f"{manifest}:{number}", "error", f"has no {column} in this row")
        elif is_url(path):
            yield Input(path, "url", path)
        else:
            yield _file(path, path)


def _shards(pattern: str) -> Iterator[Input]:
    found = False
    for entry in folders.expand(pattern):
        found = True
        if entry.error:
            yield Input(entry.path, "error", entry.error)
        else:
            yield _file(entry.path, entry.path)
    if not found:
        yield Input(pattern, "error", "is a pattern that matches no file")


def _literal(sources: Iterable[Source]) -> Iterator[Input]:
    for source in sources:
        if source.error is not None:
            yield Input(source.name, "error", source.error)
        elif source.url is not None:
            yield Input(source.name, "url", source.url)
        else:
            assert source.path is not None
            yield _file(source.name, source.path)


def _file(name: str, path: str) -> Input:
    where = path if is_address(path) else os.path.abspath(path)  # noqa: PTH100 - odd bytes
    return Input(name, "file", where)


def _with_members(files: Iterable[Input], stats: SourceStats, looking: Looking) -> Iterator[Input]:
    """The same inputs, the photos of a shard in its place.

    Some shards are looked into ahead: one far away answers slowly.
    """
    waiting: deque[tuple[Input, Future[Looked] | None]] = deque()
    for item in files:
        shard = item.kind == "file" and item.where.endswith(".tar")
        waiting.append((item, looking.begin(item.where) if shard else None))
        while waiting and (waiting[0][1] is None or len(waiting) > looking.at_once):
            yield from _inputs_of(*waiting.popleft(), stats)
    while waiting:
        yield from _inputs_of(*waiting.popleft(), stats)


def _inputs_of(item: Input, looked: Future[Looked] | None, stats: SourceStats) -> Iterator[Input]:
    if looked is None:
        yield item
        return
    found, skipped = looked.result()
    stats.skipped += skipped
    for member in found:
        if member.error is not None:
            yield Input(item.name, "error", member.error)
        else:
            name = f"{item.name}/{member.name}"
            yield Input(name, "member", item.where, member.offset, member.size)
