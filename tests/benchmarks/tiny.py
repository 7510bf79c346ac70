"""Writes the checkpoint of a tiny network, for runs whose network shall cost nothing.

python -m tests.benchmarks.tiny CHECKPOINT
"""

import sys
from dataclasses import replace
from pathlib import Path

from resnest_cli.model import checkpoint
from resnest_cli.model.resnest import build
from resnest_cli.model.variants import Preprocessing
from tests.networks import TINY, enliven

if __name__ == "__main__":
    variant = replace(TINY, preprocessing=Preprocessing(48, 0.9, "bilinear"))
    info = checkpoint.CheckpointInfo(variant=variant)
    checkpoint.save(Path(sys.argv[1]), enliven(build(variant, num_classes=5)), info)
