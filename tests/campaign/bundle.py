"""From a training run to the file of weights that comes with the program.

    python -m tests.campaign.bundle runs/train/exp --photos DIR [--weights best] [--out DIR]

DIR has ordinary photos that were not trained on, in folders named by ImageNet's ids. Measures the
run's weights on them in float32, and rounded to float16 as they are shipped, with both engines;
writes VARIANT-<first digits of its SHA-256>.safetensors with the accuracies and the run's settings
in the header, and the temperature that calibrates it on the run's validation photos; prints
everything that the table of variants needs. A network of ImageNet's classes in the published order
carries no names of its own, as the published networks do not.
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

from resnest_cli.data.class_folders import list_data
from resnest_cli.data.dataset import Sample, read_split
from resnest_cli.evaluation.calibration import calibration, fit_temperature
from resnest_cli.evaluation.scores import Meter, Scores
from resnest_cli.files import atomic_file
from resnest_cli.inference.engine import create_engine
from resnest_cli.inference.ranking import softmax
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo, read_header, write_container
from resnest_cli.model.labels import imagenet_ids
from resnest_cli.model.loading import find_model
from resnest_cli.training.loader import Batches
from resnest_cli.training.order import Draw


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


def ordinary(folder: str, ids: tuple[str, ...]) -> tuple[Sample, ...]:
    """All photos of a folder of classes, of which these are the ids."""
    found = list_data(folder).photos
    return tuple(Sample(str(one.path), one.name, ids.index(one.label)) for one in found)


def main() -> None:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--photos", required=True, help="ordinary photos, in folders of ids")
    parser.add_argument("--out", type=Path, default=Path("resnest_cli/model/bundled"))
    parser.add_argument("--weights", default="best", help="which file of the run")
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--device", default="2 CPU cores", help="what it was trained on")
    options = parser.parse_args()
    args = tomllib.loads((options.run / "args.toml").read_text(encoding="utf-8"))
    validation = read_split(
        options.run / "split.csv", args["data"], unlabelled=args.get("unlabelled")
    )
    ids = validation.class_ids
    photos = ordinary(options.photos, ids)
    loaded = checkpoint.load(options.run / "weights" / f"{options.weights}.safetensors")
    info = shipped(loaded.info, options, args, published=ids == imagenet_ids())
    options.out.mkdir(parents=True, exist_ok=True)
    draft = options.out / "draft.safetensors"
    checkpoint.save(draft, loaded.tensors, info)
    full, _ = evaluate(draft, "torch", photos)
    report("float32", full)
    save_halved(draft, loaded.tensors, info)
    _, logits = evaluate(draft, "torch", validation.val)
    temperature = fit_temperature(logits, np.array([sample.label for sample in validation.val]))
    halved, logits = evaluate(draft, "torch", photos)
    report("float16", halved)
    truth = np.array([sample.label for sample in photos])
    errors = [
        calibration(softmax(logits, used).max(axis=1), logits.argmax(axis=1) == truth).ece
        for used in (1.0, temperature)
    ]
    print(f"temperature {temperature:.4f}: calibration error {errors[0]:.2%} -> {errors[1]:.2%}")
    metrics = {
        "photos": halved.photos, "top1": halved.top1.value, "top5": top5_of(halved),
        "loss": halved.loss, "float32_top1": full.top1.value, "float32_top5": top5_of(full),
        "ece_before_temperature": errors[0], "ece": errors[1],
    }  # fmt: skip
    save_halved(draft, loaded.tensors, replace(info, metrics=metrics, temperature=temperature))
    report("float16, ONNX Runtime", evaluate(draft, "onnx", photos)[0])
    digits = hashlib.sha256(draft.read_bytes()).hexdigest()[:8]
    for old in options.out.glob("resnest*.safetensors"):
        old.unlink()
    final = draft.rename(options.out / f"{args['model']}-{digits}.safetensors")
    print(f"{final}: {final.stat().st_size:,} bytes; top1={100 * halved.top1.value:.2f}, "
          f"top5={100 * top5_of(halved):.2f}")  # fmt: skip


def shipped(
    info: CheckpointInfo, options: argparse.Namespace, args: Mapping[str, Any], *, published: bool
) -> CheckpointInfo:
    """What the shipped file says of itself; with ImageNet's `published` classes it names none."""
    assert info.variant is not None
    preprocessing = info.variant.preprocessing
    if options.crop_pct:
        preprocessing = replace(preprocessing, crop_pct=options.crop_pct)
    kept = ("opt", "lr", "batch_size", "weight_decay", "smoothing", "scale", "start_size",
            "train_size", "model_ema_decay", "mixup", "cutmix", "aa", "teacher_weight",
            "teacher_temperature", "teacher_crops")  # fmt: skip
    provenance = {
        **info.provenance, **history(options.run), "device": options.device,
        "settings": {key: args[key] for key in kept if key in args},
    }  # fmt: skip
    for private in ("class_ids",) if published else ():
        provenance.pop(private, None)
    return replace(
        info,
        variant=replace(info.variant, preprocessing=preprocessing),
        class_names=None if published else info.class_names,
        provenance=provenance,
        trained_on=None,  # as large as a tenth of the weights
    )


def report(what: str, scores: Scores) -> None:
    """The accuracies of one form of the weights."""
    print(f"{what}: top-1 {scores.top1.value:.2%}, top-5 {top5_of(scores):.2%}, "
          f"loss {scores.loss:.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
