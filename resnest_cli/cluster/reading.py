"""Ray Data's source: a part -> one row with the bytes of its photos.

A read task takes the names of a part from the listing and reads the photos, several at once where
they do not lie on this machine. What is beyond `HELD` bytes of a part is left for the worker to
read when it comes to it, so that a row has a size that the object store can bear. So are the files
of this machine where it is the only one (`alone`): their way through the store gains nothing.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from resnest_cli.cluster.filesystems import is_address, opened
from resnest_cli.cluster.inputs import Input
from resnest_cli.cluster.listing import read_part
from resnest_cli.errors import ImageError, ResnestError, one_line

if TYPE_CHECKING:
    from ray.data import Datasource

HELD = 96 * 2**20
_AT_ONCE = 16  # remote photos
_OPEN = 16  # shards
_MOST = 2**30  # bytes of a photo; decoding refuses more


class OpenShards:
    """Shards that stay open: to open one far away takes as long as to read a photo of it.

    Threads may share it. What it drops, or leaves, is closed when its last reader is done.
    """

    def __init__(self) -> None:
        self._files: dict[str, Any] = {}
        self._lock = Lock()

    def read(self, item: Input) -> bytes:
        """The bytes of a member, fewer where the shard ends before.

        Raises:
            OSError: the shard cannot be read.
            ResnestError: its file system cannot be reached.
        """
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
    if item.kind == "error":
        raise ImageError(item.where)
    if item.kind == "url":
        from resnest_cli.images.remote import fetch_photo

        return fetch_photo(item.where, offline=offline)
    if item.kind == "file" and not is_address(item.where):
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
        raise ImageError("does not exist") from None
    except (OSError, ResnestError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot be read: {one_line(str(error))}") from error
    if len(data) < size:
        raise ImageError("is truncated: its shard ends before it")
    return data


def _checked(size: int) -> int:
    if size > _MOST:
        raise ImageError(f"is larger than a photo can be ({size / 1e9:.1f} GB)")
    return size


def part_row(output: str, part: int, *, offline: bool, alone: bool = False) -> Any:
    """The row of a part as a table: its number, and for each input name, bytes, error, or what is
    left to be read; and the seconds that it took. See the module for `alone`.

    Raises:
        OSError: the listing cannot be read.
    """
    import pyarrow as pa

    begun = time.monotonic()
    inputs = read_part(*opened(output), part)
    data: list[bytes | None] = []
    errors: list[str | None] = []
    left: list[str | None] = []
    held = 0
    for item, get in _ahead(inputs, offline):
        content, error, later = None, None, None
        if held > HELD or (alone and _is_local(item)):
            later = json.dumps(item)
        else:
            try:
                found = get()
                if isinstance(found, str):
                    later = json.dumps(item)
                else:
                    content, held = found, held + len(found)
            except ImageError as problem:
                error = str(problem)
        data.append(content)
        errors.append(error)
        left.append(later)
    names = [json.dumps(item.name) for item in inputs]
    return pa.table(
        {
            "part": pa.array([part], pa.int64()),
            "names": pa.array([names], pa.list_(pa.string())),
            "data": pa.array([data], pa.list_(pa.large_binary())),
            "errors": pa.array([errors], pa.list_(pa.string())),
            "left": pa.array([left], pa.list_(pa.string())),
            "seconds": pa.array([time.monotonic() - begun], pa.float64()),
        }
    )


def _ahead(inputs: list[Input], offline: bool) -> Iterator[tuple[Input, Callable[[], bytes | str]]]:
    """Each input with what gives its bytes; remote ones are fetched before they are asked for."""
    get = partial(fetched, offline=offline, shards=OpenShards())
    if all(item.kind == "error" or _is_local(item) for item in inputs):
        for item in inputs:
            yield item, partial(get, item)
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for begin in range(0, len(inputs), _AT_ONCE):
            group = inputs[begin : begin + _AT_ONCE]
            waiting = [pool.submit(get, item) for item in group]
            for item, future in zip(group, waiting, strict=True):
                yield item, future.result


def _is_local(item: Input) -> bool:
    return item.kind in {"file", "member"} and not is_address(item.where)


def source(
    output: str, parts: list[int], tasks: int, *, offline: bool, alone: bool
) -> "Datasource":
    """A source of Ray Data that reads these parts, in at most so many tasks."""
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    class Parts(Datasource):
        """Rows of `part_row`."""

        def get_name(self) -> str:
            return "Photos"

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
            each = -(-len(parts) // tasks)
            groups = [parts[at : at + each] for at in range(0, len(parts), each)]
            read = partial(part_row, output, offline=offline, alone=alone)
            return [ReadTask(_reader(read, g), _metadata(len(g))) for g in groups]

    def _metadata(rows: int) -> Any:
        return BlockMetadata(num_rows=rows, size_bytes=None, input_files=None, exec_stats=None)

    return Parts()  # type: ignore[no-untyped-call]


def _reader(read: Callable[[int], Any], parts: list[int]) -> Callable[[], Iterator[Any]]:
    return lambda: map(read, parts)
