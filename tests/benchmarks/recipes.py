"""Three recipes of `resnest train` at the same budget: photos, network, sizes, batch and epochs.

    python -m tests.benchmarks.recipes TINY-IMAGENET [--classes 20] [--epochs 12] [--seeds 0]

TINY-IMAGENET holds train/ and val/ class folders. resnest14t at 64 pixels, batches of 128. Each
recipe keeps the rest of what it says; a3's learning rate of 8e-3 for 2,048 photos a step becomes
2e-3 for 128 (by the square root, as LAMB's paper has it). Prints the best top-1 and the time.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean

from tests.benchmarks.runs import best_top1
from tests.benchmarks.train import subset

RECIPES: dict[str, tuple[str, ...]] = {
    "quick": (),
    "paper": (),
    "a3": ("--grad-accum-steps", "1", "--lr", "2e-3"),
}


def main() -> None:
    """Runs all and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--share", type=int, default=1, help="every n-th photo trains")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        subset(options.data, work / "data", options.classes, options.share)
        for recipe, more in RECIPES.items():
            found = [
                best_top1(
                    work, "train", f"{recipe}{seed}", work / "data", "--recipe", recipe,
                    "--model", "resnest14t", "--img-size", "64", "--train-size", "64",
                    "--crop-pct", "1", "-b", "128", "--epochs", str(options.epochs),
                    "--seed", str(seed), *more,
                )
                for seed in options.seeds
            ]  # fmt: skip
            tops = ", ".join(f"{100 * top1:.1f}" for top1, _ in found)
            print(
                f"{recipe:<6} best top-1 {100 * mean(top1 for top1, _ in found):5.1f}% "
                f"(seeds {tops}), {mean(seconds for _, seconds in found):.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
