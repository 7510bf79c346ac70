"""Packing, and training from shards against folders, on the same photos, in turn.

    python -m tests.benchmarks.shards PHOTOS [--pairs 5] [--size 32] [--workers 1] [--epochs 1]

PHOTOS is a folder of class folders, such as Tiny ImageNet's val. First `resnest pack` with one and
two workers, whole processes. Then the training loop of a tiny network, from folders and from the
shards: photos/s of the last epoch as `results.csv` has them, and the batches alone, without a
network. Medians; the machine should do nothing else.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

MODEL, BATCH = "resnest14t", 64


def pack(data: Path, target: Path, workers: int) -> float:
    """Seconds of a whole process."""
    command = [sys.executable, "-m", "resnest_cli", "pack", str(data), "-o", str(target)]
    begin = time.perf_counter()
    subprocess.run([*command, "--shard-size", "4", "-j", str(workers), "-q"], check=True)
    return time.perf_counter() - begin


def train(data: Path, work: Path, run: str, arguments: argparse.Namespace) -> float:
    """Training photos/s of the last epoch, by the run's own clock."""
    command = [
        sys.executable, "-m", "resnest_cli", "train", str(data), "--model", MODEL, "--img-size",
        str(arguments.size), "--epochs", str(arguments.epochs), "-b", str(BATCH), "-j",
        str(arguments.workers), "--no-model-ema", "--output", str(work), "--run", run, "-q",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    with (work / "train" / run / "results.csv").open(encoding="utf-8") as file:
        return float(list(csv.DictReader(file))[-1]["photos_per_second"])


def batches(data: Path, arguments: argparse.Namespace) -> float:
    """Photos/s of the batches alone: read, decoded, varied."""
    from resnest_cli.model.variants import Preprocessing
    from resnest_cli.training.augment import Augment
    from resnest_cli.training.config import Config
    from resnest_cli.training.loader import TrainBatches
    from resnest_cli.training.shard_loader import ShardTrainBatches
    from resnest_cli.training.sharded import load_data

    config = Config(command="train", data=str(data), model=MODEL, recipe="quick")
    found = load_data(config)
    augment = Augment(config, Preprocessing(arguments.size, 1.0, "bilinear"))
    settings = {"size": arguments.size, "batch_size": BATCH, "seed": 0}
    settings |= {"workers": arguments.workers}
    loader: TrainBatches | ShardTrainBatches
    if found.shards is not None:
        loader = ShardTrainBatches(found.shards.train, len(found.class_ids), augment, **settings)
    else:
        loader = TrainBatches(found.train, augment, **settings)
    begin, count = time.perf_counter(), 0
    for batch in loader.epoch(0):
        count += len(batch.labels)
    seconds = time.perf_counter() - begin
    loader.close()
    return count / seconds


def tell(title: str, values: list[float], unit: str) -> None:
    shown = ", ".join(f"{value:,.1f}" for value in values)
    print(f"{title:<28}{median(values):>10,.1f} {unit}   ({shown})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()
    count = sum(1 for path in arguments.photos.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        packing: dict[int, list[float]] = {1: [], 2: []}
        for number in range(arguments.pairs):
            for workers, values in packing.items():
                target = work / f"packed{workers}-{number}"
                values.append(count / pack(arguments.photos, target, workers))
        for workers, values in packing.items():
            tell(f"pack, {workers} worker(s)", values, "photos/s")
        sides = {"folders": arguments.photos, "shards": work / "packed1-0"}
        loading: dict[str, list[float]] = {name: [] for name in sides}
        training: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(arguments.pairs):
            for name, data in sides.items():
                loading[name].append(batches(data, arguments))
        for name in sides:
            tell(f"batches from {name}", loading[name], "photos/s")
        for number in range(arguments.pairs):
            for name, data in sides.items():
                training[name].append(train(data, work, f"{name}{number}", arguments))
        for name in sides:
            tell(f"training from {name}", training[name], "photos/s")


if __name__ == "__main__":
    main()
