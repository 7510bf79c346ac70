"""A WebDataset tar shard -> its photos: every member with a known image extension.

Only headers are wanted here. A member lies in the shard as it is, so that its place and size are
all that a reader needs. Far away a header costs as much time as megabytes do: there a shard is read
in blocks. The name of an input is `shard.tar/member`.
"""

import io
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from resnest_cli.cluster.filesystems import opened
from resnest_cli.cluster.walking import is_photo
from resnest_cli.errors import one_line
from resnest_cli.images.sources import SourceStats

_BLOCK = 4 * 2**20
_TRUNCATED = "is a tar shard that is truncated or damaged: more photos may have been in it"


class Member(NamedTuple):
    """A photo in a shard, by its place in bytes; or, without a name, what is wrong."""

    name: str
    offset: int = 0
    size: int = 0
    error: str | None = None


def members(shard: str, stats: SourceStats) -> Iterator[Member]:
    """The photos of a shard, in its order; an error stands where it cannot be read further."""
    begun = False
    try:
        system, path = opened(shard)
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
                if not is_photo(member.name.rpartition("/")[2]):
                    stats.skipped += 1
                    continue
                if member.offset_data + member.size > end:
                    yield Member("", error=_TRUNCATED)
                    return
                yield Member(member.name, member.offset_data, member.size)
            file.seek(archive.offset)
            # Where a header is damaged or cut, tarfile ends as if that were the end mark.
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                yield Member("", error=_TRUNCATED)
    except FileNotFoundError:
        yield Member("", error="does not exist")
    except tarfile.TarError as error:
        wrong = f"is no tar shard that can be read: {one_line(str(error))}"
        yield Member("", error=_TRUNCATED if begun else wrong)
    except OSError as error:
        yield Member("", error=f"cannot be read: {one_line(str(error))}")
