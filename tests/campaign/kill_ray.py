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

from tests.jobs.nodes import (
    Nodes,
    ended,
    kill,
    largest_difference,
    local_rows,
    parts,
    rows,
    wait_for,
)
from tests.planted_photos import partly_broken

KINDS = ("actor", "reader", "node", "driver")


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
        model, photos = work / "tiny.safetensors", partly_broken(work / "photos", options.photos)
        subprocess.run([sys.executable, "-m", "tests.benchmarks.tiny", str(model)], check=True)
        done, worst = Counter[str](), 0.0
        with Nodes(work / "home", slow=options.slow) as nodes:
            expected = local_rows(photos, model, work / "local.parquet", nodes.env)
            for number in range(options.trials):
                kind = options.kinds[number % len(options.kinds)]
                begun = time.perf_counter()
                output = work / f"out{number}"
                moment = rng.randint(1, 6)
                there, whole = trial(kind, nodes, [photos, "-m", model], output, moment)
                worst = max(worst, largest_difference(rows(output), expected))
                done[kind] += 1
                seconds = time.perf_counter() - begun
                print(f"{number + 1:3}: {kind} at {there} of {whole} parts, {seconds:.0f} s",
                      flush=True)  # fmt: skip
        print(f"{done.total()} trials ({dict(done)}): {options.photos} rows each, none twice; no")
        print(f"whole part written again; largest difference {worst:.1e} of the largest value")


if __name__ == "__main__":
    main()
