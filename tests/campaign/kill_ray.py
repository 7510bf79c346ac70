"""Kills workers, nodes and drivers of `resnest features --runner ray` at random moments.

    python -m tests.campaign.kill_ray [--trials 20] [--seed 0] [--photos 320] [--slow 0.02]
        [--kinds actor reader node driver]

Each trial is a run on a Ray cluster of two nodes on this machine. By turns the process of an actor
that runs the network is killed, or that of a task that reads, a node is removed, or the driver is
killed and the command run again with `--resume`; the moment is random between the first part and
the last. Then every input must have exactly one row, with the numbers of the local runner, and no
part that was whole may have been written again. Prints figures.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.cluster.nodes import Nodes, ended, kill, parts, rows, wait_for
from tests.conftest import make_photo

KINDS = ("actor", "reader", "node", "driver")


def expected_rows(nodes: Nodes, photos: Path, model: Path, work: Path) -> dict:
    """What the local runner says of each input."""
    target = work / "local.parquet"
    command = [sys.executable, "-m", "resnest_cli", "features", photos, "-m", model, "-o", target]
    subprocess.run(command, env=nodes.env, check=False, stderr=subprocess.DEVNULL)
    return {row["input"]: row for row in pq.read_table(target).to_pylist()}


def largest_difference(output: Path, expected: dict) -> float:
    """Of any number, as a share of the largest value; fails where rows are missing or other."""
    found = rows(output)
    assert found.keys() == expected.keys(), f"{len(found)} of {len(expected)} rows"
    scale = max(np.abs(row["features"]).max() for row in expected.values() if row["features"])
    worst = 0.0
    for name, row in expected.items():
        assert found[name]["error"] == row["error"], found[name]
        if row["features"] is not None:
            difference = np.subtract(found[name]["feature"], row["features"])
            worst = max(worst, float(np.abs(difference).max() / scale))
    return worst


def times(output: Path) -> dict[Path, int]:
    """The parts that are there, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in parts(output)}


def trial(kind: str, nodes: Nodes, words: list, output: Path, moment: int) -> tuple[int, int]:
    """One run with one fault; how many parts were whole then, and how many there are."""
    process = nodes.start("features", *words, "-o", output)
    wait_for(lambda: len(parts(output)) >= moment and nodes.workers(), process)
    if kind in {"actor", "reader"}:
        victims = nodes.workers if kind == "actor" else nodes.readers
        kill(random.choice(wait_for(victims, process)))
    elif kind == "node":
        nodes.remove_node()
    else:
        process.kill()
        process.communicate()
        wait_for(lambda: not nodes.workers())
    before = times(output)
    if kind == "driver":
        process = nodes.start("features", *words, "-o", output, "--resume")
    ended(process, 3)
    after = times(output)
    again = [path.name for path, when in before.items() if after[path] != when]
    assert not again, f"written again: {again}"
    if kind == "node":
        nodes.add_node()
    return len(before), len(after)


def main() -> None:
    """Runs the campaign and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photos", type=int, default=320)
    parser.add_argument("--slow", type=float, default=0.02)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model, photos = work / "tiny.safetensors", work / "photos"
        subprocess.run([sys.executable, "-m", "tests.benchmarks.tiny", str(model)], check=True)
        photos.mkdir()
        for index in range(options.photos):
            path = make_photo(photos / f"{index}.png", (60, 40), seed=index)
            if index % 50 == 13:
                path.write_bytes(path.read_bytes()[:100])
        done, worst = Counter[str](), 0.0
        with Nodes(work / "home", slow=options.slow) as nodes:
            expected = expected_rows(nodes, photos, model, work)
            for number in range(options.trials):
                kind = options.kinds[number % len(options.kinds)]
                begun = time.perf_counter()
                output = work / f"out{number}"
                moment = rng.randint(1, 6)
                there, whole = trial(kind, nodes, [photos, "-m", model], output, moment)
                worst = max(worst, largest_difference(output, expected))
                done[kind] += 1
                seconds = time.perf_counter() - begun
                print(f"{number + 1:3}: {kind} at {there} of {whole} parts, {seconds:.0f} s",
                      flush=True)  # fmt: skip
        print(f"{done.total()} trials ({dict(done)}): {options.photos} rows each, none twice; no")
        print(f"whole part written again; largest difference {worst:.1e} of the largest value")


if __name__ == "__main__":
    main()
