"""Planted copies and wrong labels: how many of each `resnest check` finds, beside imagededup.

    python -m tests.benchmarks.check DATA... [--model demo] [--copies 0.02] [--labels 0.05]
        [--seed 0] [--imagededup PYTHON] [--show 5]

DATA are folders of class folders, or `digits`: scikit-learn's. A copy of each is made in which a
share of the labels is wrong (any other class), and a share of photos has a near copy, by six kinds
of change in turn: half of them in a class drawn at random, which counts as a wrong label. The
command runs as a user would run it. Of copies the pairs count: recall is the share of planted
copies that stand in a row with their original or another copy of it, precision the share of such
rows among all rows `copy` and `near-copy`; copies that the data have themselves count as wrong, and
`--show` prints some of them. imagededup runs in an interpreter of its own (`--imagededup
/tmp/venv/bin/python`), with perceptual and difference hashes at its own limit of 10 bits of 64; its
CNN needs weights from the network. For labels beside cleanlab, see `check_labels`.
"""

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageEnhance

from resnest_cli.images.sources import is_photo
from tests.benchmarks.digits import write_digits

CHANGES = ("scaled", "cropped", "recompressed", "mirrored", "coloured", "several")

IMAGEDEDUP = """
import json, sys
from imagededup.methods import DHash, PHash
found = {}
for method in (PHash, DHash):
    pairs = method(verbose=False).find_duplicates(
        image_dir=sys.argv[1], recursive=True, num_enc_workers=0, num_dist_workers=0
    )
    found[method.__name__] = sorted({tuple(sorted((a, b))) for a, bs in pairs.items() for b in bs})
print(json.dumps(found))
"""

Pair = tuple[str, str]


@dataclass
class Planted:
    """What is wrong with the data: copies with their originals and changes, wrong labels."""

    copies: dict[str, tuple[str, str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)  # with the right class

    def same(self, pair: Pair) -> bool:
        """Whether two photos are one planted copy and its original, or two copies of one."""
        first, second = (self.copies.get(name, (name, ""))[0] for name in pair)
        return first == second


def changed(photo: Image.Image, change: str, draw: random.Random) -> Image.Image:
    """A photo after one of `CHANGES`."""
    width, height = photo.size
    if change == "scaled":
        scale = draw.choice((0.6, 0.75, 1.5))
        size = max(1, round(scale * width)), max(1, round(scale * height))
        return photo.resize(size, Image.Resampling.BICUBIC)
    if change == "cropped":
        across, down = draw.uniform(0.05, 0.15) * width, draw.uniform(0.05, 0.15) * height
        left, top = draw.random() * across, draw.random() * down
        box = left, top, left + width - across, top + height - down
        return photo.crop(tuple(map(round, box)))  # type: ignore[arg-type]
    if change == "mirrored":
        return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if change == "coloured":
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            amount = draw.choice((draw.uniform(0.7, 0.9), draw.uniform(1.1, 1.3)))
            photo = enhance(photo).enhance(amount)
        return photo
    if change == "several":
        for one in ("cropped", "coloured", "scaled", *draw.choice(((), ("mirrored",)))):
            photo = changed(photo, one, draw)
    return photo


def plant(source: Path, target: Path, copies: float, labels: float, seed: int) -> Planted:
    """A copy of class folders in which shares of photos have copies, and wrong labels."""
    draw, planted = random.Random(seed), Planted()
    photos = sorted(path for path in source.rglob("*") if is_photo(path.name) and path.is_file())
    classes = sorted({photo.relative_to(source).parts[0] for photo in photos})
    names: list[str] = []
    wrong = set(draw.sample(range(len(photos)), round(labels * len(photos))))
    for place, photo in enumerate(photos):
        own = photo.relative_to(source).parts[0]
        label = draw.choice([one for one in classes if one != own]) if place in wrong else own
        name = f"{label}/{own}_{photo.name}"
        (target / label).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, target / name)
        names.append(name)
        if place in wrong:
            planted.labels[name] = own
    for place, original in enumerate(draw.sample(names, round(copies * len(names)))):
        change = CHANGES[place % len(CHANGES)]
        with Image.open(target / original) as photo:
            copy = changed(photo.convert("RGB"), change, draw)
        folder = draw.choice(classes) if place % 2 else original.partition("/")[0]
        small = max(copy.size) < 16  # JPEG would leave nothing of digits
        name = f"{folder}/copy{place}_{change}.{'png' if small else 'jpg'}"
        quality = {"recompressed": draw.randint(20, 40), "several": 50}.get(change, 90)
        copy.save(target / name, quality=quality)
        planted.copies[name] = original, change
        own = planted.labels.get(original, original.partition("/")[0])
        if folder != own:
            planted.labels[name] = own
    return planted


def found_by_us(data: Path, model: str) -> tuple[list[Pair], list[str], float]:
    """Pairs of copies, photos with wrong labels, and seconds, of the command."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        command = [sys.executable, "-m", "resnest_cli", "check", str(data), "-q", "-m", model]
        subprocess.run([*command, "-o", folder], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        with (Path(folder) / "issues.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    pairs = [(r["path"], r["partner"]) for r in rows if r["kind"] in {"copy", "near-copy"}]
    return pairs, [row["path"] for row in rows if row["kind"] == "label"], seconds


def show_copies(program: str, pairs: Sequence[Pair], planted: Planted, shown: int = 0) -> None:
    """A line of recall, of all and of each change, and precision; then some that are wrong."""
    right = [pair for pair in pairs if planted.same(pair)]
    hit = {name for pair in right for name in pair if name in planted.copies}
    every = Counter(change for _, change in planted.copies.values())
    of_change = Counter(planted.copies[name][1] for name in hit)
    detail = "  ".join(f"{name} {of_change[name]}/{every[name]}" for name in CHANGES)
    recall, precision = len(hit) / len(planted.copies), len(right) / max(1, len(pairs))
    print(f"  {program:<18} recall {recall:6.1%}  precision {precision:6.1%}  {detail}", flush=True)
    for pair in [pair for pair in pairs if pair not in right][:shown]:
        print("    not planted:", *pair)


def show_labels(found: Iterable[str], planted: Planted) -> None:
    """Recall and precision of wrong labels."""
    named = set(found)
    hits = len(named & planted.labels.keys())
    recall, precision = hits / max(1, len(planted.labels)), hits / max(1, len(named))
    print(f"  {'wrong labels':<18} recall {recall:6.1%}  precision {precision:6.1%}", flush=True)


def measure(data: str, folder: Path, options: argparse.Namespace) -> None:
    """Plants, looks, and prints."""
    source = write_digits(folder / "digits", range(10)) if data == "digits" else Path(data)
    target = folder / "data"
    planted = plant(source, target, options.copies, options.labels, options.seed)
    pairs, labels, seconds = found_by_us(target, options.model)
    print(
        f"{data}: {len(planted.copies)} copies and {len(planted.labels)} wrong labels planted; "
        f"resnest check took {seconds:.1f} s",
        flush=True,
    )
    show_copies("resnest", pairs, planted, options.show)
    show_labels(labels, planted)
    if options.imagededup:
        command = [options.imagededup, "-c", IMAGEDEDUP, str(target)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for method, others in json.loads(printed.splitlines()[-1]).items():
            show_copies(f"imagededup {method}", [(a, b) for a, b in others], planted)


def main() -> None:
    """Measures all data, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--copies", type=float, default=0.02)
    parser.add_argument("--labels", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--imagededup", help="an interpreter that has imagededup")
    parser.add_argument("--show", type=int, default=0, help="finds that were not planted")
    options = parser.parse_args()
    for data in options.data:
        with tempfile.TemporaryDirectory() as folder:
            measure(data, Path(folder), options)


if __name__ == "__main__":
    main()
