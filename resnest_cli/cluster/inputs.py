"""What the command line names -> inputs, one at a time, wherever they lie.

Paths on this machine mean what they mean to the local runner; see `images.sources`. In addition: an
address of any file system of pyarrow or fsspec stands for a file, a folder or a glob there, a .tar
for the photos in it, a .parquet or .csv for the files that its path column lists. What a list or a
manifest holds is a photo or a shard, taken literally; only a folder on this machine is read.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from resnest_cli.cluster.filesystems import is_address
from resnest_cli.cluster.manifests import SUFFIXES, listed
from resnest_cli.cluster.shards import members
from resnest_cli.cluster.walking import remote_files
from resnest_cli.errors import UsageError
from resnest_cli.images import folders
from resnest_cli.images.sources import Source, SourceStats, is_url, iter_sources
from resnest_cli.inference.run_options import RunOptions

Kind = Literal["file", "url", "member", "error"]


class Input(NamedTuple):
    """One input. `where` is an absolute path or an address, or the text of an `error`.

    `offset` and `size`, in bytes, are those of a `member` of a shard.
    """

    name: str
    kind: Kind
    where: str
    offset: int = 0
    size: int = 0


def iter_inputs(options: RunOptions, path_column: str, stats: SourceStats) -> Iterator[Input]:
    """The inputs that the options name, in order.

    Raises:
        UsageError: a list cannot be read, or a photo on stdin is asked for.
    """
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
        yield from _literal(found, stats)


def _named(text: str, options: RunOptions, path_column: str, stats: SourceStats) -> Iterator[Input]:
    if text.lower().endswith(SUFFIXES) and not is_url(text) and not folders.is_folder(text):
        yield from _from_manifest(text, path_column, stats)
    elif is_address(text):
        for found in remote_files(text, recursive=options.recursive, stats=stats):
            if found.error:
                yield Input(found.address, "error", found.error)
            else:
                yield from _file(found.address, found.address, stats)
    elif folders.is_glob(text) and text.endswith(".tar"):
        yield from _shards(text, stats)
    else:
        yield from _literal(iter_sources([text], recursive=options.recursive, stats=stats), stats)


def _from_manifest(manifest: str, column: str, stats: SourceStats) -> Iterator[Input]:
    for number, path in enumerate(listed(manifest, column), start=1):
        if path is None:
            yield Input(f"{manifest}:{number}", "error", f"has no {column} in this row")
        elif is_url(path):
            yield Input(path, "url", path)
        else:
            yield from _file(path, path, stats)


def _shards(pattern: str, stats: SourceStats) -> Iterator[Input]:
    found = False
    for entry in folders.expand(pattern):
        found = True
        if entry.error:
            yield Input(entry.path, "error", entry.error)
        else:
            yield from _file(entry.path, entry.path, stats)
    if not found:
        yield Input(pattern, "error", "is a pattern that matches no file")


def _literal(sources: Iterable[Source], stats: SourceStats) -> Iterator[Input]:
    for source in sources:
        if source.error is not None:
            yield Input(source.name, "error", source.error)
        elif source.url is not None:
            yield Input(source.name, "url", source.url)
        else:
            assert source.path is not None
            yield from _file(source.name, source.path, stats)


def _file(name: str, path: str, stats: SourceStats) -> Iterator[Input]:
    where = path if is_address(path) else os.path.abspath(path)  # noqa: PTH100 - odd bytes
    if not path.endswith(".tar"):
        yield Input(name, "file", where)
        return
    for member in members(where, stats):
        if member.error is not None:
            yield Input(name, "error", member.error)
        else:
            yield Input(f"{name}/{member.name}", "member", where, member.offset, member.size)
