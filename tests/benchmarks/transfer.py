"""What pre-training is worth: ten classes of Tiny ImageNet from few photos, with and without it.

    python -m tests.benchmarks.transfer TINY-IMAGENET [--seeds 0 1 2] [--photos 20 100 400]
        [--pretrain-epochs 6] [--work DIR]

resnest14t learns the other 190 classes with the recipe `tiny`; then, for each number of photos a
class and each seed (which chooses the photos, too), top-1 on the ten classes' 500 validation photos
from scratch, and fine-tuned from it with all of it learning and with a frozen backbone. The three
get the same photos, settings and epochs. With --work the pre-training is kept, and used again.
"""

import argparse
import random
import shutil
import tempfile
from pathlib import Path
from statistics import mean

from tests.benchmarks.runs import best_top1

EVERY = 20  # each 20th class, sorted by id, is left out of the pre-training
EPOCHS = {20: 40, 100: 25, 400: 12}  # about as many for other numbers of photos as for the nearest
COMMON = ["--img-size", "64", "--train-size", "48", "--crop-pct", "1", "--scale", "0.35",
          "--aa", "none", "--cache", "-b", "32"]  # fmt: skip
LR = {"scratch": "0.05", "unfrozen": "0.01"}


def photos_of(data: Path, side: str, name: str) -> list[Path]:
    """All photos of a class, sorted."""
    return sorted(p for p in (data / side / name).rglob("*") if p.is_file())


def write_manifest(path: Path, rows: list[tuple[Path, str, str]]) -> Path:
    """A CSV of path,label,split."""
    lines = ["path,label,split", *(f"{photo},{label},{side}" for photo, label, side in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def everything(data: Path, names: list[str]) -> list[tuple[Path, str, str]]:
    """All photos of these classes."""
    return [
        (photo, name, side)
        for side in ("train", "val")
        for name in names
        for photo in photos_of(data, side, name)
    ]


def few(data: Path, names: list[str], count: int, seed: int) -> list[tuple[Path, str, str]]:
    """So many photos of each class to train on, and all its validation photos."""
    chosen = random.Random(seed)
    rows = [(p, name, "val") for name in names for p in photos_of(data, "val", name)]
    for name in names:
        picked = chosen.sample(photos_of(data, "train", name), count)
        rows += [(photo, name, "train") for photo in picked]
    return rows


def main() -> None:
    """Measures and prints everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--photos", type=int, nargs="+", default=list(EPOCHS))
    parser.add_argument("--pretrain-epochs", type=int, default=6)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(options, (options.work or Path(name)).resolve())


def measure(options: argparse.Namespace, work: Path) -> None:
    """The pre-training, then a row for each number of photos and seed."""
    work.mkdir(parents=True, exist_ok=True)
    data = options.data.resolve()
    names = sorted(path.name for path in (data / "train").iterdir())
    left_out = names[EVERY // 2 :: EVERY]
    weights = work / "base.safetensors"  # there once the pre-training is done
    if not weights.exists():
        others = [name for name in names if name not in left_out]
        manifest = write_manifest(work / "base.csv", everything(data, others))
        epochs = ["--epochs", str(options.pretrain_epochs)]
        found, seconds = best_top1(
            work, "train", "base", manifest, "--recipe", "tiny", *epochs, quiet=False
        )
        print(f"{len(others)} classes, {options.pretrain_epochs} epochs: top-1 {found:.2%}, "
              f"{seconds:.0f} s", flush=True)  # fmt: skip
        shutil.copy(work / "train" / "base" / "weights" / "best.safetensors", weights)
    print(f"{'photos a class':<28}{'scratch':>10}{'unfrozen':>10}{'frozen':>10}   seconds")
    for count in options.photos:
        columns: list[list[float]] = []
        for seed in options.seeds:
            name = f"{count}-{seed}"
            manifest = write_manifest(work / f"{name}.csv", few(data, left_out, count, seed))
            nearest = min(EPOCHS, key=lambda known, count=count: abs(known - count))
            budget = [manifest, *COMMON, "--epochs", str(EPOCHS[nearest]), "--seed", str(seed)]
            learned = [*budget, "--model", weights]
            sgd = ["--recipe", "quick"]
            runs = [
                best_top1(work, "train", f"scratch-{name}", *budget, *sgd, "--model", "resnest14t",
                          "--lr", LR["scratch"]),
                best_top1(work, "finetune", f"whole-{name}", *learned, *sgd, "--freeze", "none",
                          "--lr", LR["unfrozen"]),
                best_top1(work, "finetune", f"head-{name}", *learned, "--freeze", "backbone"),
            ]  # fmt: skip
            columns.append([found for found, _ in runs])
            seconds = " / ".join(f"{taken:.0f}" for _, taken in runs)
            print(_row(f"{count:>4}, seed {seed}", columns[-1]) + f"   {seconds}", flush=True)
        print(_row(f"{count:>4}, mean", [mean(column) for column in zip(*columns, strict=True)]))


def _row(title: str, values: list[float]) -> str:
    return f"{title:<28}" + "".join(f"{value:>10.2%}" for value in values)


if __name__ == "__main__":
    main()
