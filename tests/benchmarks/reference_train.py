"""The loop that people write today: timm's network, transforms, optimiser and scheduler.

python reference_train.py DATA MODEL SIZE EPOCHS BATCH LR SEED RESULT.json

DATA holds train/ and val/ class folders. Writes top-1 of every epoch, seconds and photos/s.
"""

import json
import sys
import time
from pathlib import Path

import timm
import torch
from timm.data import ImageDataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

data, name, size, epochs, batch, rate, seed, result = sys.argv[1:]
SMOOTHING, WARMUP = 0.1, 1


def main() -> None:
    torch.manual_seed(int(seed))
    train = ImageDataset(Path(data) / "train")
    val = ImageDataset(Path(data) / "val")
    model = timm.create_model(name, num_classes=len(train.reader.class_to_idx))
    shape = (3, int(size), int(size))
    loader = create_loader(
        train, shape, int(batch), is_training=True, use_prefetcher=False, num_workers=2,
        scale=(0.35, 1.0), hflip=0.5, color_jitter=0.0, interpolation="bilinear",
    )  # fmt: skip
    check = create_loader(
        val, shape, 100, use_prefetcher=False, num_workers=2, crop_pct=1.0, interpolation="bilinear"
    )
    optimizer = create_optimizer_v2(
        model, opt="sgd", lr=float(rate), weight_decay=5e-4, momentum=0.9
    )
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=int(epochs), warmup_epochs=WARMUP, warmup_lr=1e-4,
        step_on_epochs=False, updates_per_epoch=len(loader),
    )  # fmt: skip
    smoothed = LabelSmoothingCrossEntropy(SMOOTHING)
    rows, step = [], 0
    for epoch in range(int(epochs)):
        model.train()
        begin, photos = time.perf_counter(), 0
        for images, labels in loader:
            optimizer.zero_grad()
            smoothed(model(images), labels).backward()
            optimizer.step()
            step += 1
            scheduler.step_update(step)
            photos += len(labels)
        seconds = time.perf_counter() - begin
        rows.append({"top1": accuracy(model, check), "photos": photos, "seconds": seconds})
        print(f"timm epoch {epoch + 1}: {rows[-1]}", flush=True)
    Path(result).write_text(json.dumps(rows), encoding="utf-8")


def accuracy(model: nn.Module, loader: torch.utils.data.DataLoader) -> float:
    model.eval()
    right = total = 0
    with torch.no_grad():
        for images, labels in loader:
            right += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


if __name__ == "__main__":
    main()
