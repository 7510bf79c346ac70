"""How well photos of something else are found: AUROC and FPR95 of nine scores on pairs of sets.

    python -m tests.benchmarks.unknown TINY-IMAGENET [--work DIR] [--clothing DIR --animals DIR]

Known and other photos: scikit-learn's digits and Tiny ImageNet; 20 of its classes and 20 others;
its food and its animals; its clothing and its animals, or the folders that are given: --clothing
has train/CLASS/ and validation/CLASS/, --animals photos at any depth. The bundled network, which
has learned from Tiny ImageNet, learns the known classes, with a frozen backbone and as a whole;
then each score is asked about the known classes' validation photos and 1,000 others. The manual's
figures are of resnest14t, the bundled network before.

AUROC is the chance that one of the others has the higher score: 50 % is a guess. FPR95 is the share
of the others that pass where 95 % of the known ones pass. Bytes are those of float16 in a file.
"""

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ImageError
from resnest_cli.evaluation.scores import auroc
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.unknown import fitted
from tests.benchmarks.digits import write_digits
from tests.benchmarks.runs import best_top1
from tests.benchmarks.transfer import photos_of, write_manifest

Float = NDArray[np.float64]
Rows = list[tuple[Path, str, str]]  # photo, class, side
Score = Callable[[Float, Float], Float]  # features and logits -> higher for other photos

RUNS = {
    "frozen": ["--freeze", "backbone"],
    "whole": ["--freeze", "none", "--recipe", "quick", "--lr", "0.02", "--epochs", "6", "-b", "32"],
}
OTHERS = 1000
ANIMALS = ("n01", "n020", "n021", "n022", "n023", "n024", "n0250")
FOOD = ("n075", "n076", "n077", "n078", "n079")
CLOTHES = ("n02669723", "n02730930", "n02837789", "n02883205", "n02963159", "n03404251",
           "n03617480", "n03763968", "n03770439", "n03980874", "n04133789", "n04254777",
           "n04259630", "n04371430")  # fmt: skip


def unit(rows: Float) -> Float:
    """Rows of length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def evidence(logits: Float) -> Float:
    """log(sum(exp(logits)))."""
    most = logits.max(1)
    return most + np.log(np.exp(logits - most[:, None]).sum(1))


def probability(_: Float, logits: Float) -> Float:
    """One minus the largest probability."""
    return 1 - np.exp(logits.max(1) - evidence(logits))


def squared(one: Float, two: Float) -> Float:
    """Squared distances (N, M)."""
    return (one**2).sum(1)[:, None] + (two**2).sum(1)[None] - 2 * one @ two.T


def whitening(rest: Float, shrink: float) -> Float:
    """Turns a Mahalanobis distance into a Euclidean one; the covariance is shrunk to its mean."""
    values, vectors = np.linalg.eigh(rest.T @ rest / len(rest))
    values = np.maximum(values, 0)
    found: Float = vectors / np.sqrt((1 - shrink) * values + shrink * values.mean())
    return found


def scores(train: Float, labels: NDArray[np.int64], logits: Float, val: tuple[Float, Float],
           ) -> dict[str, tuple[Score, int]]:  # fmt: skip
    """Each score and the bytes that it keeps."""
    classes, width = len(np.unique(labels)), train.shape[1]
    means = np.stack([train[labels == one].mean(0) for one in range(classes)])
    inside = whitening(train - means[labels], 0.1)
    middle = train.mean(0, keepdims=True)
    outside = whitening(train - middle, 0.1)
    directions = unit(np.stack([unit(train)[labels == one].mean(0) for one in range(classes)]))
    few = np.random.default_rng(0).permutation(len(train))[:200]
    ours = fitted((train.astype(np.float32), logits.astype(np.float32)),
                  (val[0].astype(np.float32), val[1].astype(np.float32)))  # fmt: skip

    def mahalanobis(features: Float, _: Float) -> Float:
        return squared(features @ inside, means @ inside).min(1)

    def relative(features: Float, found: Float) -> Float:
        return mahalanobis(features, found) - squared(features @ outside, middle @ outside)[:, 0]

    def neighbours(kept: Float, k: int) -> Score:
        return lambda features, _: -np.sort(unit(features) @ unit(kept).T, axis=1)[:, -k]

    gaussian = 2 * width * (classes + width)
    return {
        "largest probability": (probability, 0),
        "energy": (lambda _, found: -evidence(found), 0),
        "Mahalanobis": (mahalanobis, gaussian),
        "relative Mahalanobis": (relative, gaussian + 2 * width * (width + 1)),
        "10th neighbour of all": (neighbours(train, 10), 2 * train.size),
        "10th neighbour of 200": (neighbours(train[few], 10), 2 * 200 * width),
        "nearest class mean, cosine": (
            lambda features, _: -(unit(features) @ directions.T).max(1), 2 * directions.size,
        ),
        "virtual logit (ours)": (
            lambda features, found: ours.distance(
                features.astype(np.float32), found.astype(np.float32)
            ), 2 * ours.directions.size,
        ),
    }  # fmt: skip


def figures(known: Float, other: Float) -> tuple[float, float]:
    """AUROC and FPR95."""
    return auroc(known, other), float((other <= np.quantile(known, 0.95)).mean())


def pairs(options: argparse.Namespace, work: Path) -> Iterator[tuple[str, Rows, list[Path]]]:
    """Name, known photos and others."""
    data = options.data.resolve()
    names = sorted(path.name for path in (data / "val").iterdir())
    chosen = random.Random(0)

    def some(known: list[str], count: int) -> Rows:
        rows = [(p, name, "val") for name in known for p in photos_of(data, "val", name)]
        picked = ((chosen.sample(photos_of(data, "train", name), count), name) for name in known)
        return rows + [(photo, name, "train") for photos, name in picked for photo in photos]

    def others(known: list[str]) -> list[Path]:
        every = [photo for name in known for photo in photos_of(data, "val", name)]
        return chosen.sample(every, min(OTHERS, len(every)))

    animals = [name for name in names if name.startswith(ANIMALS)]
    digits = write_digits(work / "digits", range(10), 100)
    rows = [(photo, name, side) for side in ("train", "val") for name in map(str, range(10))
            for photo in photos_of(digits, side, name)]  # fmt: skip
    yield "digits", rows, others(names)
    yield "20 of Tiny", some(names[::10], 200), others(names[5::10])
    food = [name for name in names if name.startswith(FOOD)]
    yield "food", some(food, 200), others(animals)
    if options.clothing is None:
        yield "clothing", some([name for name in names if name in CLOTHES], 200), others(animals)
        return
    known = [(photo, photo.parent.name, side)
             for folder, side in (("train", "train"), ("validation", "val"), ("test", "val"))
             for photo in sorted((options.clothing / folder).rglob("*.jpg"))]  # fmt: skip
    every = sorted(path for path in options.animals.rglob("*") if path.is_file())
    yield "clothing", known, chosen.sample(every, min(OTHERS, len(every)))


def measured(name: str, how: str, rows: Rows, others: list[Path], work: Path) -> dict[str, Float]:
    """Features of all sides, computed once, and the classifier's weights."""
    cache = work / f"{name}-{how}.npz"
    if not cache.exists():
        manifest = write_manifest(work / f"{name}.csv", rows)
        mirror = ["--hflip", "0"] if name == "digits" else []
        path = work / "finetune" / f"{name}-{how}" / "weights" / "best.safetensors"
        if not path.exists():
            top1, seconds = best_top1(
                work, "finetune", f"{name}-{how}", manifest, "--model", "demo", *RUNS[how], *mirror
            )
            print(f"{name}, {how}: top-1 {top1:.2%}, {seconds:.0f} s", flush=True)
        best = Classifier(path)
        arrays = best.model.arrays()
        found = {"weight": arrays["fc.weight"], "bias": arrays["fc.bias"]}
        for side in ("train", "val", "other"):
            known = [(p, label) for p, label, where in rows if where == side]
            asked = known or [(photo, "") for photo in others]
            answers = list(best.features(photo for photo, _ in asked))
            good = [not isinstance(answer, ImageError) for answer in answers]
            found[side] = np.stack([row for row, fine in zip(answers, good, strict=True) if fine])
            if side == "train":
                labels = [label for (_, label), fine in zip(known, good, strict=True) if fine]
                places = [best.class_names.index(label) for label in labels]
                found["labels"] = np.array(places)
        np.savez(cache, **found)
    with np.load(cache) as file:
        return {key: file[key] for key in file.files}


def main() -> None:
    """Measures and prints everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--clothing", type=Path)
    parser.add_argument("--animals", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        table = dict[str, list[tuple[float, float]]]()
        weights, titles = dict[str, int](), list[str]()
        for name, rows, others in pairs(options, work):
            for how in RUNS:
                arrays = measured(name, how, rows, others, work)
                labels = arrays.pop("labels").astype(np.int64)
                weight, bias = arrays.pop("weight"), arrays.pop("bias")
                both = {
                    side: (one.astype(np.float64), (one @ weight.T + bias).astype(np.float64))
                    for side, one in arrays.items()
                }
                train, logits = both["train"]
                for title, (score, size) in scores(train, labels, logits, both["val"]).items():
                    found = figures(score(*both["val"]), score(*both["other"]))
                    table.setdefault(title, []).append(found)
                    weights[title] = max(size, weights.get(title, 0))
                titles.append(f"{name}, {how}")
    print(f"\n{'AUROC / FPR95, %':<28}" + "".join(f"{title:>20}" for title in titles)
          + f"{'mean':>16}{'kB':>8}")  # fmt: skip
    for title, found in table.items():
        cells = "".join(f"{f'{100 * a:.1f} / {100 * f:.0f}':>20}" for a, f in found)
        mean = "{:.1f} / {:.1f}".format(*(100 * np.mean(found, axis=0)))
        print(f"{title:<28}{cells}{mean:>16}{weights[title] / 1000:>8,.0f}")


if __name__ == "__main__":
    main()
