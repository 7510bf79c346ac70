"""Exact nearest rows, and groups of alike rows, in blocks of matrix products over a mapped matrix.

A block's similarities are computed in float32, where sums depend on the order of their terms, and
with it on the size of blocks and the number of threads. So they only choose candidates: each row
that may be among the nearest, by a bound on the error of such sums that holds for any order. The
candidates' scores are computed again in float64, each on its own, and these alone decide, and are
what comes out. Equal scores stand in the order of the rows. Nothing depends on the block size.

The bound: |fl(x.y) - x.y| <= n u / (1 - n u) * |x| |y| for n terms and u = 2^-24 (Higham, Accuracy
and Stability of Numerical Algorithms, section 3.1).

    cosine      x.y / sqrt(x.x y.y): the larger the nearer; 0 for a row of zeros
    dot         x.y: the larger the nearer
    euclidean   |x - y|: the smaller the nearer

Memory: about 0.3 GB, and 4 bytes for each row; the rows themselves are only mapped. A row that
is not finite matches nothing.
"""

import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnest_cli.cpu import usable_cores
from resnest_cli.progress import Progress, silent

Metric = Literal["cosine", "euclidean", "dot"]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

MOST_QUERIES = 4096  # that are searched for at once
_BLOCK = 2**25  # bytes of a block in float32
_PRODUCTS = 2**24  # similarities of a block
_EXACT = 2**22  # numbers that are computed again at once
_CACHED = 2**17  # numbers of float16 that are made float32 at once
_NO_HALF = 65536.0  # the least that float16 cannot be
_U = 2.0**-24  # of float32
_TINY, _HUGE = 1e-30, 1e30  # sums of squares outside are left to float64
_LOWEST = np.finfo(np.float32).min
_NO_ROW = np.iinfo(np.int64).max


class Neighbours(NamedTuple):
    """The nearest rows of m queries, the nearest first.

    `rows` int64 (m, k) and `scores` float64 (m, k): similarities, or distances for euclidean. In
    place of rows that are not finite, -1 and NaN stand at the end.
    """

    rows: Int64
    scores: Float64


class Block(NamedTuple):
    """Rows from `start` on: float32 (B, d), and their sums of squares float32 (B,).

    The sum is infinite where only float64 will do, and NaN for a row that is not finite.
    """

    start: int
    rows: Float32
    squares: Float32


class _Queries(NamedTuple):
    """Queries (m, d) as given; float32 for products, of length 1 for cosine; norms (m,)."""

    given: NDArray[Any]
    products: Float32
    norms: Float64
    good: NDArray[np.bool_]


class NearestRows:
    """Finds rows (N, d), float16 or float32 and mapped or not, by their nearness in a metric."""

    def __init__(self, rows: NDArray[Any], metric: Metric = "cosine", *, block: int = 0) -> None:
        """`block`: rows of a block, where not as many as are quick."""
        self._rows, self._metric, self._block = rows, metric, block
        self._cores, self._advise = usable_cores(), _Advice(rows)
        self._squares = np.full(len(rows), -1, np.float32)  # below 0: not computed yet
        columns = rows.shape[1]
        terms = columns * _U
        # The sum of products, that of squares (half, for its root), and some single roundings.
        self._error = 1.5 * terms / (1 - terms) + 16 * _U if terms < 0.5 else np.inf

    def search(self, queries: NDArray[Any], k: int, *, without: Int64 | None = None) -> Neighbours:
        """The `k` nearest rows of each of the queries (m, d), or all where there are fewer.

        `without` names a row (m,) for each query that is left out, such as itself.
        """
        found = [
            self._search(queries[at : at + MOST_QUERIES], k,
                         None if without is None else without[at : at + MOST_QUERIES])
            for at in range(0, len(queries), MOST_QUERIES)
        ]  # fmt: skip
        if not found:
            none = np.empty((0, self._width(k, without)))
            return Neighbours(none.astype(np.int64), none)
        return Neighbours(*map(np.concatenate, zip(*found, strict=True)))

    def _search(self, given: NDArray[Any], k: int, without: Int64 | None) -> Neighbours:
        queries, wanted = self._prepared(given), self._width(k, without)
        best = _Best(len(given), wanted + (without is not None and len(self._rows) > 0))
        for block in self._blocks(len(given)):
            products, error = self._products(queries, block)
            floor = best.floor(products, error)
            floor[~queries.good] = np.inf
            which, at = np.nonzero(products >= floor[:, None])
            for part in _parts(len(which), given.shape[1]):
                near = self._exact(given[which[part]], block.rows[at[part]])
                fine = np.isfinite(near)
                best.add(which[part][fine], block.start + at[part][fine], near[fine])
        rows, near = best.rows, best.nearness
        if without is not None:
            rows, near = _left_out(rows, near, without)
        empty = rows == _NO_ROW
        return Neighbours(np.where(empty, -1, rows), np.where(empty, np.nan, self._scores(near)))

    def _width(self, k: int, without: Int64 | None) -> int:
        return max(0, min(k, len(self._rows) - (without is not None)))

    def nearest(self, k: int) -> Iterator[Neighbours]:
        """The `k` nearest other rows of every row, for some thousand rows at a time, in order."""
        for start in range(0, len(self._rows), MOST_QUERIES):
            queries = self._rows[start : start + MOST_QUERIES]
            own = np.arange(start, start + len(queries))
            yield self.search(queries, k, without=own)

    def groups(self, threshold: float, progress: Progress = silent) -> list[Int64]:
        """Rows that are as near as this to another one of their group; see `Features.duplicates`.

        Each group is int64 (n,), in order, as they are by their first rows.
        """
        floor = -(threshold**2) if self._metric == "euclidean" else threshold
        count, size = len(self._rows), self._block_size(MOST_QUERIES)
        parents, done = np.arange(count), 0
        total = sum(min(size, count - start) * (count - start) for start in range(0, count, size))
        for start in range(0, count, size):
            given = self._rows[start : start + size]
            queries = self._prepared(given)
            for block in self._blocks(len(given), start):
                self._join(parents, queries, start, block, floor)
                done += len(given) * len(block.rows)
                progress(count * done // total, count)
        roots = _roots(parents, np.arange(len(parents)))
        order = np.argsort(roots, kind="stable")
        cuts = np.flatnonzero(np.diff(roots[order])) + 1
        return [group for group in np.split(order, cuts) if len(group) > 1]

    def _join(
        self, parents: Int64, queries: _Queries, start: int, block: Block, floor: float
    ) -> None:
        """Joins the groups of rows of a block to those of queries, which are rows from `start`."""
        products, error = self._products(queries, block)
        products[~queries.good] = -np.inf
        step = max(1, _EXACT // 4 // len(block.rows))
        for first in range(0, len(products), step):
            near = products[first : first + step]
            margin = error[first : first + step, None]
            which, at = np.nonzero(near >= floor - margin)
            with np.errstate(invalid="ignore"):
                sure = near[which, at] >= (floor + margin)[which, 0]
            sure &= np.isfinite(near[which, at])
            one, other = start + first + which, block.start + at
            later = one < other
            _unite(parents, one[sure & later], other[sure & later])
            doubtful = np.flatnonzero(~sure & later)
            apart = _roots(parents, one[doubtful]) != _roots(parents, other[doubtful])
            doubtful = doubtful[apart]
            for part in _parts(len(doubtful), block.rows.shape[1]):
                some = doubtful[part]
                exact = self._exact(queries.given[first + which[some]], block.rows[at[some]])
                some = some[exact >= floor]
                _unite(parents, one[some], other[some])

    def score(self, one: int, others: Int64) -> Float64:
        """The score of a row with others (n,): float64 (n,)."""
        found = [
            self._exact(self._rows[[one] * len(others[part])], self._rows[others[part]])
            for part in _parts(len(others), self._rows.shape[1])
        ]
        return self._scores(np.concatenate(found))

    # Nearness: the larger the nearer, for all metrics.

    def _scores(self, near: Float64) -> Float64:
        scores: Float64 = np.sqrt(-near) if self._metric == "euclidean" else near
        return scores

    def _exact(self, one: NDArray[Any], other: NDArray[Any]) -> Float64:
        """Nearness of pairs (n, d) in float64: (n,); the same bits in whatever company."""
        one, other = one.astype(np.float64), other.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            if self._metric == "euclidean":
                one -= other
                distances: Float64 = np.square(one).sum(axis=1)
                return -distances
            dot: Float64 = (one * other).sum(axis=1)
            if self._metric == "dot":
                return dot
            squares = (one * one).sum(axis=1) * (other * other).sum(axis=1)
            lengths = np.sqrt(squares)  # of equal rows, dot itself
            near: Float64 = np.zeros_like(dot)
            np.divide(dot, lengths, out=near, where=squares != 0)
            return np.clip(near, -1, 1, out=near)

    def _prepared(self, given: NDArray[Any]) -> _Queries:
        wide = given.astype(np.float64)  # (m, d)
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
            good = np.isfinite(norms)
            if self._metric == "cosine":
                wide /= np.where(norms > 0, norms, 1)[:, None]
            return _Queries(given, wide.astype(np.float32), norms, good)

    def _products(self, queries: _Queries, block: Block) -> tuple[Float32, Float64]:
        """Nearness float32 (m, B), infinite where float64 must say it; the most it errs (m,)."""
        rows, squares, error = block.rows, block.squares, self._error
        known = np.isfinite(squares)
        longest = float(np.sqrt(squares[known].max())) if known.any() else 0.0
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if len(queries.products) == 1:
                near = (rows @ queries.products[0])[None]  # BLAS has a quicker way for it
            else:
                near = queries.products @ rows.T
            if self._metric == "cosine":
                near *= 1 / np.sqrt(squares)
                most = np.full(len(near), error)
            elif self._metric == "dot":
                most = error * queries.norms * longest
            else:
                near *= 2
                near -= squares
                near -= (queries.norms**2).astype(np.float32)[:, None]
                most = error * (queries.norms + longest) ** 2
            if not np.isfinite(near.sum()):
                near[~np.isfinite(near)] = np.inf
            near[:, np.isinf(squares)] = np.inf
        near[:, np.isnan(squares)] = -np.inf
        return near, most

    def _block_size(self, queries: int) -> int:
        if self._block:
            return self._block
        columns: int = self._rows.shape[1]
        return max(64, min(_BLOCK // (4 * columns), _PRODUCTS // max(1, queries)))

    def _blocks(self, queries: int, first: int = 0) -> Iterator[Block]:
        """All rows from `first` on, while the system reads the next ones from the disk."""
        size = self._block_size(queries)
        with ThreadPoolExecutor(self._cores) as pool:
            for start in range(first, len(self._rows), size):
                self._advise(start + size, start + 2 * size)
                rows = _as_float32(self._rows[start : start + size], pool, self._cores)
                yield Block(start, rows, self._squares_of(start, rows))

    def _squares_of(self, start: int, rows: Float32) -> Float32:
        squares = self._squares[start : start + len(rows)]
        if len(squares) and (squares < 0).any():
            with np.errstate(over="ignore", invalid="ignore"):
                np.einsum("ij,ij->i", rows, rows, out=squares)
            odd = np.flatnonzero(~((squares > _TINY) & (squares < _HUGE)))
            finite = np.isfinite(rows[odd]).all(axis=1)
            squares[odd] = np.where(finite, np.inf, np.nan)
        return squares


class _Best:
    """The best rows of m queries by now: int64 (m, k) and their nearness float64 (m, k)."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.rows = np.full((queries, k), _NO_ROW)
        self.nearness = np.full((queries, k), -np.inf)

    def floor(self, products: Float32, error: Float64) -> Float32:
        """The least product, for each query (m,), of a row that may be among its best."""
        floor = self.nearness[:, -1] - error
        k, size = self._k, products.shape[1]
        many = np.count_nonzero(products >= _below(floor)[:, None], axis=1) > max(2 * k, 32)
        if many.any() and k < size:
            # The k-th largest product of a block is that of a row that comes in, or a nearer one.
            some = products[many]
            some[np.isinf(some)] = -np.inf  # which say nothing
            least = np.partition(some, size - k, axis=1)[:, size - k]
            floor[many] = np.maximum(floor[many], least - 2 * error[many])
        return _below(floor)

    def add(self, which: Int64, rows: Int64, nearness: Float64) -> None:
        """Rows (n,) with their nearness (n,) to the queries of these numbers (n,)."""
        if not len(which):
            return
        touched, k = np.unique(which), self._k
        which = np.concatenate((np.repeat(touched, k), which))
        rows = np.concatenate((self.rows[touched].ravel(), rows))
        nearness = np.concatenate((self.nearness[touched].ravel(), nearness))
        order = np.lexsort((rows, -nearness, which))
        which = which[order]
        first = np.searchsorted(which, touched)
        place = np.arange(len(which)) - np.repeat(first, np.diff(np.append(first, len(which))))
        kept = order[place < k]
        self.rows[touched] = rows[kept].reshape(-1, k)
        self.nearness[touched] = nearness[kept].reshape(-1, k)


class _Advice:
    """Asks the system to read rows of a mapped matrix before they are needed."""

    def __init__(self, rows: NDArray[Any]) -> None:
        found: Any = rows
        while isinstance(found, np.ndarray):
            found = found.base
        self._map = found if hasattr(found, "madvise") and hasattr(mmap, "MADV_WILLNEED") else None
        self._row = rows.shape[1] * rows.itemsize
        if self._map is not None:
            self._start = _address(rows) - _address(np.frombuffer(self._map, np.uint8))

    def __call__(self, start: int, stop: int) -> None:
        """Of these rows, as far as there are such."""
        if self._map is None:
            return
        begin = (self._start + start * self._row) // mmap.PAGESIZE * mmap.PAGESIZE
        end = min(self._start + stop * self._row, len(self._map))
        if begin < end:
            self._map.madvise(mmap.MADV_WILLNEED, begin, end - begin)


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _as_float32(rows: NDArray[Any], pool: ThreadPoolExecutor, cores: int) -> Float32:
    """The rows themselves where they are float32 and aligned, else a copy, made on all cores."""
    if rows.dtype == np.float32 and rows.flags.aligned and rows.flags.c_contiguous:
        return np.asarray(rows)
    made = np.empty(rows.shape, np.float32)
    convert = _widen if rows.dtype == np.float16 else np.copyto
    share, step = max(1, -(-len(rows) // cores)), max(1, _CACHED // rows.shape[1])

    def widen(first: int) -> None:
        end = min(first + share, len(rows))
        for at in range(first, end, step):
            part = slice(at, min(at + step, end))
            convert(made[part], rows[part])

    list(pool.map(widen, range(0, len(rows), share)))
    return made


def _widen(made: Float32, halves: NDArray[np.float16]) -> None:
    """float16 (n, d) -> float32, five times as quick as numpy's: bits are moved.

    The exponent is 112 too small then, which a product sets right, also of numbers near 0.
    """
    bits = made.view(np.int32)
    bits[:] = halves.view(np.int16)
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)  # sign, 5 bits of exponent, fraction
    np.multiply(made, np.float32(2.0**112), out=made)
    if max(made.max(), -made.min()) >= _NO_HALF:
        made[:] = halves  # infinite or no number


def _below(values: Float64) -> Float32:
    """As float32, rounded down; never so low that a row that matches nothing would pass."""
    with np.errstate(over="ignore"):
        lower: Float32 = np.nextafter(values.astype(np.float32), np.float32(-np.inf))
    return np.maximum(lower, _LOWEST)


def _parts(count: int, columns: int) -> Iterator[slice]:
    """Slices of pairs of rows that are computed again at once."""
    size = max(1, _EXACT // columns)
    return (slice(at, at + size) for at in range(0, count, size))


def _left_out(rows: Int64, nearness: Float64, without: Int64) -> tuple[Int64, Float64]:
    """(m, k + 1) without one row of each, or without the last: (m, k)."""
    if not rows.shape[1]:
        return rows, nearness
    own = rows == without[:, None]
    own[~own.any(axis=1), -1] = True
    shape = len(rows), rows.shape[1] - 1
    return rows[~own].reshape(shape), nearness[~own].reshape(shape)


def _roots(parents: Int64, rows: Int64) -> Int64:
    """The first row of the group of each of these rows (n,); makes the ways to them shorter."""
    roots = parents[rows]
    while not np.array_equal(further := parents[roots], roots):
        roots = further
    parents[rows] = roots
    return roots


def _unite(parents: Int64, one: Int64, other: Int64) -> None:
    """Joins the groups of pairs of rows (n,): a root points to a smaller one."""
    while len(one):
        one, other = _roots(parents, one), _roots(parents, other)
        apart = one != other
        one, other = one[apart], other[apart]
        # Of several for the same root one stays; the others come again.
        parents[np.maximum(one, other)] = np.minimum(one, other)
