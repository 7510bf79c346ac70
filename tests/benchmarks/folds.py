"""What `finetune --folds` costs beside one fit: the time of whole processes, in turn.

    python -m tests.benchmarks.folds DATA [--folds 5] [--rounds 3] [FLAGS OF FINETUNE]

DATA has class folders; 1,000 photos and the default model are what the promise is about: at most
1.3 times the time of one fit with a frozen backbone. Run it on an idle machine: the ratio is of
medians. Each run computes its features anew.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

LIMIT = 1.3


def seconds(data: Path, output: Path, *flags: str) -> float:
    """Of one whole run."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "resnest_cli", "finetune", str(data), "-o", str(output), "-q",
         *flags],
        check=True,
    )  # fmt: skip
    return time.perf_counter() - begin


def main() -> None:
    """Prints the seconds of each run and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--folds", default="5")
    parser.add_argument("--rounds", type=int, default=3)
    given, flags_of_both = parser.parse_known_args()
    kinds = {"one fit": (), f"{given.folds} folds": ("--folds", given.folds)}
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(given.rounds):
        for kind, flags in kinds.items():
            with tempfile.TemporaryDirectory() as output:
                taken[kind].append(seconds(given.data, Path(output), *flags, *flags_of_both))
            print(f"round {number + 1}, {kind}: {taken[kind][-1]:.1f} s", flush=True)
    alone, folds = map(median, taken.values())
    print(f"medians {alone:.1f} and {folds:.1f} s: {folds / alone:.2f} times (at most {LIMIT})")


if __name__ == "__main__":
    main()
