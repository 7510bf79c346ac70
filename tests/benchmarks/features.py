"""`resnest features FOLDER` against the timm script, whole process; and how it grows.

    python -m tests.benchmarks.features [--pairs 5] [--count 512] [--predict] [--floor] [--linear]
        [--memory] [--settings "-b 8 -j 2" "-b 32 -j 2"]

By default: photos/s and peak memory over 512 photos with resnest50d on the CPU, against timm with
a DataLoader (batch 32, 2 workers), in turn. The photos are those of ../shared/photos repeated, or
generated ones of 500 x 375 where there are none, not turned upright, as in the script. Weights are
the cached published ones, else seeded. The peak is that of the largest process of either side.
`--predict` does the same with `resnest predict`. `--floor` says where the time of our side goes:
the steps' seconds, the share of convolutions in the network's (by ONNX Runtime's profiler), and the
network's multiply-adds as a share of what a matrix product reaches here. `--linear` compares 512
with 5,120 photos, `--memory` 2,000 with 20,000 small ones; `--settings` compares other options of
ours.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from resnest_cli.model.variants import get_variant
from resnest_cli.model.weights import find_cached
from tests.benchmarks.measure import Run, in_turn, run
from tests.benchmarks.oneshot import find_or_make_weights

REFERENCE = Path(__file__).with_name("reference_features.py")
SHARED = Path(__file__).parents[3] / "shared" / "photos"
MODEL = "resnest50d"
RESNEST = [sys.executable, "-m", "resnest_cli", "features"]


def photos_in(folder: Path) -> list[Path]:
    """The shared photos, else 64 generated ones of 500 x 375 with structure and noise."""
    found = sorted(SHARED.glob("*.J*")) + sorted(SHARED.glob("*.j*")) if SHARED.is_dir() else []
    if found:
        return found
    rng = np.random.default_rng(0)
    for index in range(64):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(pixels + rng.integers(-8, 9, pixels.shape), 0, 255).astype(np.uint8)
        found.append(folder / f"seed{index}.jpg")
        Image.fromarray(noisy).save(found[-1], quality=90)
    return found


def repeated(photos: list[Path], folder: Path, count: int) -> Path:
    """A folder of `count` photos: one copy of each, and hard links."""
    folder.mkdir()
    for index in range(count):
        place = folder / f"{index:06}.jpg"
        if index < len(photos):
            shutil.copy(photos[index], place)
        else:
            os.link(folder / f"{index % len(photos):06}.jpg", place)
    return folder


def ours(photos: Path, model: list[str], out: Path, *options: str) -> list[str]:
    return [*RESNEST, str(photos), *model, "-o", str(out), "--overwrite", "-q", *options]


def against_timm(options: argparse.Namespace, photos: list[Path], work: Path) -> None:
    """The one table that the README quotes."""
    folder = repeated(photos, work / "many", options.count)
    weights = find_or_make_weights(MODEL)
    theirs = [sys.executable, str(REFERENCE), str(folder), MODEL, str(weights), str(work / "t.npy")]
    command = ours(folder, ["-m", MODEL, "--device", "cpu", "--no-exif"], work / "o.npy")
    if options.predict:
        theirs.append("predict")
        command = [*RESNEST[:-1], "predict", str(folder), "-m", MODEL, "--device", "cpu"]
        command += ["--no-exif", "-q", "-o", str(work / "o.jsonl")]
    results = in_turn(command, theirs, options.pairs)
    a, b = answers(work, predict=options.predict)
    print(f"largest difference: {np.abs(a - b).max() / np.abs(b).max():.1e} of the largest value")
    print(f"{options.count} photos, {MODEL}, medians of {options.pairs} pairs in turn")
    print(f"{'':12}{'ours':>10}{'timm':>10}{'ratio':>8}")
    speed = [options.count / median(r.seconds for r in side) for side in results]
    peak = [median(r.megabytes for r in side) for side in results]
    for name, (x, y) in (("photos/s", speed), ("peak MB", peak)):
        print(f"{name:12}{x:>10.1f}{y:>10.1f}{x / y:>8.2f}")
    pairs = zip(*results, strict=True)
    print("ratio of each pair:", *(f"{y.seconds / x.seconds:.2f}" for x, y in pairs))


def answers(work: Path, *, predict: bool) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of both sides: features, or the probabilities of our five best classes."""
    theirs = np.load(work / "t.npy")
    if not predict:
        return np.load(work / "o.npy"), theirs
    with (work / "o.jsonl").open(encoding="utf-8") as file:
        records = [json.loads(line)["predictions"] for line in file]
    indices = np.array([[p["index"] for p in record] for record in records])
    found = np.array([[p["probability"] for p in record] for record in records])
    return found, np.take_along_axis(theirs, indices, axis=1)


def floor(options: argparse.Namespace, photos: list[Path], work: Path) -> None:
    """Where the time of `resnest features` goes, and what the machine could do at most."""
    folder = repeated(photos, work / "floor", options.count)
    find_or_make_weights(MODEL)
    command = ours(folder, ["-m", MODEL, "--device", "cpu"], work / "f.npy")
    command.remove("-q")
    subprocess.run(command, capture_output=True, check=True)
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall = time.perf_counter() - begin
    print(f"whole process {wall:.1f} s: {done.stderr.splitlines()[0]}")
    benchmark = [*RESNEST[:-1], "benchmark", "-m", MODEL, "--engine", "onnx", "-b", "8"]
    text = subprocess.run(
        [*benchmark, "--format", "json"], capture_output=True, text=True, check=True
    ).stdout
    found = json.loads(text)
    (case,) = found["runs"]
    network = options.count / case["photos_per_second"]
    share = found["stages"]["engines"][0]["convolutions"]
    print(f"network alone, batches of 8: {case['photos_per_second']:.1f} photos/s, so "
          f"{network:.1f} s of these; {share:.0%} of that in convolutions, "
          f"{share * network / wall:.0%} of the whole process")  # fmt: skip
    product = case["gmacs_per_second"] / case["matmul_share"]
    print(f"{case['gmacs_per_second']:.0f} GMAC/s, {case['matmul_share']:.0%} of a matrix "
          f"product's {product:.0f}")  # fmt: skip


def settings(options: argparse.Namespace, photos: list[Path], work: Path) -> None:
    """Medians of other options, in turn."""
    folder = repeated(photos, work / "settings", options.count)
    find_or_make_weights(MODEL)
    found: dict[str, list[Run]] = {text: [] for text in options.settings}
    for number in range(options.pairs + 1):
        for text, runs in found.items():
            done = run(ours(folder, ["-m", MODEL], work / "s.npy", *text.split()))
            if number:  # the first is a warm-up
                runs.append(done)
    for text, runs in found.items():
        seconds = median(r.seconds for r in runs)
        print(f"{text:16}{options.count / seconds:8.1f} photos/s, "
              f"{median(r.megabytes for r in runs):6.0f} MB")  # fmt: skip


def linear(options: argparse.Namespace, photos: list[Path], work: Path) -> None:
    """Seconds for ten times as many photos, without the start-up that both pay once."""
    folders = {
        n: repeated(photos, work / f"linear{n}", n) for n in (options.count, 10 * options.count)
    }
    find_or_make_weights(MODEL)
    model = ["-m", MODEL]
    run(ours(folders[options.count], model, work / "l.npy"))
    seconds = {n: [] for n in folders}
    for _ in range(options.pairs):
        for count, folder in folders.items():
            seconds[count].append(run(ours(folder, model, work / "l.npy")).seconds)
    few, many = (median(values) for values in seconds.values())
    print(f"{options.count} photos: {few:.1f} s, {10 * options.count}: {many:.1f} s, "
          f"{many / few:.2f} times as long")  # fmt: skip


def memory(work: Path) -> None:
    """The largest process, and the caller alone, at two counts of small photos."""
    model = work / "tiny.safetensors"
    subprocess.run([sys.executable, "-m", "tests.benchmarks.tiny", str(model)], check=True)
    seeds = []
    rng = np.random.default_rng(0)
    for index in range(100):
        seeds.append(work / f"small{index}.jpg")
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(seeds[-1])
    peaks = []
    for count in (2_000, 20_000):
        folder = repeated(seeds, work / f"small-{count}", count)
        for suffix in ("npy", "npz", "csv", "parquet"):
            command = ours(folder, ["-m", str(model)], work / f"m.{suffix}")
            if not peaks:
                run(command)  # compiles the network
            found = run(command)
            peaks.append((suffix, count, found.megabytes))
            print(f"{count:>7,} photos to .{suffix:8}{found.megabytes:7.1f} MB at the peak, "
                  f"{found.seconds:6.1f} s, {count / found.seconds:,.0f} photos/s")  # fmt: skip
    for suffix in ("npy", "npz", "csv", "parquet"):
        few, many = (mb for name, _, mb in peaks if name == suffix)
        print(f".{suffix}: {many - few:+.1f} MB from 2,000 to 20,000")


def main() -> None:
    """Measures and prints what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--settings", nargs="+")
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, torch {version('torch')}, "
        f"ONNX Runtime {version('onnxruntime')}, {os.cpu_count()} CPUs"
    )
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["RESNEST_HOME"] = str(work / "home")  # nothing of the user's is touched
        if not find_cached(get_variant(MODEL)):
            os.environ["HF_HOME"] = str(work / "huggingface")
            os.environ.pop("HF_HUB_CACHE", None)
        if options.memory:
            memory(work)
            return
        photos = photos_in(work)
        if options.floor:
            floor(options, photos, work)
        elif options.settings:
            settings(options, photos, work)
        elif options.linear:
            linear(options, photos, work)
        else:
            against_timm(options, photos, work)


if __name__ == "__main__":
    main()
