"""The inputs of a job: listed in order, hashed by name; `parts` writes them down.

A running SHA-256 over the names of all inputs (each with its length in front) says which list an
output was made of. Names only: whether a photo of the same name has been replaced is a question of
sizes and times; see `photo_stat`.
"""

import hashlib
import io
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, TypeVar

from resnest_cli.errors import ErrorKind, UsageError
from resnest_cli.images.inputs import listed
from resnest_cli.images.sources import Source, SourceStats, iter_sources
from resnest_cli.images.video import Moment
from resnest_cli.options import MAX_PIXELS, RunOptions
from resnest_cli.paths import is_address

# "error" stands in listings of earlier versions.
Kind = Literal["file", "url", "member", "archived", "frame", "moment", "stdin", "error"] | ErrorKind

_ON_DISK = ("file", "archived", "frame", "moment")  # in a file at `where`
STAT = struct.Struct("<qq")  # of an input: its file's size and modification time in ns
STAT_BYTES = STAT.size
NO_STAT = STAT.pack(-1, -1)
_HELD = 2**24  # bytes of stdin that are held in memory; more goes to a temporary file
_BUFFER = 2**20


class Input(NamedTuple):
    """One input. `where` is a path or an address, or the text of an error of this kind.

    `offset` and `size`, in bytes, are those of a `member` of a shard. Of a photo that is `archived`
    at `where`, the place of its header, and the number of its frame if it is one; of a `frame` of a
    file its index; of a `moment` of a video the two numbers of that.
    """

    name: str
    kind: Kind
    where: str
    offset: int = 0
    size: int = 0

    @classmethod
    def of(cls, source: Source) -> "Input":
        """What is written down of a source."""
        if source.error is not None:
            return cls(source.name, source.kind or "other", source.error)
        if source.data is not None:
            return cls(source.name, "stdin", "")
        if source.url is not None:
            return cls(source.name, "url", source.url)
        path, frame = source.path or "", source.frame
        if source.member is not None:
            number = frame + 1 if isinstance(frame, int) else 0
            return cls(source.name, "archived", path, source.member, number)
        if isinstance(frame, Moment):
            return cls(source.name, "moment", path, *frame)
        return cls(source.name, "file" if frame is None else "frame", path, frame or 0)

    @property
    def source(self) -> Source:
        """What there is to decode of a file of this machine or a URL, or the error."""
        if self.kind == "url":
            return Source(self.name, url=self.where)
        if self.kind == "file":
            return Source(self.name, path=self.where)
        if self.kind == "archived":
            frame = self.size - 1 if self.size else None
            return Source(self.name, path=self.where, member=self.offset, frame=frame)
        if self.kind == "frame":
            return Source(self.name, path=self.where, frame=self.offset)
        if self.kind == "moment":
            return Source(self.name, path=self.where, frame=Moment(self.offset, self.size))
        kind: Any = "other" if self.kind == "error" else self.kind
        return Source(self.name, error=self.where, kind=kind)

    @property
    def is_error(self) -> bool:
        """Whether there is nothing to read."""
        return self.kind not in {*_ON_DISK, "url", "member", "stdin"}

    @property
    def is_local(self) -> bool:
        """Whether its bytes lie in a file of this machine."""
        return self.kind in {*_ON_DISK, "member"} and not is_address(self.where)


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a list: how many inputs it has, and the hash over their names."""

    inputs: int
    sha256: str


def encoded(text: str) -> bytes:
    """The bytes of a name as the file system has them; lone surrogates of any kind get through."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def escaped(name: str) -> str:
    """A name as columns of text have it: bytes that are no UTF-8 as \\xe9."""
    return encoded(name).decode("utf-8", "backslashreplace")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)
K = TypeVar("K")  # what is known of an input


class Chain:
    """Counts inputs that pass through, and takes the hash over their names."""

    def __init__(self) -> None:
        self._hash, self.count = hashlib.sha256(), 0

    def add(self, name: str) -> None:
        """One more input."""
        data = encoded(name)
        self._hash.update(len(data).to_bytes(8, "little") + data)
        self.count += 1

    def __call__(self, inputs: Iterable[N]) -> Iterator[N]:
        """The same inputs."""
        for item in inputs:
            self.add(item.name)
            yield item

    @property
    def mark(self) -> Mark:
        """What has passed through by now."""
        return Mark(self.count, self._hash.hexdigest())


@dataclass(frozen=True, slots=True)
class ListShard:
    """One of `count` parts of the list: the batches b, counted from 0, with b % count == index - 1.

    So a shard's batches are those of the whole run, and its rows have the same bits; no shard needs
    to know how long the list is, and `merge` restores the order with one batch of each in memory.
    """

    index: int  # from 1
    count: int

    def owns(self, batch: int) -> bool:
        """Whether this batch of the whole list, from 0, is ours."""
        return batch % self.count == self.index - 1

    def size(self, total: int, batch_size: int) -> int:
        """How many of a list of `total` inputs are ours."""
        whole, rest = divmod(total, batch_size)
        own = (whole - self.index) // self.count + 1 if whole >= self.index else 0
        return own * batch_size + (rest if self.owns(whole) else 0)

    def own(self, inputs: Iterable[N], batch_size: int) -> Iterator[N]:
        """Those of a whole list that are ours."""
        return (item for i, item in enumerate(inputs) if self.owns(i // batch_size))


WHOLE = ListShard(1, 1)


class LocalInputs:
    """What the command line names on this machine; stdin, which a pipe gives once, is kept."""

    def __init__(self, options: RunOptions, max_pixels: int = MAX_PIXELS) -> None:
        self._options, self._max_pixels = options, max_pixels
        self._stdin: BinaryIO | None = None

    def __call__(self, stats: SourceStats) -> Iterator[Input]:
        """The inputs in order, from the first; UsageError where a list cannot be read."""
        wanted = "-" in (*self._options.inputs, self._options.from_file)
        stdin = self._from_start() if wanted else None
        yield from map(Input.of, listed(self._options, stats, stdin, max_pixels=self._max_pixels))

    def close(self) -> None:
        """Lets go of what came on stdin."""
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None

    def source(self, item: Input) -> Source:
        """What there is to decode of an input."""
        if item.kind != "stdin":
            return item.source
        stdin = self._from_start()
        photo = iter_sources(["-"], stdin=stdin or io.BytesIO())
        return next(photo)

    def _from_start(self) -> BinaryIO | None:
        """What came on stdin; None where there is none."""
        if self._stdin is None:
            stream = getattr(sys.stdin, "buffer", None)
            if stream is None:
                return None
            spool: Any = tempfile.SpooledTemporaryFile(_HELD)  # noqa: SIM115 - lives as long as we
            try:
                while chunk := stream.read(_BUFFER):
                    spool.write(chunk)
            except (OSError, ValueError):
                spool.close()
                return stream  # type: ignore[no-any-return]  # who reads it says why it cannot be
            self._stdin = spool
        assert self._stdin is not None
        self._stdin.seek(0)
        return self._stdin


def photo_stat(item: Input) -> bytes:
    """Size and time of the file that an input lies in; -1 where it has none."""
    if item.kind not in _ON_DISK or is_address(item.where):
        return NO_STAT
    try:
        found = os.stat(item.where)  # noqa: PTH116 - keeps odd bytes
    except (OSError, ValueError):
        return NO_STAT
    return STAT.pack(found.st_size, found.st_mtime_ns)


def check_same_list(
    target: object, inputs: Iterable[Input], names: Iterable[str], mark: Mark, chain: Chain
) -> None:
    """Whether `inputs` have these names; `chain`, which all inputs pass, must come to the mark.

    Some outputs have the names with odd bytes escaped: so they are compared; the mark is exact.

    Raises:
        UsageError: it is another list; says where it differs.
    """
    for _ in side_by_side(target, inputs, names):
        pass
    if chain.mark != mark:
        raise _different(target, "they differ where other shards read, or in odd bytes")


def side_by_side(
    target: object, inputs: Iterable[Input], known: Iterable[K], name: Callable[[K], str] = str
) -> Iterator[tuple[Input, K]]:
    """Each input with what is known of it, which had this `name`; UsageError where they differ."""
    for number, (item, one) in enumerate(zip_longest(inputs, known), start=1):
        if one is None:
            raise _different(target, f"input {number} is new: {item.name!r}")
        if item is None:
            raise _different(target, f"{name(one)!r} is missing after input {number - 1}")
        if escaped(name(one)) != escaped(item.name):
            raise _different(target, f"input {number} was {name(one)!r} and is {item.name!r}")
        yield item, one


def _different(target: object, what: str) -> UsageError:
    return UsageError(
        f"the inputs are not those that {target} was begun with: {what}. Name the same ones, "
        "another -o, or --overwrite to start afresh."
    )
