"""One photo, whole process: `resnest predict PHOTO --model resnest50d` against the timm script.

    python -m tests.benchmarks.oneshot [--photo PHOTO] [--pairs 5] [--model resnest50d]

Both sides read the same file of weights from the disk: the cached published one where there is
one, else a seeded network, made for the occasion (the time does not depend on the values).
"""

import argparse
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resnest_cli.model.resnest import build
from resnest_cli.model.variants import get_variant
from resnest_cli.model.weights import find_cached
from tests.benchmarks.measure import in_turn, report
from tests.networks import enliven

REFERENCE = Path(__file__).with_name("reference_predict.py")


def make_photo(path: Path) -> Path:
    """A 2000x1500 JPEG with structure and noise, as large as a small camera photo."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((2000, 1500), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = np.clip(pixels + rng.integers(-8, 9, pixels.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, quality=90)
    return path


def main() -> None:
    """Measures and prints both sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--model", default="resnest50d")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = options.photo or make_photo(Path(folder) / "photo.jpg")
        weights = find_cached(get_variant(options.model))
        kind = "cached published weights"
        if weights is None:
            kind = "seeded weights"
            weights = Path(folder) / "seeded.pth"
            torch.save(enliven(build(options.model)).state_dict(), weights)
        ours = [sys.executable, "-m", "resnest_cli", "predict", str(photo)]
        ours += ["--model", options.model, "--weights", str(weights)]
        theirs = [sys.executable, str(REFERENCE), str(photo), options.model, str(weights)]
        print(
            f"Python {platform.python_version()}, torch {torch.__version__}, "
            f"{torch.get_num_threads()} threads, {kind}"
        )
        report(f"predict one photo, {options.model}", *in_turn(ours, theirs, options.pairs))


if __name__ == "__main__":
    main()
