"""Nearest rows and groups against a brute force in float64, whatever the blocks."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from resnest_cli.search.nearest import NearestRows, _widen
from tests.search.outputs import brute_force, components, nearness

METRICS = ["cosine", "euclidean", "dot"]


def rows_with_ties(dtype: str, columns: int = 37) -> np.ndarray:
    """200 rows: some equal, opposite, of zeros, and in float32 of sizes that overflow or vanish."""
    rows = np.random.default_rng(columns).normal(size=(200, columns)).astype(dtype)
    rows[50], rows[120:140], rows[70] = rows[10], rows[5], -rows[6]
    rows[77] = rows[78] = 0
    if dtype == "float32":
        rows[88], rows[99], rows[101] = rows[0] * 1e25, rows[0] * 1e-25, rows[3] * 1e-38
    return rows


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("columns", [1, 37, 2048])
def test_exact_whatever_the_blocks(metric: str, dtype: str, columns: int) -> None:
    rows = rows_with_ties(dtype, columns)
    queries = np.concatenate([rows[[5, 6, 10, 77]], rows_with_ties(dtype, columns)[::11] + 1])
    wanted, scores = brute_force(queries, rows, 9, metric)
    for block in (0, 1, 7, 64, 1000):
        for count in (1, len(queries)):
            found = NearestRows(rows, metric, block=block).search(queries[:count], 9)
            assert np.array_equal(found.rows, wanted[:count])
            assert np.array_equal(found.scores, scores[:count])


@pytest.mark.parametrize("metric", METRICS)
def test_near_ties_are_not_left_to_float32(metric: str) -> None:
    """A thousand rows that differ in the last bits of float32: its sums cannot rank them."""
    rng = np.random.default_rng(0)
    query = rng.uniform(1, 2, 2048).astype(np.float32)
    noise = rng.integers(-2, 3, (1000, 2048)).astype(np.float32) * np.float32(2**-23)
    rows = query + noise
    wanted, _ = brute_force(query[None], rows, 20, metric)
    sloppy = np.argsort(-(rows @ query))[:20]
    assert metric != "dot" or not np.array_equal(sloppy, wanted[0])
    for block in (0, 33):
        assert np.array_equal(NearestRows(rows, metric, block=block).search(query[None], 20).rows,
                              wanted)  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
def test_every_row_but_itself(metric: str) -> None:
    rows = rows_with_ties("float32")
    wanted, scores = brute_force(rows, rows, len(rows), metric)
    (found,) = NearestRows(rows, metric, block=17).nearest(4)
    for row in range(len(rows)):
        others = wanted[row] != row
        assert np.array_equal(found.rows[row], wanted[row][others][:4])
        assert np.array_equal(found.scores[row], scores[row][others][:4])


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_not_finite_matches_nothing(metric: str) -> None:
    rows = rows_with_ties("float32")
    rows[3, 2], rows[4, 0], rows[9] = np.nan, np.inf, -np.inf
    fine = np.flatnonzero(np.isfinite(rows).all(1))
    queries = np.stack([rows[0], rows[3], rows[5], rows[4]])
    found = NearestRows(rows, metric, block=50).search(queries, 200)
    wanted, scores = brute_force(queries[[0, 2]], rows[fine], 200, metric)
    assert np.array_equal(found.rows[[0, 2], : len(fine)], fine[wanted])
    assert np.array_equal(found.scores[[0, 2], : len(fine)], scores)
    assert (found.rows[:, len(fine) :] == -1).all()
    assert (found.rows[[1, 3]] == -1).all()
    assert np.isnan(found.scores[[1, 3]]).all()
    groups = NearestRows(rows, "cosine", block=50).groups(-1)
    zeros_too = [row for row in fine if row not in {77, 78}]
    assert [group.tolist() for group in groups] == [sorted([*zeros_too, 77, 78])]


def test_equal_rows_have_a_cosine_of_exactly_one() -> None:
    rows = np.random.default_rng(0).normal(size=(70, 2048)).astype(np.float32).repeat(2, axis=0)
    (found,) = NearestRows(rows).nearest(1)
    assert np.array_equal(found.scores, np.ones((140, 1)))
    assert np.array_equal(found.rows[:, 0] ^ 1, np.arange(140))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("metric", "threshold"),
    [("cosine", 0.5), ("cosine", 1.0), ("cosine", 0.2), ("cosine", -0.1), ("euclidean", 0.0),
     ("euclidean", 6.5)],
)  # fmt: skip
def test_groups_are_connected_components(dtype: str, metric: str, threshold: float) -> None:
    rows = rows_with_ties(dtype)
    least = -(threshold**2) if metric == "euclidean" else threshold
    wanted = components(nearness(rows, rows, metric) >= least)
    assert wanted
    for block in (0, 7, 64):
        found = NearestRows(rows, metric, block=block).groups(threshold)
        assert [group.tolist() for group in found] == wanted


def test_groups_at_a_threshold_that_float32_cannot_tell() -> None:
    rng = np.random.default_rng(1)
    base = rng.uniform(1, 2, 512).astype(np.float32)
    noise = rng.integers(-1, 2, (300, 512)).astype(np.float32) * np.float32(2**-12)
    rows = base + noise
    near = nearness(rows, rows, "cosine")
    pairs = near[np.triu_indices(300, 1)]
    threshold = float(np.sort(pairs)[-50])  # fifty pairs are as near as that, all but equal
    wanted = components(near >= threshold)
    found = NearestRows(rows, block=40).groups(threshold)
    assert [group.tolist() for group in found] == wanted


def test_fewer_rows_than_neighbours_and_none_at_all() -> None:
    rows = rows_with_ties("float32")[:3]
    assert NearestRows(rows).search(rows[:1], 9).rows.shape == (1, 3)
    (found,) = NearestRows(rows).nearest(9)
    assert found.rows.shape == (3, 2)
    assert NearestRows(rows).search(rows[:0], 2).rows.shape == (0, 2)
    assert NearestRows(rows[:0]).search(rows[:2], 2).rows.shape == (2, 0)
    assert NearestRows(rows[:0]).groups(0.5) == []
    (alone,) = NearestRows(rows[:1]).nearest(1)
    assert alone.rows.shape == (1, 0)


def test_every_float16_is_widened_as_numpy_does() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(64, 1024)
    for part in (halves, halves[:31], halves[:, ::2].copy()):
        made = np.empty(part.shape, np.float32)
        _widen(made, part)
        assert np.array_equal(made, part.astype(np.float32), equal_nan=True)
        assert np.array_equal(np.signbit(made), np.signbit(part))


def test_memory_does_not_grow_with_mapped_rows(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.npy"
        np.save(path, np.random.default_rng(0).normal(size=(count, 64)).astype(np.float16))
        rows = np.load(path, mmap_mode="r")
        queries = rows[:20].copy()
        tracemalloc.start()
        try:
            NearestRows(rows, block=512).search(queries, 5)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(2_000), peak(20_000)
    assert many - few < 18_000 * 8 + 100_000  # 4 bytes of a row's squares, and some slack
    assert many < 20_000 * 64 * 2
