"""scikit-learn's 1,797 digits: training from scratch, and what pre-training is worth.

    python -m tests.benchmarks.digits [--seeds 0 1 2] [--epochs 5 10 20]

Prints top-1 of `resnest train` on a held-out fifth of all ten digits; then, for every seed and
budget, top-1 on the digits 5 to 9 after learning from 20 photos of each: from scratch, and from a
network that was trained on 0 to 4, with all of it learning and with a frozen backbone. The three
get as many epochs; a frozen backbone takes a small part of the others' time.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tests.benchmarks.runs import best_top1

COMMON = ["--img-size", "32", "--crop-pct", "1", "--hflip", "0", "--scale", "0.6", "--aa", "none"]
FEW, MOST = 20, 60  # photos of a class that train, and up to which they validate


def write_digits(
    folder: Path, digits: Sequence[int], train: int | None = None, most: int | None = None
) -> Path:
    """Class folders of 8x8 PNGs; with `train` as train/ (so many of each class) and val/.

    At most `most` photos of each class are written.
    """
    found = load_digits()
    for digit in digits:
        indices = np.flatnonzero(found.target == digit)[:most]
        for place, index in enumerate(indices):
            side = "" if train is None else "train" if place < train else "val"
            path = folder / side / str(digit) / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.rint(found.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    return folder


def main() -> None:
    """Measures and prints everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 10, 20])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)

        def top1(command: str, name: str, *arguments: str | Path) -> tuple[float, float]:
            return best_top1(work, command, name, *arguments, *COMMON)

        everything = write_digits(work / "all", range(10))
        model = ["--model", "resnest14d"]
        found, seconds = top1("train", "all", everything, *model, "--epochs", "15")
        print(f"all ten digits from scratch: top-1 {found:.2%} in {seconds:.0f} s")
        first = write_digits(work / "first", range(5))
        top1("train", "first", first, *model, "--epochs", "15")
        weights = work / "train" / "first" / "weights" / "best.safetensors"
        second = write_digits(work / "second", range(5, 10), train=FEW, most=MOST)
        print("5 to 9 from 20 photos each      scratch  unfrozen    frozen   seconds")
        for epochs in options.epochs:
            for seed in options.seeds:
                budget = [second, "--epochs", str(epochs), "-b", "10", "--seed", str(seed)]
                learned = [*budget, "--model", weights]
                runs = [
                    top1("train", f"scratch{epochs}-{seed}", *budget, *model),
                    top1("finetune", f"whole{epochs}-{seed}", *learned, "--freeze", "none"),
                    top1("finetune", f"head{epochs}-{seed}", *learned, "--freeze", "backbone"),
                ]
                found = "".join(f"{accuracy:>10.2%}" for accuracy, _ in runs)
                seconds = " / ".join(f"{taken:.0f}" for _, taken in runs)
                print(f"{epochs:>4} epochs, seed {seed:<12}{found}   {seconds}", flush=True)


if __name__ == "__main__":
    main()
