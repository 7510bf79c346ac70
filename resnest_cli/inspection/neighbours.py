"""The nearest photos: of a few, among others; and of all, which may be copies of each other.

Candidates for copies are the nearest by features, and by a small picture of each. Features see
through crops and colours, pictures through scale and compression; what either finds is looked at
more closely, see `alignment`. Both are unit vectors, compared in blocks of a matrix product; of
each row the nearest are kept, so that memory stays flat: N x k places.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from resnest_cli.inspection.photo_facts import THUMBNAIL
from resnest_cli.progress import Progress, silent

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

NEAREST = 8  # photos by features, and as many by pictures
_AXES = 128  # of features: the directions in which they differ most
_SAMPLE = 8192  # photos that say which those are
_PICTURE = 8  # pixels of a side
_ROWS, _COLUMNS = 1024, 8192  # of a block


def candidates(
    features: Float32,
    thumbnails: NDArray[np.uint8],
    places: Int64,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> Int64:
    """Pairs (P, 2) of photos that may be copies, sorted, the lower place first.

    `features` float32 (N, D) and `thumbnails` uint8 (N, S, S) are of all photos, `places` int64
    (M,) those that are compared, in order. `check` may raise to stop.
    """
    if len(places) < 2:
        return np.zeros((0, 2), np.int64)
    by_features = _principal(features, places)
    pictures, mirrored = _pictures(thumbnails, places)
    found = []
    total = 2 * len(places)
    for done, kinds in ((0, [by_features]), (len(places), [pictures, mirrored])):
        for at in range(0, len(places), _ROWS):
            rows = np.arange(at, min(at + _ROWS, len(places)))
            near = _nearest(kinds[0], kinds, rows)
            pairs = np.stack((np.repeat(rows, near.shape[1]), near.ravel()), axis=1)
            found.append(np.unique(np.sort(pairs, axis=1), axis=0))
            progress(done + int(rows[-1]) + 1, total, title="Looking for copies")
            check()
    every = np.unique(np.concatenate(found), axis=0)
    return np.asarray(places[every[every[:, 0] != every[:, 1]]], np.int64)


def most_alike(
    features: Float32,
    places: Int64,
    among: Int64,
    groups: Int64 | None = None,
    check: Callable[[], None] = lambda: None,
) -> Int64:
    """The photo most like each of `places` int64 (P,), by cosine, of those at the places `among`.

    `features` are float32 (N, D). With `groups` int64 (N,) no photo of the same number counts. A
    photo that none is like stands for itself. `check` may raise to stop.
    """
    found = places.copy()
    best = np.full(len(places), -np.inf, np.float32)
    asked = of_length_1(features[places])
    for part in parts(among if len(places) else among[:0]):
        cosines = asked @ of_length_1(features[part]).T
        if groups is not None:
            cosines[groups[places][:, None] == groups[part]] = -np.inf
        nearest = cosines.argmax(1)
        largest = cosines[np.arange(len(places)), nearest]
        nearer = largest > best
        found[nearer], best[nearer] = part[nearest[nearer]], largest[nearer]
        check()
    return found


def parts(places: Int64) -> Iterator[Int64]:
    """Places in groups of as many rows as are worked on at once."""
    return (places[at : at + _ROWS] for at in range(0, len(places), _ROWS))


def of_length_1(rows: Float32) -> Float32:
    """Rows (N, D), each of length 1; one of zeros, or nearly, stays short."""
    length = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    found: Float32 = rows / np.maximum(length, np.float32(1e-6))
    return found


def _nearest(from_: Float32, kinds: list[Float32], rows: Int64) -> Int64:
    """The places (R, k) of the nearest rows of either of `kinds` to these rows of `from_`."""
    count = len(from_)
    k = min(NEAREST, count - 1)
    best = np.full((len(rows), k), -np.inf, np.float32)
    which = np.tile(rows[:, None], (1, k))
    for at in range(0, count, _COLUMNS):
        block = from_[rows] @ kinds[0][at : at + _COLUMNS].T  # (R, columns)
        for kind in kinds[1:]:
            np.maximum(block, from_[rows] @ kind[at : at + _COLUMNS].T, out=block)
        own = (rows >= at) & (rows < at + block.shape[1])
        block[own, rows[own] - at] = -np.inf
        some = min(k, block.shape[1])
        if at == 0:
            columns = np.argpartition(-block, some - 1, axis=1)[:, :some]
            best[:, :some] = np.take_along_axis(block, columns, axis=1)
            which[:, :some] = columns
        else:
            best, which = _merged(best, which, block, at)
    return which


def _merged(best: Float32, which: Int64, block: Float32, at: int) -> tuple[Float32, Int64]:
    """The best k of each row, of those before and those in a block whose columns begin at `at`."""
    k = best.shape[1]
    nearer = np.flatnonzero(block > best.min(axis=1)[:, None])  # quicker than in two dimensions
    row, column = np.divmod(nearer, block.shape[1])
    if not len(row):
        return best, which
    rows = np.concatenate((np.repeat(np.arange(len(best)), k), row))
    values = np.concatenate((best.ravel(), block[row, column]))
    places = np.concatenate((which.ravel(), column + at))
    order = np.lexsort((places, -values, rows))
    first = np.searchsorted(rows[order], np.arange(len(best)))
    chosen = order[first[:, None] + np.arange(k)]
    return values[chosen], places[chosen]


def _principal(features: Float32, places: Int64) -> Float32:
    """The photos' features along their main directions (M, at most `_AXES`), of length 1.

    Of fewer photos than features along all directions: it is quicker than to find the main ones.
    """
    if len(places) <= features.shape[1]:
        rows = _lengthened(features, places)
        return of_length_1(rows - rows.mean(axis=0))
    step = -(-len(places) // _SAMPLE)
    sample = _lengthened(features, places[::step])
    mean = sample.mean(axis=0)
    _, directions = np.linalg.eigh(np.cov(sample - mean, rowvar=False).astype(np.float32))
    directions = directions[:, -_AXES:]
    found = np.empty((len(places), directions.shape[1]), np.float32)
    for at in range(0, len(places), _ROWS):
        rows = _lengthened(features, places[at : at + _ROWS])
        found[at : at + _ROWS] = of_length_1((rows - mean) @ directions)
    return found


def _lengthened(features: Float32, places: Int64) -> Float32:
    """Rows of a memory map, each of length 1."""
    return of_length_1(np.asarray(features[places], np.float32))


def _pictures(thumbnails: NDArray[np.uint8], places: Int64) -> tuple[Float32, Float32]:
    """Small pictures of the photos (M, `_PICTURE`²), and of their mirror images, of length 1."""
    side = THUMBNAIL // _PICTURE
    found = np.empty((2, len(places), _PICTURE**2), np.float32)
    for at in range(0, len(places), _ROWS):
        grey = thumbnails[places[at : at + _ROWS]].astype(np.float32)
        small = grey.reshape(len(grey), _PICTURE, side, _PICTURE, side).mean((2, 4))
        for way, picture in enumerate((small, small[..., ::-1])):
            flat = picture.reshape(len(grey), -1)
            found[way, at : at + _ROWS] = of_length_1(flat - flat.mean(axis=1, keepdims=True))
    return found[0], found[1]
