"""Several labels for one photo: `resnest finetune` against a plain loop with timm, by mAP.

    python -m tests.benchmarks.several_labels TINY-IMAGENET [--classes 20] [--photos 1000]
        [--epochs 30] [--seeds 0 1 2] [--size 96] [--lr 0.003] [--ours=FLAGS]
    python -m tests.benchmarks.several_labels --table photos.csv

TINY-IMAGENET holds train/ and val/ class folders. Each seed draws collages: 2 x 2 cells of 64
pixels with two to four photos of different classes, grey where none is, and the labels of all.
Those that validate, half as many, are made of validation photos. Or `--table` names a CSV of
path,labels,split (labels joined by |) of other photos; then a seed is that of the training alone.

Both sides start from the bundled network, whose tensors timm's `ResNet` takes strictly, and train
the classifier alone: the same photos, size, batches, epochs, binary cross entropy without
smoothing, AdamW with the same rate and decay, one epoch of warm-up, then a cosine, mirroring.
Labels of collages are numbers, else ours would take over the rows of the classes that the network
knows. As nothing of the backbone changes, the loop, too, computes the features of each photo and of
its mirror once; scikit-learn has its figure. Of both the best epoch counts. Ours has what
`finetune` has besides: a clipped gradient and a moving average.
"""

import argparse
import csv
import random
import tempfile
import time
from pathlib import Path
from statistics import mean

import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from timm.data import create_transform
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import ResNet
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from resnest_cli.model import checkpoint
from resnest_cli.model.loading import find_model
from tests.benchmarks.runs import best_score
from tests.benchmarks.transfer import photos_of

CELL, BATCH, DECAY = 64, 32, 0.01


def write_collages(data: Path, folder: Path, options: argparse.Namespace, seed: int) -> Path:
    """Collages as JPEG files, and their table."""
    drawn = random.Random(seed)
    names = sorted(path.name for path in (data / "train").iterdir())[: options.classes]
    folder.mkdir(parents=True)
    rows = []
    for side, count in (("train", options.photos), ("val", options.photos // 2)):
        photos = {name: photos_of(data, side, name) for name in names}
        for number in range(count):
            shown = drawn.sample(names, drawn.randint(2, 4))
            sheet = Image.new("RGB", (2 * CELL, 2 * CELL), "grey")
            for name, cell in zip(shown, drawn.sample(range(4), len(shown)), strict=True):
                with Image.open(drawn.choice(photos[name])) as photo:
                    sheet.paste(photo.convert("RGB"), (cell % 2 * CELL, cell // 2 * CELL))
            sheet.save(folder / f"{side}-{number}.jpg", quality=95)
            labels = sorted(f"{names.index(name):02d}" for name in shown)
            rows.append((f"{side}-{number}.jpg", "|".join(labels), side))
    with (folder / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "labels", "split"), *rows])
    return folder / "photos.csv"


def names_of(table: Path) -> list[str]:
    """Its labels, sorted."""
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return sorted({label for row in rows for label in row["labels"].split("|") if label})


def network_of(classes: int) -> ResNet:
    """The bundled network in timm's class, with a new classifier; the rest is frozen."""
    network = ResNet(
        ResNestBottleneck, [1, 2, 2, 1], num_classes=200, stem_type="deep", stem_width=16,
        avg_down=True, base_width=64, channels=(32, 64, 128, 256),
        block_args={"radix": 2, "avd": True, "avd_first": False},
    )  # fmt: skip
    ours = checkpoint.instantiate(checkpoint.load(find_model("demo").path))
    network.load_state_dict(ours.state_dict())
    network.requires_grad_(False)
    network.reset_classifier(classes)
    return network.eval()


def features_of(table: Path, size: int, network: ResNet) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each side features (N, 2, channels) of photos and mirrors, and labels (N, classes)."""
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = names_of(table)
    transform = create_transform(size, interpolation="bilinear", crop_pct=1.0)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"train": [], "val": []}
    for row in rows:
        with Image.open(table.parent / row["path"]) as image:
            photo = transform(image.convert("RGB"))
        with torch.inference_mode():
            both = network.forward_features(torch.stack([photo, photo.flip(-1)]))
            values = network.forward_head(both, pre_logits=True)
        labels = row["labels"].split("|")
        found[row["split"]].append((values, torch.tensor([float(n in labels) for n in names])))
    return {
        side: (torch.stack([one for one, _ in pairs]), torch.stack([one for _, one in pairs]))
        for side, pairs in found.items()
    }


def timm_map(table: Path, options: argparse.Namespace, seed: int) -> tuple[float, float]:
    """The best mAP of the loop's epochs, and the seconds that it took."""
    begin = time.monotonic()
    torch.manual_seed(seed)
    network = network_of(len(names_of(table)))
    sides = features_of(table, options.size, network)
    (photos, labels), (checked, truth) = sides["train"], sides["val"]
    head, steps = network.get_classifier(), -(-len(photos) // BATCH)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=options.lr, weight_decay=DECAY)
    schedule, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=options.epochs, warmup_epochs=1, warmup_lr=1e-5,
        step_on_epochs=False, updates_per_epoch=steps,
    )  # fmt: skip
    loss, best, step = nn.BCEWithLogitsLoss(), 0.0, 0
    for _ in range(options.epochs):
        for places in torch.randperm(len(photos)).split(BATCH):
            views = torch.randint(2, places.shape)
            optimizer.zero_grad()
            loss(head(photos[places, views]), labels[places]).backward()
            optimizer.step()
            step += 1
            schedule.step_update(step)
        with torch.inference_mode():
            logits = head(checked[:, 0])
        best = max(best, float(average_precision_score(truth, logits, average="macro")))
    return best, time.monotonic() - begin


def main() -> None:
    """A line for each seed, and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--ours", default="", help="more flags of resnest finetune, in one word")
    options = parser.parse_args()
    if (options.data is None) == (options.table is None):
        parser.error("name TINY-IMAGENET, or a --table")
    found = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for seed in options.seeds:
            table = options.table or write_collages(options.data, work / str(seed), options, seed)
            ours, took = best_score(
                work, "finetune", f"seed{seed}", table.resolve(), "--multi-label", "--model",
                "demo", "--freeze", "backbone", "--img-size", str(options.size), "--crop-pct", "1",
                "-b", str(BATCH), "--epochs", str(options.epochs), "--lr", str(options.lr),
                "--seed", str(seed), "--smoothing", "0", *options.ours.split(), score="map",
            )  # fmt: skip
            theirs, looped = timm_map(table, options, seed)
            found.append((ours, theirs))
            print(f"seed {seed}: mAP {ours:.2%}, timm {theirs:.2%}; {took:.0f} s, {looped:.0f} s",
                  flush=True)  # fmt: skip
    ours, theirs = (mean(column) for column in zip(*found, strict=True))
    print(f"mean: mAP {ours:.2%}, timm {theirs:.2%}, {100 * (ours - theirs):+.2f} points")


if __name__ == "__main__":
    main()
