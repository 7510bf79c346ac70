"""One photo, whole process: `resnest predict PHOTO` against the timm script, and where time goes.

    python -m tests.benchmarks.oneshot [--photo PHOTO] [--pairs 10] [--imports]
        [--models resnest50d resnest101e resnest200e resnest269e] [--only warm first help]

For each model: warm (compiled before), and the first run with weights at hand but nothing compiled;
then `resnest --help` against the script with the first model. Both sides run in turn. Weights are
the cached published ones where there are any, else a seeded network in a file like timm's download
(the time does not depend on the values). `--imports` adds the slowest imports of the warm path.

This process stays small: on Linux a child's peak memory starts with its parent's.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from resnest_cli.model.variants import get_variant
from resnest_cli.model.weights import find_cached
from resnest_cli.net.hub import cached_repository
from tests.benchmarks.measure import in_turn, report, run

REFERENCE = Path(__file__).with_name("reference_predict.py")
CASES = ("warm", "first", "help")
SEED = """
import sys, torch
from resnest_cli.model.resnest import build
from tests.networks import enliven
torch.save(enliven(build(sys.argv[1])).state_dict(), sys.argv[2])
"""


def make_photo(path: Path) -> Path:
    """A 2000x1500 JPEG with structure and noise, as large as a small camera photo."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((2000, 1500), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = np.clip(pixels + rng.integers(-8, 9, pixels.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, quality=90)
    return path


def find_or_make_weights(model: str) -> Path:
    """The cached published file, else a seeded one where timm's download would lie."""
    variant = get_variant(model)
    if found := find_cached(variant):
        print(f"{model}: cached weights {found.name}")
        return found
    path = cached_repository(variant.hub.id) / "snapshots" / "seeded" / "pytorch_model.bin"
    path.parent.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", SEED, model, str(path)], check=True)
    print(f"{model}: seeded weights")
    return path


def slowest_imports(command: list[str], count: int = 15) -> None:
    """Prints the imports that take longest themselves, and how many there are."""
    traced = [command[0], "-X", "importtime", *command[1:]]
    text = subprocess.run(traced, capture_output=True, text=True, check=True).stderr
    lines = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", text)
    imports = sorted(((int(own), name) for own, name in lines), reverse=True)
    total = sum(own for own, _ in imports) / 1000
    print(f"\n{len(imports)} imports, {total:.0f} ms; the slowest, without what they import:")
    for own, name in imports[:count]:
        print(f"{own / 1000:>8.1f} ms  {name}")


def main() -> None:
    """Measures and prints all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--models", nargs="+", default=["resnest50d"])
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--imports", action="store_true")
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, torch {version('torch')}, "
        f"ONNX Runtime {version('onnxruntime')}, {os.cpu_count()} CPUs"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RESNEST_HOME"] = str(Path(folder) / "home")  # nothing of the user's is touched
        if not any(find_cached(get_variant(model)) for model in options.models):
            os.environ["HF_HOME"] = str(Path(folder) / "huggingface")
            os.environ.pop("HF_HUB_CACHE", None)
        photo = options.photo or make_photo(Path(folder) / "photo.jpg")
        measure(options, photo, Path(folder) / "home" / "compiled")


def measure(options: argparse.Namespace, photo: Path, compiled: Path) -> None:
    """All cases of all models."""
    resnest = [sys.executable, "-m", "resnest_cli"]
    for model in options.models:
        weights = find_or_make_weights(model)
        ours = [*resnest, "predict", str(photo), "--model", model, "--device", "cpu"]
        theirs = [sys.executable, str(REFERENCE), str(photo), model, str(weights)]
        if "warm" in options.only:
            report(f"\nwarm, {model}", *in_turn(ours, theirs, options.pairs))
        if "first" in options.only:
            runs = in_turn(
                ours,
                theirs,
                options.pairs,
                before=lambda: shutil.rmtree(compiled, ignore_errors=True),
            )
            report(f"\nfirst run, nothing compiled, {model}", *runs)
        if "help" in options.only and model == options.models[0]:
            report("\nresnest --help", *in_turn([*resnest, "--help"], theirs, options.pairs))
        if options.imports:
            run(ours)
            slowest_imports(ours)


if __name__ == "__main__":
    main()
