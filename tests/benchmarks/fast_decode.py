"""`--fast-decode` on photos of 12 megapixels: how much quicker, and how much answers change.

    python -m tests.benchmarks.fast_decode [--photos DIR] [--count 24] [--pairs 5]

The photos are those of DIR, else tests/data and scikit-image's, enlarged to 4000 x 3000 (upright
ones to 3000 x 4000) and saved as JPEG of quality 90. Real pictures of that size have more detail,
which the reduced scale averages away just as the resize does. Printed are

- CPU time of decoding and resizing for resnest50d, whole against reduced, in turn;
- CPU time of a whole `resnest features` with resnest50d and seeded weights, in turn;
- what it changes: pixels of the network's input in levels of 0 to 255, and the bundled model's
  probabilities of all its classes.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.images.batches import Preparation
from resnest_cli.images.decode import decode
from resnest_cli.model.variants import get_variant
from tests.benchmarks.oneshot import find_or_make_weights

MODEL = "resnest50d"
DATA = Path(__file__).parents[1] / "data"
SKIMAGE = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "rocket")


def pictures(folder: Path | None, count: int) -> list[Image.Image]:
    """Real photos, upright."""
    if folder is not None:
        return [decode(path) for path in sorted(folder.iterdir())[:count]]
    import skimage.data

    found = [decode(path) for path in sorted(DATA.glob("*.jpg"))]
    found += [Image.fromarray(getattr(skimage.data, name)()) for name in SKIMAGE]
    return found[:count]


def enlarged(pictures_: list[Image.Image], folder: Path) -> list[Path]:
    """Their 12-megapixel JPEGs."""
    paths = []
    for number, picture in enumerate(pictures_):
        size = (4000, 3000) if picture.width >= picture.height else (3000, 4000)
        paths.append(folder / f"{number:03}.jpg")
        picture.resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def decoding(paths: list[Path], pairs: int) -> None:
    config = get_variant(MODEL).preprocessing
    sides = Preparation(config), Preparation(config, fast=True)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for side, found in zip(sides, seconds, strict=True):
            start = time.process_time()
            for path in paths:
                side(str(path))
            found.append((time.process_time() - start) / len(paths))
    whole, fast = map(median, seconds)
    ratio = median(a / b for a, b in zip(*seconds, strict=True))
    print(f"decode and resize, CPU ms a photo: {1e3 * whole:.1f} whole, {1e3 * fast:.1f} reduced: "
          f"{ratio:.2f} times as quick")  # fmt: skip


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def whole_runs(folder: Path, count: int, pairs: int, work: Path) -> None:
    find_or_make_weights(MODEL)
    command = [sys.executable, "-m", "resnest_cli", "features", str(folder), "-m", MODEL, "-q"]
    command += ["--device", "cpu", "-o", str(work / "f.npy"), "--overwrite"]
    cpu_seconds(command)  # compiles
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for seconds, more in zip(found, ([], ["--fast-decode"]), strict=True):
            seconds.append(cpu_seconds([*command, *more]))
    whole, fast = map(median, found)
    ratio = median(a / b for a, b in zip(*found, strict=True))
    print(f"features of {count} photos with {MODEL}, CPU s: {whole:.1f} whole, {fast:.1f} reduced: "
          f"{ratio:.2f} times as quick")  # fmt: skip


def changes(paths: list[Path]) -> None:
    config = get_variant(MODEL).preprocessing
    plain, fast = Preparation(config), Preparation(config, fast=True)
    std = 255 * np.asarray(config.std, np.float32)[:, None, None]
    levels = [np.abs(plain(str(path)) - fast(str(path))) * std for path in paths]
    print(f"input of {MODEL}: pixels differ by {np.mean(levels):.2f} levels of 255 on average, "
          f"99% by less than {np.percentile(levels, 99):.1f}")  # fmt: skip
    sides = [
        Classifier("demo", fast_decode=fast).features(list(map(str, paths)), head="probabilities")
        for fast in (False, True)
    ]
    change = np.abs(sides[0] - sides[1])
    best = sides[0].argmax(axis=1)
    rows = np.arange(len(best))
    same = (best == sides[1].argmax(axis=1)).sum()
    print(f"demo: the best class's probability changes by {change[rows, best].mean():.4f} on "
          f"average, any by at most {change.max():.4f}; the best class stays for {same} of "
          f"{len(best)}")  # fmt: skip


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["RESNEST_HOME"] = str(work / "home")  # nothing of the user's is touched
        os.environ["HF_HOME"] = str(work / "huggingface")
        (work / "large").mkdir()
        paths = enlarged(pictures(options.photos, options.count), work / "large")
        print(f"{len(paths)} photos of 12 megapixels, medians of {options.pairs} pairs in turn")
        decoding(paths, options.pairs)
        changes(paths)
        whole_runs(work / "large", len(paths), options.pairs, work)


if __name__ == "__main__":
    main()
