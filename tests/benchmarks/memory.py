"""Peak memory of `resnest predict FOLDER` at 2,000 and at 20,000 small photos: it must be flat.

    python -m tests.benchmarks.memory [--counts 2000 20000]

Folders of generated 64x64 JPEGs (a hundred of them, hard-linked), a tiny network, JSON lines.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from resnest_cli.model import checkpoint
from resnest_cli.model.resnest import build
from resnest_cli.model.variants import Preprocessing
from tests.benchmarks.measure import run
from tests.conftest import make_photo
from tests.networks import TINY, enliven


def main() -> None:
    """Measures and prints each count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[2000, 20000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variant = replace(TINY, preprocessing=Preprocessing(48, 0.9, "bilinear"))
        model = folder / "tiny.safetensors"
        checkpoint.save(
            model,
            enliven(build(variant, num_classes=5)),
            checkpoint.CheckpointInfo(variant=variant),
        )
        seeds = [make_photo(folder / f"{i}.jpg", (64, 64), seed=i) for i in range(100)]
        for count in options.counts:
            photos = folder / f"photos-{count}"
            photos.mkdir()
            for i in range(count):
                os.link(seeds[i % len(seeds)], photos / f"{i}.jpg")
            command = [sys.executable, "-m", "resnest_cli", "predict", str(photos)]
            command += ["--model", str(model), "--format", "jsonl"]
            if count == options.counts[0]:
                run(command)  # compiles the network
            found = run(command)
            print(
                f"{count:>7,} photos: {found.megabytes:6.1f} MB at the peak, "
                f"{found.seconds:6.1f} s, {count / found.seconds:,.0f} photos/s"
            )


if __name__ == "__main__":
    main()
