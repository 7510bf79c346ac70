"""How well photos of something else are found: AUROC and FPR95 of seven scores, on four pairs.

    python -m tests.benchmarks.unknown TINY-IMAGENET [--work DIR] [--clothing DIR --animals DIR]

Pairs of known and other photos: scikit-learn's digits and Tiny ImageNet; 20 classes of Tiny
ImageNet and 20 others; its food and its animals; its clothing and its animals (with --clothing and
--animals folders of class folders of larger photos, too). `resnest14t` learns the known classes, once
with a frozen backbone and once whole; then each score ranks validation photos of the known classes
and as many others. AUROC is the chance that another photo has the higher score (50 % is a guess),
FPR95 the share of others that are missed where 95 % of them ... of the known are let pass.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnest_cli.inference.classifier import Classifier
from tests.benchmarks.digits import write_digits
from tests.benchmarks.runs import best_top1
from tests.benchmarks.transfer import photos_of, write_manifest

Float = NDArray[np.float64]
RUNS = {
    "frozen": ["--freeze", "backbone"],
    "whole": ["--freeze", "none", "--recipe", "quick", "--lr", "0.02", "--epochs", "6", "-b", "32"],
}
OTHERS = 1000


def whitened(train: Float, labels: NDArray[np.int64], rank: int | None, shrink: float = 0.0):
    classes = np.unique(labels)
    means = np.stack([train[labels == c].mean(0) for c in classes])
    rest = train - means[np.searchsorted(classes, labels)]
    cov = rest.T @ rest / max(1, len(rest) - len(classes))
    values, vectors = np.linalg.eigh(cov)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    d = len(values)
    if rank is None:
        floor = shrink * values.mean() if shrink else 1e-6 * values.mean()
        values = (1 - shrink) * values + floor
        w = vectors / np.sqrt(values)
        return lambda x: (x @ w)[:, None] - (means @ w)[None]
    rest_value = max(values[rank:].mean(), 1e-9)
    u, s = vectors[:, :rank], values[:rank]

    def f(x):
        diff = x[:, None] - means[None]
        p = diff @ u
        first = np.square(p / np.sqrt(s)).sum(-1)
        second = (np.square(diff).sum(-1) - np.square(p).sum(-1)) / rest_value
        return first + second

    return f


def squared(z, means):
    return np.maximum((z**2).sum(1)[:, None] + (means**2).sum(1)[None] - 2 * z @ means.T, 0)


def scores(train, labels, logits_of, sets):
    """name -> scores of each set."""
    found = {}
    x = {k: v[0].astype(np.float64) for k, v in sets.items()}
    lg = {k: v[1].astype(np.float64) for k, v in sets.items()}
    train = train.astype(np.float64)

    def put(name, f):
        found[name] = {k: f(k) for k in sets}

    def prob(k):
        z = lg[k] - lg[k].max(1, keepdims=True)
        e = np.exp(z)
        return -(e.max(1) / e.sum(1))

    put("probability", prob)
    put("largest logit", lambda k: -lg[k].max(1))
    put(
        "energy",
        lambda k: -(lg[k].max(1) + np.log(np.exp(lg[k] - lg[k].max(1, keepdims=True)).sum(1))),
    )
    classes = np.unique(labels)

    def gaussian(t, rank, shrink):
        means = np.stack([t[labels == c].mean(0) for c in classes])
        rest = t - means[np.searchsorted(classes, labels)]
        return means, *decomposed(rest, rank, shrink)

    def decomposed(rest, rank, shrink):
        cov = rest.T @ rest / len(rest)
        values, vectors = np.linalg.eigh(cov)
        values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
        if rank is None:
            values = (1 - shrink) * values + shrink * values.mean()
            return vectors / np.sqrt(values), 0.0
        rank = min(rank, len(rest) // 2, len(values) - 1)
        left = max(values[rank:].mean(), 1e-9)
        # x^T (U (1/s - 1/left) U^T + I / left) x
        return vectors[:, :rank] * np.sqrt(np.maximum(1 / left - 1 / values[:rank], 0)), 1 / left

    def dist(x, means, w, inv):
        if inv == 0.0:
            return squared(x @ w, means @ w)
        return np.maximum(inv * squared(x, means) - squared(x @ w, means @ w), 0)

    norm = lambda v: v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
    for title, tr in (("", lambda v: v), ("norm ", norm)):
        t = tr(train)
        back = t.mean(0, keepdims=True)
        for name, rank, shrink in (
            ("full", None, 1e-6),
            ("shrunk .01", None, 0.01),
            ("shrunk .1", None, 0.1),
            ("rank 16", 16, 0),
            ("rank 64", 64, 0),
            ("rank 256", 256, 0),
        ):
            means, w, inv = gaussian(t, rank, shrink)
            put(f"{title}maha {name}", lambda k: dist(tr(x[k]), means, w, inv).min(1))
            w0, inv0 = decomposed(t - back, rank, shrink)
            put(
                f"{title}relative {name}",
                lambda k: (
                    dist(tr(x[k]), means, w, inv).min(1) - dist(tr(x[k]), back, w0, inv0)[:, 0]
                ),
            )
    t = norm(train)
    rng = np.random.default_rng(0)
    for most in (10**9, 1000, 200):
        sub = t[rng.permutation(len(t))[:most]]
        for k_ in (1, 10):
            put(f"knn {k_} of {len(sub)}", lambda k: -np.sort(norm(x[k]) @ sub.T, axis=1)[:, -k_])
    # kNN on centred features
    put(
        "class mean cosine",
        lambda k: (
            -(norm(x[k]) @ norm(np.stack([t[labels == c].mean(0) for c in classes])).T).max(1)
        ),
    )
    return found


def figures(known, other):
    both = np.concatenate([known, other])
    order = np.argsort(both, kind="stable")
    ranks = np.empty(len(both))
    ranks[order] = np.arange(1, len(both) + 1)
    # ties
    u, inv, cnt = np.unique(both, return_inverse=True, return_counts=True)
    mean = np.bincount(inv, ranks) / cnt
    ranks = mean[inv]
    n, m = len(known), len(other)
    auroc = (ranks[n:].sum() - m * (m + 1) / 2) / (n * m)
    fpr95 = (other <= np.quantile(known, 0.95)).mean()
    return auroc, fpr95


def names_with(data, *starts):
    return [p.name for p in sorted((data / "val").iterdir()) if p.name.startswith(starts)]


CLOTHES = "n02669723 n02730930 n02837789 n02883205 n02963159 n03404251 n03617480 n03763968 n03770439 n03980874 n04133789 n04254777 n04259630 n04371430".split()


def pairs(data, work):
    names = sorted(p.name for p in (data / "val").iterdir())
    chosen = random.Random(0)

    def some(known, other, count):
        rows = [(p, n, "val") for n in known for p in photos_of(data, "val", n)]
        rows += [
            (p, n, "train")
            for n in known
            for p in chosen.sample(photos_of(data, "train", n), count)
        ]
        o = [p for n in other for p in photos_of(data, "val", n)]
        return rows, chosen.sample(o, min(OTHERS, len(o)))

    digits = write_digits(work / "digits", range(10), 100)
    rows = [
        (p, n, s)
        for s in ("train", "val")
        for n in map(str, range(10))
        for p in photos_of(digits, s, n)
    ]
    yield "digits / Tiny", rows, some([], names, 0)[1]
    yield "20 Tiny / 20 other", *some(names[::10], names[5::10], 200)
    animals = names_with(data, "n01", "n020", "n021", "n022", "n023", "n024", "n0250")
    yield (
        "food / animals",
        *some(names_with(data, "n075", "n076", "n077", "n078", "n079"), animals, 200),
    )
    yield "clothing / animals", *some(CLOTHES, animals, 200)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path)
    o = parser.parse_args()
    work = o.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    data = o.data.resolve()
    table = {}
    for pair, rows, others in pairs(data, work):
        slug = pair.replace(" ", "").replace("/", "-")
        manifest = write_manifest(work / f"{slug}.csv", rows)
        for how, args in RUNS.items():
            run = work / "finetune" / f"{slug}-{how}"
            if not (run / "weights/best.safetensors").exists():
                top1, seconds = best_top1(
                    work,
                    "finetune",
                    f"{slug}-{how}",
                    manifest,
                    "--model",
                    "demo",
                    *args,
                    "--hflip",
                    "0" if "digits" in pair else "0.5",
                )
                print(pair, how, f"top-1 {top1:.2%} {seconds:.0f} s", file=sys.stderr, flush=True)
            cache = work / f"{slug}-{how}.npz"
            if not cache.exists():
                c = Classifier(run / "weights/best.safetensors")
                fc = c.model.arrays()
                w, b = fc["fc.weight"], fc["fc.bias"]
                names = list(c.class_names)
                arr = {}
                for side in ("train", "val"):
                    ps = [(p, n) for p, n, s in rows if s == side]
                    arr[side] = np.stack(list(c.features(iter([p for p, _ in ps]))))
                    arr[side + "_labels"] = np.array([names.index(n) for _, n in ps])
                arr["other"] = np.stack(list(c.features(iter(others))))
                np.savez(cache, **arr, w=w, b=b)
            z = np.load(cache)
            lo = lambda f: f @ z["w"].T + z["b"]
            found = scores(
                z["train"], z["train_labels"], lo, {k: (z[k], lo(z[k])) for k in ("val", "other")}
            )
            for name, s in found.items():
                table.setdefault(name.replace(str(len(z["train"])), "all"), []).append(
                    figures(s["val"], s["other"])
                )
            print(pair, how, "done", file=sys.stderr, flush=True)
    for name, row in table.items():
        print(
            f"{name:<24}"
            + " ".join(f"{a:6.1%}/{f:4.0%}" for a, f in row)
            + f"   mean {np.mean([a for a, _ in row]):.2%}/{np.mean([f for _, f in row]):.1%}"
        )


main()
