"""`resnest train` against a plain loop over timm's network, at the same budget, in turn.

    python -m tests.benchmarks.train TINY-IMAGENET [--classes 20] [--epochs 10] [--seeds 0 1]

TINY-IMAGENET holds train/ and val/ class folders; a third of the photos of each of the first
classes is taken. resnest14d at 64 pixels, both sides whole processes on all cores: best and last
top-1 on the validation photos, and photos/s of training (median over epochs; the first is left out,
where there are more).
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, median

REFERENCE = Path(__file__).with_name("reference_train.py")
MODEL, SIZE, BATCH = "resnest14d", 64, 64
LR = 0.05


def subset(source: Path, target: Path, classes: int, share: int) -> None:
    """Links every `share`-th photo of the first classes, and all their validation photos."""
    for name in sorted(path.name for path in (source / "train").iterdir())[:classes]:
        for part, every in (("train", share), ("val", 1)):
            photos = sorted(p for p in (source / part / name).rglob("*") if p.is_file())[::every]
            folder = target / part / name
            folder.mkdir(parents=True)
            for photo in photos:
                (folder / photo.name).symlink_to(photo.resolve())


def ours(data: Path, work: Path, epochs: int, seed: int) -> list[dict[str, float]]:
    """Top-1, photos and seconds of each epoch."""
    command = [
        sys.executable, "-m", "resnest_cli", "train", str(data), "--model", MODEL,
        "--img-size", str(SIZE), "--epochs", str(epochs), "-b", str(BATCH), "--seed", str(seed),
        "--lr", str(LR), "--weight-decay", "5e-4", "--smoothing", "0.1", "--warmup-epochs", "1",
        "--scale", "0.35", "--crop-pct", "1", "--output", str(work), "--run", f"seed{seed}",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    with (work / "train" / f"seed{seed}" / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        {
            "top1": max(float(row["top1"]), float(row["ema_top1"] or 0)),
            "photos": float(row["photos_per_second"]) * float(row["train_seconds"]),
            "seconds": float(row["train_seconds"]),
        }
        for row in rows
    ]


def theirs(data: Path, work: Path, epochs: int, seed: int) -> list[dict[str, float]]:
    """The same of the reference."""
    result = work / f"timm{seed}.json"
    numbers = [SIZE, epochs, BATCH, LR, seed]
    command = [sys.executable, str(REFERENCE), str(data), MODEL, *map(str, numbers), str(result)]
    subprocess.run(command, check=True)
    rows: list[dict[str, float]] = json.loads(result.read_text(encoding="utf-8"))
    return rows


def speed(rows: list[dict[str, float]]) -> float:
    """Photos/s."""
    return median(row["photos"] / row["seconds"] for row in rows[1:] or rows)


def main() -> None:
    """Runs and prints both sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--share", type=int, default=3, help="every n-th photo trains")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    sides: dict[str, list[list[dict[str, float]]]] = {"ours": [], "timm": []}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        data = work / "data"
        subset(options.data, data, options.classes, options.share)
        for seed in options.seeds:
            sides["ours"].append(ours(data, work, options.epochs, seed))
            sides["timm"].append(theirs(data, work, options.epochs, seed))
    print(f"\n{'':6}{'seed':>6}{'last top-1':>12}{'best top-1':>12}{'photos/s':>10}")
    for side, runs in sides.items():
        for seed, rows in zip(options.seeds, runs, strict=True):
            best = max(row["top1"] for row in rows)
            print(f"{side:6}{seed:>6}{rows[-1]['top1']:>12.4f}{best:>12.4f}{speed(rows):>10.1f}")
    ratio = mean(map(speed, sides["ours"])) / mean(map(speed, sides["timm"]))
    print(f"photos/s, ours / timm: {ratio:.2f}")


if __name__ == "__main__":
    main()
