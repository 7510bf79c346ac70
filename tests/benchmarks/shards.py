"""Packing, and training from shards against folders, on the same photos, in turn.

    python -m tests.benchmarks.shards PHOTOS [--pairs 5] [--size 32] [--workers 1] [--epochs 1]

PHOTOS is a folder of class folders, such as Tiny ImageNet's val. First `resnest pack` with one and
two workers, whole processes. Then the training loop of a tiny network, from folders and from the
shards: photos/s of the last epoch as `results.csv` has them, and the batches alone, without a
network. Medians of photos/s, and of the processor's milliseconds for a photo, which other work on
the machine changes less.
"""

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

MODEL, BATCH = "resnest14t", 64


class Found(NamedTuple):
    """Photos a second, and seconds of the processor for a photo, start of the process included."""

    speed: float
    cpu: float


def used() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(found.ru_utime + found.ru_stime for found in map(resource.getrusage, kinds))


def pack(data: Path, target: Path, workers: int, count: int) -> Found:
    """A whole process."""
    command = [sys.executable, "-m", "resnest_cli", "pack", str(data), "-o", str(target)]
    begin, before = time.perf_counter(), used()
    subprocess.run([*command, "--shard-size", "4", "-j", str(workers), "-q"], check=True)
    return Found(count / (time.perf_counter() - begin), (used() - before) / count)


def train(data: Path, work: Path, run: str, arguments: argparse.Namespace) -> Found:
    """Training photos/s of the last epoch, by the run's clock; the processor's time is of all."""
    command = [
        sys.executable, "-m", "resnest_cli", "train", str(data), "--model", MODEL, "--img-size",
        str(arguments.size), "--epochs", str(arguments.epochs), "-b", str(BATCH), "-j",
        str(arguments.workers), "--no-model-ema", "--output", str(work), "--run", run, "-q",
    ]  # fmt: skip
    before = used()
    subprocess.run(command, check=True)
    with (work / "train" / run / "results.csv").open(encoding="utf-8") as file:
        row = list(csv.DictReader(file))[-1]
    speed = float(row["photos_per_second"])
    count = arguments.epochs * speed * float(row["train_seconds"])
    return Found(speed, (used() - before) / count)


def batches(data: Path, arguments: argparse.Namespace) -> Found:
    """The batches alone: read, decoded, varied."""
    from resnest_cli.model.variants import Preprocessing
    from resnest_cli.training.augment import Augment
    from resnest_cli.training.loader import Batches
    from resnest_cli.training.order import Draw, ShardPhotos
    from resnest_cli.training.settings import Config
    from resnest_cli.training.setup import load_data

    config = Config(command="train", data=str(data), model=MODEL, recipe="quick")
    found = load_data(config)
    augment = Augment(config, Preprocessing(arguments.size, 1.0, "bilinear"))
    photos = found.train
    if found.shards is not None:
        photos = ShardPhotos(found.shards.train, len(found.class_ids))
    loader = Batches(photos, augment, Draw(BATCH, 0), workers=arguments.workers)
    begin, before, count = time.perf_counter(), used(), 0
    for batch in loader.epoch(0):
        count += len(batch.labels)
    seconds = time.perf_counter() - begin
    loader.close()
    return Found(count / seconds, (used() - before) / count)


def tell(title: str, values: list[Found]) -> None:
    shown = ", ".join(f"{value.speed:,.0f}" for value in values)
    speed, cpu = median(v.speed for v in values), median(v.cpu for v in values)
    print(f"{title:<24}{speed:>8,.0f} photos/s {1000 * cpu:>7.2f} ms   ({shown})", flush=True)


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
        packing: dict[int, list[Found]] = {1: [], 2: []}
        for number in range(arguments.pairs):
            for workers, values in packing.items():
                target = work / f"packed{workers}-{number}"
                values.append(pack(arguments.photos, target, workers, count))
        for workers, values in packing.items():
            tell(f"pack, {workers} worker(s)", values)
        sides = {"folders": arguments.photos, "shards": work / "packed1-0"}
        loading: dict[str, list[Found]] = {name: [] for name in sides}
        training: dict[str, list[Found]] = {name: [] for name in sides}
        for _ in range(arguments.pairs):
            for name, data in sides.items():
                loading[name].append(batches(data, arguments))
        for name in sides:
            tell(f"batches from {name}", loading[name])
        for number in range(arguments.pairs):
            for name, data in sides.items():
                training[name].append(train(data, work, f"{name}{number}", arguments))
        for name in sides:
            tell(f"training from {name}", training[name])


if __name__ == "__main__":
    main()
