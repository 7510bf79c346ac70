"""The photos of shards in the order of an epoch, read ahead by a thread.

The next window is read while the current one is used: two windows of encoded photos are in memory,
each of 256 MiB at most. Within a window shards are read from one end to the other, so that a disk,
or a server, is asked for long stretches. See `shard_order`.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import BinaryIO

from resnest_cli.shards.fetching import Files
from resnest_cli.shards.index import Shard, photos
from resnest_cli.shards.reading import RawPhoto, read_photos
from resnest_cli.training.shard_order import Section, Stream, Stretch, window_photos, windows


class _Reader:
    """Reads stretches of shards, one after the other, each shard once; to be closed.

    `stretches` are all that will be read, in order.
    """

    def __init__(self, shards: Sequence[Shard], stretches: Sequence[Stretch], classes: int) -> None:
        self._shards, self._classes = shards, classes
        self._order = list(dict.fromkeys(stretch.shard for stretch in stretches))
        self._files = Files([shards[index] for index in self._order])
        self._stop = threading.Event()
        self._open = ExitStack()
        self._place = -1  # in the order
        self._at = 0  # photos of the shard that were read
        self._photos: Iterator[RawPhoto] = iter(())

    def read(self, stretches: Sequence[Stretch]) -> list[tuple[int, RawPhoto]]:
        """Their photos, each with its number in its shard."""
        found = []
        for shard, first, last in stretches:
            if self._place < 0 or self._order[self._place] != shard:
                self._begin()
            for number, photo in enumerate(
                islice(self._photos, first - self._at, last - self._at), start=first
            ):
                if self._stop.is_set():
                    return []
                found.append((number, photo))
            self._at = last
            if last == self._shards[shard].photos:
                next(self._photos, None)  # tells a shard that has more
        return found

    def _begin(self) -> None:
        self._open.close()
        self._place, self._at = self._place + 1, 0
        file: BinaryIO = self._open.enter_context(self._files.open(self._place))
        self._photos = read_photos(self._shards[self._order[self._place]], file, self._classes)

    def stop(self) -> None:
        """Ends a `read` in another thread soon."""
        self._stop.set()
        self._files.give_up()

    def close(self) -> None:
        """Closes the shards."""
        self._photos = iter(())
        self._open.close()
        self._files.close()


class ShardStream:
    """The shards of a side, laid end to end in an order; knows each one's number of photos.

    `classes` is how many there are.
    """

    def __init__(self, shards: Sequence[Shard], classes: int) -> None:
        self.shards, self.classes = shards, classes
        self.counts = [shard.photos for shard in shards]
        self.photos = photos(shards)
        self.window = window_photos(self.photos, sum(shard.size for shard in shards))
        self._first = [0]
        for count in self.counts:
            self._first.append(self._first[-1] + count)

    def entries(
        self,
        order: Sequence[int],
        section: Section,
        *,
        start: int = 0,
        shuffle: Callable[[int, int], Sequence[int]] | None = None,
    ) -> Generator[tuple[int, RawPhoto], None, None]:
        """Index and photo of a section, from its photo `start` on.

        `shuffle` gives the order of a window, from its number of photos and its place.
        """
        stream = Stream(self.counts, order)
        parts = [(at, list(stream.stretches(at, end))) for _, at, end in windows(section, start)]
        reader = _Reader(self.shards, [one for _, part in parts for one in part], self.classes)
        skipped = start % section.window
        pool = ThreadPoolExecutor(1, thread_name_prefix="shards")
        try:
            coming: Future[list[tuple[int, RawPhoto]]] | None = None
            for number, (at, part) in enumerate(parts):
                found = (coming or pool.submit(reader.read, part)).result()
                coming = None
                if number + 1 < len(parts):
                    coming = pool.submit(reader.read, parts[number + 1][1])
                firsts = [
                    self._first[one.shard] for one in part for _ in range(one.last - one.first)
                ]
                places = range(len(found)) if shuffle is None else shuffle(len(found), at)
                for place in places[skipped:]:
                    inside, photo = found[place]
                    yield firsts[place] + inside, photo
                skipped = 0
        finally:
            reader.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            reader.close()
