"""Outputs of `features` with rows of our own, and the answer that a search has to give."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.jobs.formats import HEADER, Matrix, formatted, write
from resnest_cli.jobs.job import Item
from resnest_cli.jobs.part_files import part_file

FAILED = "photos/broken.jpg"  # the second input of every output


def write_output(
    target: Path, rows: NDArray[Any], names: Sequence[str] = (), parts: int = 0, **changes: Any
) -> Path:
    """What `features` would write; `parts` makes a folder of so many, as Ray does."""
    names = names or [f"photos/{number}.jpg" for number in range(len(rows))]
    dtype: Any = rows.dtype.name
    items = [Item(name, None, row.tobytes()) for name, row in zip(names, rows, strict=True)]
    items.insert(1, Item(FAILED, "is empty (0 bytes)", None, "empty"))
    matrix = Matrix(len(rows), len(items), rows.shape[1:], dtype)
    extraction = {"pool": "avg", "stage": None, "head": None, "dtype": dtype, "normalize": None}
    record = {
        "format": target.suffix[1:] or "parquet",
        "model": "made up",
        "weights_sha256": "0" * 64,
        "preprocessing": {"size": 48, "crop_pct": 0.9, "interpolation": "bicubic"},
        "extraction": extraction | {"row_shape": list(rows.shape[1:])},
        "counts": {"inputs": len(items), "rows": len(rows), "failed": 1},
    } | changes
    text = json.dumps(record)
    if parts:
        target.mkdir()
        size = -(-len(items) // parts)
        for part in range(parts):
            some = items[part * size : (part + 1) * size]
            data = part_file(some, "parquet", record, {"inputs": len(some)}, b"")
            (target / f"part-{part:05}.parquet").write_bytes(data)
        (target / "_manifest.json").write_text("{}")
        (target / "_summary.json").write_text(text)
        return target
    write(target, iter(items), matrix)
    if target.suffix != ".csv":
        lines, row = HEADER.encode(), 0
        for item in items:
            lines += formatted(item.name, None if item.error else row, item.error)
            row += item.error is None
        target.with_suffix(".csv").write_bytes(lines)
    target.with_suffix(".json").write_text(text)
    return target


def brute_force(
    queries: NDArray[Any], rows: NDArray[Any], k: int, metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows and scores (m, k) of all pairs in float64; equal scores in the order of the rows."""
    near = nearness(queries, rows, metric)
    order = np.stack([np.lexsort((np.arange(len(rows)), -line)) for line in near])[:, :k]
    scores = np.take_along_axis(near, order, 1)
    return order, np.sqrt(-scores) if metric == "euclidean" else scores


def nearness(queries: NDArray[Any], rows: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """(m, N), the larger the nearer: squared distances are negative."""
    one, other = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "euclidean":
        return np.stack([-np.square(line - other).sum(1) for line in one])
    dots = np.stack([(line * other).sum(1) for line in one])
    if metric == "dot":
        return dots
    squares = np.square(one).sum(1)[:, None] * np.square(other).sum(1)
    cosines = np.divide(dots, np.sqrt(squares), out=np.zeros_like(dots), where=squares > 0)
    return np.clip(cosines, -1, 1)


def components(near: NDArray[np.bool_]) -> list[list[int]]:
    """Connected components (N, N) of more than one row, by walking."""
    left, found = set(range(len(near))), []
    while left:
        group, waiting = set(), [min(left)]
        while waiting:
            one = waiting.pop()
            if one not in group:
                group.add(one)
                waiting += np.flatnonzero(near[one]).tolist()
        left -= group
        if len(group) > 1:
            found.append(sorted(group))
    return found
