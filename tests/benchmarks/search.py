"""`resnest search` against faiss' flat index and scikit-learn, and against the machine's speed.

    python -m tests.benchmarks.search [--rows 20000] [--columns 512] [--dtype float32]
        [--queries 1 16 256 4096] [--repeats 5] [--peers] [--memory] [--limit 60] [--duplicates]
        [--folder DIR]

Rows are seeded clusters, written as `resnest features` writes them. For each number of queries:
seconds for their 10 nearest by cosine (the least of the repeats), queries/s, the bytes of rows that
go by in a second, and what these are of the speed at which this machine reads memory (on all cores,
the rows being in the page cache), and the multiply-adds of those that a matrix product reaches.
`cold` is one query after the file has left the page cache, beside reading the file. `--peers`: the
same by faiss.IndexFlatIP and sklearn.neighbors.NearestNeighbors, whose rows are in memory as unit
float32; a share of answers that are the same comes with it (they do not break ties, nor compute in
float64). faiss is no dependency of ours: install faiss-cpu in an environment of its own. `--memory`
runs `search --row` and `--self` as commands, for `--limit` seconds at most, and prints their
largest RssAnon: memory that is not the page cache's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from resnest_cli.cpu import usable_cores
from resnest_cli.search.features import Features

K = 10
_CHUNK = 8192  # rows that are made at once


def written(target: Path, rows: int, columns: int, dtype: str) -> Path:
    """An output of `features` with such rows: clusters of about 100."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, rows // 100), columns), np.float32)
    made = np.lib.format.open_memmap(target, "w+", dtype, (rows, columns), version=(1, 0))
    for start in range(0, rows, _CHUNK):
        count = min(_CHUNK, rows - start)
        near = centres[rng.integers(0, len(centres), count)]
        made[start : start + count] = near + rng.standard_normal((count, columns), np.float32)
    made.flush()
    with target.with_suffix(".csv").open("w") as file:
        file.write("input,row,status,error\n")
        file.writelines(f"photos/{row:07}.jpg,{row},ok,\n" for row in range(rows))
    record = {
        "format": "npy",
        "model": "made up",
        "weights_sha256": "0" * 64,
        "preprocessing": {"size": 224},
        "extraction": {"pool": "avg", "head": None, "dtype": dtype, "row_shape": [columns]},
        "counts": {"inputs": rows, "rows": rows, "failed": 0},
    }
    target.with_suffix(".json").write_text(json.dumps(record))
    return target


def least(action: Callable[[], object], repeats: int) -> float:
    """The least of its times."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def memory_speed() -> float:
    """Bytes that all cores read in a second."""
    array = np.ones((usable_cores(), 2**26), np.float32)
    with ThreadPoolExecutor(len(array)) as pool:
        seconds = least(lambda: list(pool.map(np.max, array)), 3)
    return array.nbytes / seconds


def product_speed() -> float:
    """Multiply-adds of a matrix product in a second."""
    square = np.ones((2048, 2048), np.float32)
    return 2048**3 / least(lambda: square @ square, 3)


def disk_seconds(path: Path) -> float:
    """Seconds for reading the file, which is not in the page cache."""
    forget(path)
    buffer = bytearray(2**24)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


def forget(path: Path) -> None:
    """Drops a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def speeds(path: Path, options: argparse.Namespace) -> None:
    """Ours, for each number of queries."""
    memory, product = memory_speed(), product_speed()
    print(f"memory {memory / 1e9:.1f} GB/s, products {product / 1e9:.0f} GMAC/s")
    features = Features.open(path)
    rows = features.rows
    for count in options.queries:
        queries = np.array(rows[:count])
        seconds = least(lambda q=queries: features.search(q, K), options.repeats)
        passes = -(-count // 4096)
        print(
            f"{count:>6} queries: {seconds:8.3f} s, {count / seconds:10,.1f} queries/s, "
            f"{passes * rows.nbytes / seconds / 1e9:6.2f} GB/s of rows "
            f"({passes * rows.nbytes / seconds / memory:4.0%} of memory), "
            f"{count * rows.size / seconds / product:4.0%} of a product"
        )
    plain = disk_seconds(path)
    forget(path)
    seconds = least(lambda: Features.open(path).search(rows[:1].copy(), K), 1)
    print(f"cold, names read too: {seconds:.2f} s; the file alone is read in {plain:.2f} s")


def peers(path: Path, options: argparse.Namespace) -> None:
    """faiss and scikit-learn on the same rows, as unit float32 in memory."""
    import faiss
    from sklearn.neighbors import NearestNeighbors

    rows = np.load(path).astype(np.float32)
    features = Features.open(path)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    brute = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute").fit(rows)
    for count in options.queries:
        ours = features.search(rows[:count], K).rows
        for name, ask in (
            ("faiss", lambda n=count: index.search(unit[:n], K)[1]),
            ("scikit-learn", lambda n=count: brute.kneighbors(rows[:n])[1]),
        ):
            same = float((ask() == ours).mean())
            seconds = least(ask, options.repeats)
            print(f"{count:>6} queries by {name:12}: {seconds:8.3f} s, "
                  f"{count / seconds:10,.1f} queries/s, {same:.2%} the same")  # fmt: skip


def memory(path: Path, limit: float) -> None:
    """The largest RssAnon of two commands, in so many seconds at most."""
    out = path.with_name("neighbours.npz")
    for words in (["--row", "7"], ["--self", "-k", "10", "-o", str(out)]):
        command = [sys.executable, "-m", "resnest_cli", "search", str(path), *words]
        start, most = time.perf_counter(), 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and time.perf_counter() - start < limit:
            most = max(most, rss_anon(process.pid))
            time.sleep(0.01)
        process.terminate()  # it would go on without needing more
        code, seconds = process.wait(), time.perf_counter() - start
        print(f"search {words[0]}: {most / 1e6:.0f} MB RssAnon at most in {seconds:.1f} s, "
              f"exit code {code}")  # fmt: skip


def rss_anon(pid: int) -> int:
    """Bytes of a process that are no pages of files; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith("RssAnon")), 0)


def main() -> None:
    """Measures and prints what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float32")
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 16, 256, 4096])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--duplicates", action="store_true")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        path = written(Path(name) / "feats.npy", options.rows, options.columns, options.dtype)
        print(f"{options.rows:,} x {options.columns} {options.dtype}, "
              f"{path.stat().st_size / 1e6:,.0f} MB, {usable_cores()} cores")  # fmt: skip
        speeds(path, options)
        if options.peers:
            peers(path, options)
        if options.duplicates:
            features = Features.open(path)
            seconds = least(lambda: features.duplicates(0.9), 1)
            print(f"duplicates: {seconds:.1f} s, {options.rows**2 / 2 / seconds / 1e6:,.0f} "
                  "million pairs/s")  # fmt: skip
        if options.memory:
            memory(path, options.limit)


if __name__ == "__main__":
    main()
