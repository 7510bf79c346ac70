"""From a training run to the file of weights that comes with the program.

    python -m tests.campaign.bundle runs/train/exp [--weights best] [--out DIR]

Validates the run's weights in float32, and rounded to float16 as they are shipped, with both
engines; writes resnest14t-<first digits of its SHA-256>.safetensors with the accuracies and the
run's settings in the header, and the temperature that calibrates it; prints everything that the
table of variants needs.
"""

import argparse
import csv
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnest_cli.data.dataset import read_split
from resnest_cli.evaluation.calibration import calibration, fit_temperature
from resnest_cli.evaluation.scores import Meter, Scores
from resnest_cli.files import atomic_file
from resnest_cli.inference.engine import create_engine
from resnest_cli.inference.ranking import softmax
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo, read_header, write_container
from resnest_cli.model.loading import find_model
from resnest_cli.training.loader import Batches
from resnest_cli.training.order import Draw

NAME = "resnest14t"


def evaluate(path: Path, engine: str, samples: tuple) -> tuple[Scores, np.ndarray]:
    """The weights of a file on validation photos; and all logits."""
    model = find_model(str(path))
    runner = create_engine(model, "cpu", engine)  # type: ignore[arg-type]
    meter = Meter(model.num_classes)
    batches = Batches(samples, model.preprocessing, Draw(100))
    rows = []
    for batch in batches.epoch(0):
        rows.append(np.array(runner.logits(np.ascontiguousarray(batch.photos.numpy()))))
        meter.update(torch.from_numpy(rows[-1]), batch.labels)
    return meter.result().scores, np.concatenate(rows)


def top5_of(scores: Scores) -> float:
    """Of more than five classes."""
    assert scores.top5 is not None
    return scores.top5.value


def history(run: Path) -> dict[str, Any]:
    """Epochs and hours of the run."""
    with (run / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seconds = sum(float(row["seconds"]) for row in rows)
    return {"epochs": len(rows), "hours": round(seconds / 3600, 2)}


def save_halved(path: Path, tensors: Mapping[str, Tensor], info: CheckpointInfo) -> None:
    """A checkpoint in float16, for half the size."""
    checkpoint.save(path, tensors, info)
    halved = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    metadata = read_header(path).metadata
    with atomic_file(path) as file:
        write_container(file, metadata, halved)


def main() -> None:
    """Validates, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("resnest_cli/model/bundled"))
    parser.add_argument("--weights", default="best", help="which file of the run")
    parser.add_argument("--img-size", type=int, help="another input size than the run's")
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--device", default="2 CPU cores", help="what it was trained on")
    options = parser.parse_args()
    best = options.run / "weights" / f"{options.weights}.safetensors"
    args = tomllib.loads((options.run / "args.toml").read_text(encoding="utf-8"))
    samples = read_split(options.run / "split.csv", args["data"]).val
    loaded = checkpoint.load(best)
    asked = {"size": options.img_size, "crop_pct": options.crop_pct}
    assert loaded.info.variant is not None
    preprocessing = replace(
        loaded.info.variant.preprocessing, **{key: value for key, value in asked.items() if value}
    )
    info = replace(loaded.info, variant=replace(loaded.info.variant, preprocessing=preprocessing))
    options.out.mkdir(parents=True, exist_ok=True)
    draft = options.out / "draft.safetensors"
    checkpoint.save(draft, loaded.tensors, info)
    full, _ = evaluate(draft, "torch", samples)
    print(f"float32: top-1 {full.top1.value:.2%}, top-5 {top5_of(full):.2%}, loss {full.loss:.4f}")
    kept = ("opt", "lr", "batch_size", "weight_decay", "smoothing", "scale", "start_size",
            "train_size", "model_ema_decay", "mixup", "cutmix", "aa")  # fmt: skip
    provenance = {
        **loaded.info.provenance, **history(options.run), "device": options.device,
        "settings": {key: args[key] for key in kept if key in args},
        "data_source": "Tiny ImageNet-200: 64 x 64 pixel photos of 200 ImageNet classes",
    }  # fmt: skip
    info = replace(info, provenance=provenance)
    save_halved(draft, loaded.tensors, info)
    shipped, logits = evaluate(draft, "torch", samples)
    truth = np.array([sample.label for sample in samples])
    temperature = fit_temperature(logits, truth)
    errors = [
        calibration(softmax(logits, used).max(axis=1), logits.argmax(axis=1) == truth).ece
        for used in (1.0, temperature)
    ]
    metrics = {
        "photos": shipped.photos, "top1": shipped.top1.value, "top5": top5_of(shipped),
        "loss": shipped.loss, "float32_top1": full.top1.value, "float32_top5": top5_of(full),
        "ece_before_temperature": errors[0], "ece": errors[1],
    }  # fmt: skip
    info = replace(info, metrics=metrics, temperature=temperature)
    save_halved(draft, loaded.tensors, info)
    print(f"float16: top-1 {shipped.top1.value:.2%}, top-5 {top5_of(shipped):.2%}, "
          f"loss {shipped.loss:.4f}")  # fmt: skip
    print(f"temperature {temperature:.4f}: calibration error {errors[0]:.2%} -> {errors[1]:.2%}")
    other, _ = evaluate(draft, "onnx", samples)
    print(f"float16, ONNX Runtime: top-1 {other.top1.value:.2%}, top-5 {top5_of(other):.2%}")
    digits = hashlib.sha256(draft.read_bytes()).hexdigest()[:8]
    for old in options.out.glob(f"{NAME}-*.safetensors"):
        old.unlink()
    final = draft.rename(options.out / f"{NAME}-{digits}.safetensors")
    print(f"{final}: {final.stat().st_size:,} bytes; top1={100 * shipped.top1.value:.2f}, "
          f"top5={100 * top5_of(shipped):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
