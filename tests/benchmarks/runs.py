"""Runs `resnest train` or `finetune` as a whole process, and reads how good it became."""

import csv
import subprocess
import sys
import time
from functools import partial
from pathlib import Path


def best_score(
    work: Path, command: str, name: str, *arguments: str | Path, score: str, quiet: bool = True
) -> tuple[float, float]:
    """The best score, a column of `results.csv`, of a run's epochs, raw or averaged weights, and
    the seconds that it took.

    The run folder is `work/command/name`.
    """
    begin = time.monotonic()
    whole = [sys.executable, "-m", "resnest_cli", command, *map(str, arguments)]
    whole += ["--output", str(work), "--run", name]
    subprocess.run([*whole, "--quiet"] if quiet else whole, check=True)
    with (work / command / name / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    best = max(max(float(row[score]), float(row[f"ema_{score}"] or 0)) for row in rows)
    return best, time.monotonic() - begin


best_top1 = partial(best_score, score="top1")
