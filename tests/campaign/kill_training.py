"""Kills a training run again and again and compares the weights at the end with a quiet run's.

    python -m tests.campaign.kill_training [--kills 30] [--seed 0]

Every run is killed up to five times, at random moments, and then left to end; runs follow each
other until there were so many kills. Prints what was found after the kills.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from resnest_cli.model import checkpoint
from resnest_cli.model.resnest import build
from resnest_cli.model.variants import Preprocessing
from tests.networks import TINY, enliven
from tests.training import kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    total = kills.Trial()
    with tempfile.TemporaryDirectory() as folder_name:
        work = Path(folder_name)
        variant = replace(TINY, preprocessing=Preprocessing(48, 0.9, "bilinear"))
        model = work / "tiny.safetensors"
        info = checkpoint.CheckpointInfo(variant=variant)
        checkpoint.save(model, enliven(build(variant, num_classes=5)), info)
        for name, trial in kills.campaign(work, model, options.kills, options.seed):
            print(f"{name}: {trial}, weights identical", flush=True)
            for field in ("kills", "with_state", "with_weights", "leftovers"):
                setattr(total, field, getattr(total, field) + getattr(trial, field))
    print(f"{total}: every file of weights identical, nothing unreadable")


if __name__ == "__main__":
    main()
