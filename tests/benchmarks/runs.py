"""Runs `resnest train` or `finetune` as a whole process, and reads how good it became."""

import csv
import subprocess
import sys
import time
from pathlib import Path


def best_top1(
    work: Path, command: str, name: str, *arguments: str | Path, quiet: bool = True
) -> tuple[float, float]:
    """The best top-1 of a run's epochs, raw or averaged weights, and the seconds that it took.

    The run folder is `work/command/name`.
    """
    begin = time.monotonic()
    whole = [sys.executable, "-m", "resnest_cli", command, *map(str, arguments)]
    whole += ["--output", str(work), "--run", name]
    subprocess.run([*whole, "--quiet"] if quiet else whole, check=True)
    with (work / command / name / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    best = max(max(float(row["top1"]), float(row["ema_top1"] or 0)) for row in rows)
    return best, time.monotonic() - begin
